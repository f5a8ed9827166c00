"""A report as it is written, and what a reader sees of it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from ea_jax.exam import report


class Seen(HTMLParser):
    """Texts, tags and attributes of a page; elements that are never closed."""

    VOID = ("meta", "link", "img", "path", "use")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(*folders: Path, out: Path) -> str:
    return report.report(folders, out / "report.html").read_text()
