"""What every page must pass: well-formed, alone, without a script, with every picture there; in a browser too."""

import base64
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "link", "input"}
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def check_page(path, pictures):
    """Read a page as a browser would, and by one if there is one on this machine; gives back its text."""
    content = path.read_text(encoding="utf8")
    reader = _Reader()
    reader.feed(content)
    reader.close()
    assert not reader.open and content.startswith("<!DOCTYPE html>")
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(reader.tags)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    drawn = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    assert len(drawn) == pictures
    for source in drawn:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        root = ElementTree.fromstring(base64.b64decode(data))
        assert root.tag.endswith("}svg") and not [item for item in root.iter() if item.tag.endswith("}script")]
    links = [value for _, name, value in reader.attributes if name in ("href", "src") and not value.startswith("data:")]
    assert not links and "url(" not in content and "@import" not in content
    assert ("meta", "name", "viewport") in reader.attributes and "@media print" in content
    _check_in_browser(path, pictures)
    return " ".join(reader.text)


def _check_in_browser(path, pictures):
    """No line in the console, every picture decoded, nothing wider than a phone, in a headless Chromium."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return
    probe = path.with_name("probe.html")
    look = (
        "<script>onload = () => { const all = [...document.images]; document.title = JSON.stringify("
        "[all.filter(i => i.complete && i.naturalWidth > 50).length, document.documentElement.scrollWidth]); }</script>"
    )
    content = path.read_text(encoding="utf8")
    policy = content.index("<meta http-equiv")  # the probe is a script, which the policy of the page forbids
    probe.write_text(content[:policy] + look + content[content.index(">", policy) + 1 :], encoding="utf8")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=390,800",
        "--virtual-time-budget=3000",
        "--enable-logging=stderr",
    ]
    asked = [browser, *flags, "--dump-dom", probe.as_uri()]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    told = done.stdout.split("<title>", 1)[1].split("</title>")[0]
    whole = subprocess.run([*asked[:-1], path.as_uri()], capture_output=True, text=True, timeout=120)
    for stderr in (done.stderr, whole.stderr):
        assert "CONSOLE" not in stderr, [line for line in stderr.splitlines() if "CONSOLE" in line]
    decoded, width = json.loads(told)
    assert decoded == pictures and width <= 500, told  # a headless window is at least 500 wide
    probe.unlink()
