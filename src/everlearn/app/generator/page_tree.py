"""Sanitised HTML as a tree of nodes in JSON, from which a page builds elements without ever reading markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from everlearn.app.generator.rendering import ATTRIBUTES, TAGS

_EMPTY = frozenset({"br", "hr"})


def tree(html: str) -> list[Any]:
    """Return the HTML of `rendering.rendered` as nodes: a text is a string, an element [name, attributes, children].

    Only elements of `TAGS` and attributes of `ATTRIBUTES` are kept; of any other element, its content. Links have an
    address alone: the page decides how they open.

    >>> tree('<p>Be <em>kind</em> &amp; short</p>')
    [['p', {}, ['Be ', ['em', {}, ['kind']], ' & short']]]
    """
    grown = _Growing()
    grown.feed(html)
    grown.close()
    return grown.roots


class _Growing(HTMLParser):
    """Builds the tree while the HTML is read; `open` holds the elements that are not closed yet."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.roots: list[Any] = []
        self._open: list[list[Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            return
        allowed = ATTRIBUTES.get(tag, set())
        element: list[Any] = [tag, {name: value for name, value in attrs if name in allowed and value}, []]
        self._children.append(element)
        if tag not in _EMPTY:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        places = [place for place, element in enumerate(self._open) if element[0] == tag]
        if places:
            del self._open[places[-1] :]

    def handle_data(self, data: str) -> None:
        children = self._children
        if children and isinstance(children[-1], str):
            children[-1] += data
        else:
            children.append(data)

    @property
    def _children(self) -> list[Any]:
        found: list[Any] = self._open[-1][2] if self._open else self.roots
        return found
