"""Trees of sanitised HTML hold the allowed elements only, and all of the text."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest

from everlearn.app.generator.page_tree import tree
from everlearn.app.generator.rendering import ATTRIBUTES, TAGS, rendered

MARKDOWN = """# Title

A *soft* **hard** ~~old~~ [link](https://example.org "there") and `<b>`.

3. three
4. four

> quoted\\
> line

| a | b |
|---|---|
| 1 | 2 |

```python
x < 1 & y
```

---
"""


def walked(nodes: list[Any]) -> tuple[list[tuple[str, dict[str, str]]], str]:
    """Return the elements in order with their attributes, and the whole text."""
    elements, text = [], ""
    for node in nodes:
        if isinstance(node, str):
            text += node
            continue
        name, attributes, children = node
        inner, more = walked(children)
        elements += [(name, attributes), *inner]
        text += more
    return elements, text


def test_every_kind_of_markup_becomes_its_element() -> None:
    elements, text = walked(tree(rendered(MARKDOWN)))
    assert {name for name, _ in elements} == TAGS - {"del", "h2", "h3", "h4", "h5", "h6", "ul"}
    assert [found for name, found in elements if name == "a"] == [{"href": "https://example.org", "title": "there"}]
    assert [found for name, found in elements if name == "ol"] == [{"start": "3"}]
    assert [found["class"] for name, found in elements if name == "code" and found] == ["language-python"]
    assert "x < 1 & y" in text
    assert "<b>" in text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a < b && c",
        "&lt;b&gt;",
        "x" * 40_000,
        "> " * 60 + "x",
    ],
)
def test_markup_in_a_text_stays_text(text: str) -> None:
    elements, found = walked(tree(rendered(text)))
    assert {name for name, _ in elements} <= {"p", "pre"}
    assert unescape(found.strip()) == unescape(text.strip())


def test_what_is_not_allowed_leaves_its_text() -> None:
    """The second lock: HTML that no sanitizer has seen becomes nothing but the allowed elements either."""
    hostile = '<div onclick="a()"><p style="x" id="y">one<script>two</script><br/></p></em>three'
    hostile += '<a href="u" onfocus="b()">four'
    elements, text = walked(tree(hostile))
    assert text == "onetwothreefour"
    assert elements == [("p", {}), ("br", {}), ("a", {"href": "u"})]
    assert all(name in ATTRIBUTES.get(tag, ()) for tag, found in elements for name in found)
