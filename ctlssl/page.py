"""Pages that stand alone: one HTML file, no script, nothing loaded from elsewhere, every text escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Markup", "bars", "page", "picture", "section", "table", "words"]

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 52rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; display: block; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; white-space: nowrap; }
td { max-width: 22rem; }
.bar { background: #4c72b0; height: .8rem; min-width: 1px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
td.wide { width: 40%; min-width: 5rem; }
@media print { body { max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""


@dataclass(frozen=True)
class Markup:
    """A piece of a page whose texts have been escaped; only the functions of this module make one.

    Args:
        text: HTML.
    """

    text: str


def words(text: str) -> Markup:
    """A paragraph.

    Example:
        >>> words("a < b").text
        '<p>a &lt; b</p>'
    """
    return Markup(f"<p>{html.escape(text)}</p>")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table, which scrolls by itself where a screen is narrow; numbers are aligned to the right.

    Args:
        header: names of the columns.
        rows: cells; numbers are written with four digits.
    """
    right = [bool(rows) and all(isinstance(row[k], int | float) for row in rows) for k in range(len(header))]
    classes = [' class="number"' if number else "" for number in right]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(classes, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(item)}</td>" for kind, item in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return Markup(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def bars(name: str, what: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """A table with a bar for each row.

    Args:
        name: of the first column.
        what: the bars show.
        rows: (name, share from 0 to 1, its number in words).
    """
    head = f'<th>{html.escape(name)}</th><th class="number">{html.escape(what)}</th><th></th>'
    body = "".join(
        f'<tr><td>{html.escape(label)}</td><td class="number">{html.escape(number)}</td>'
        f'<td class="wide"><div class="bar" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></div></td></tr>'
        for label, share, number in rows
    )
    return Markup(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def picture(figure: Figure, caption: str) -> Markup:
    """A figure, as a drawing inside of the page.

    Args:
        figure: of matplotlib; what comes from files belongs into the caption, not into its texts, which are read as
            formulas and drawn in a font that does not have every letter.
        caption: what it shows, also for those who do not see it.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(drawn.getvalue()).decode("ascii")
    told = html.escape(caption)
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{told}">'
    return Markup(f"<figure>{image}<figcaption>{told}</figcaption></figure>")


def section(title: str, *parts: Markup) -> Markup:
    """A heading and what stands below it."""
    return Markup(f"<section><h2>{html.escape(title)}</h2>{''.join(part.text for part in parts)}</section>")


def page(title: str, *parts: Markup) -> str:
    """A whole page.

    Args:
        title: its heading.
        parts: what stands below.

    Example:
        >>> page("<b>", words("one")).count("<b>")
        0
    """
    told = html.escape(title)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{told}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{told}</h1>{''.join(part.text for part in parts)}</body></html>\n"
    )


def _cell(item: object) -> str:
    return f"{item:.4g}" if isinstance(item, float) else html.escape(str(item))
