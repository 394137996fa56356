"""What a comparison shows in the terminal while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Bars", "bars"]


class Bars:
    """Two bars on standard error: all fits, and the epochs of the one under way.

    Args:
        shown: what draws them.
        fits: models to train.
        epochs: most passes of each.
    """

    def __init__(self, shown: rich.progress.Progress, fits: int, epochs: int) -> None:
        self._bars = shown
        self._fits = shown.add_task("models trained", total=fits)
        self._epochs = shown.add_task("epochs", total=epochs)

    def watch(self, label: str) -> Callable[[int, float, float], None]:
        """What `fit` calls after every epoch."""
        self._bars.update(self._epochs, description=label, completed=0)
        return lambda epoch, *_: self._bars.update(self._epochs, completed=epoch)

    def finished(self, fits: int = 1) -> None:
        """So many fits more are done."""
        self._bars.advance(self._fits, fits)

    def waiting(self, label: str) -> None:
        """What is left is being done by another process."""
        self._bars.update(self._epochs, description=f"waiting for another process: {label}", completed=0)


@contextmanager
def bars(fits: int, epochs: int, shown: bool) -> Iterator[Bars]:
    """Bars that vanish at the end; invisible ones where they are not wanted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as drawn:
        yield Bars(drawn, fits, epochs)
