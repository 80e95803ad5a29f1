"""Checks of an HTML page that is to be whole and to fetch nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = ("meta", "img", "br", "input")


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_whole(html: str) -> None:
    """Every element that must be closed is, in order, and nothing comes from elsewhere."""
    parser = _Balanced()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)
