"""Answers of a language model as HTML that is safe under the pages' content security policy.

Markdown is parsed without raw HTML, and the result is cleaned again by a sanitizer with a short list of tags. No
script, style, image, form, frame, identifier or relative link can remain. An image becomes a link to it, and
definitions of links stay visible as text.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

from everlearn.errors import MissingExtra

LONGEST = 32_000  # characters that are parsed as Markdown; a longer text is shown as it is
SHOWN = 200_000  # characters of a longer text that are shown
DEEPEST = 20  # levels of lists and quotes; a deeper text is shown as it is

_BLOCKS = "blockquote h1 h2 h3 h4 h5 h6 hr li ol p pre table tbody td th thead tr ul"
TAGS = frozenset(f"a br code del em s strong {_BLOCKS}".split())
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "ol": {"start"}}
SCHEMES = frozenset({"http", "https", "mailto"})
REL = "noopener noreferrer nofollow ugc"

_ABSOLUTE = re.compile(r"(?:https?://[^/\\?#]|mailto:[^/])", re.I)  # "https:page" is a relative link
_LANGUAGE = re.compile(r"language-[A-Za-z0-9_+#.-]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def rendered(markdown: str) -> str:
    """Return Markdown (CommonMark, tables and strikethrough) as safe HTML.

    Links open in a new tab, pass no referrer, and lead to absolute addresses of http, https or mailto; others stay
    text. Code blocks keep the class of their language. Texts of more than 32,000 characters, or nested deeper than 20
    levels, are shown as they are in <pre>, of which 200,000 characters are kept. Raises `MissingExtra` where
    `markdown-it-py` or `nh3` is not installed.

    >>> rendered("**Sorry!** <script>alert(1)</script>")
    '<p><strong>Sorry!</strong> &lt;script&gt;alert(1)&lt;/script&gt;</p>\\n'
    """
    parser, cleaner = _parts()
    if len(markdown) > LONGEST:
        return _as_it_is(markdown)
    try:
        tokens = parser.parse(markdown)
    except RecursionError:
        return _as_it_is(markdown)
    if any(token.level >= DEEPEST for token in tokens):  # the parser drops the deeper levels
        return _as_it_is(markdown)
    return str(cleaner.clean(parser.renderer.render(tokens, parser.options, {})))


def _as_it_is(text: str) -> str:
    more = len(text) - SHOWN
    note = f"\n<p>{more:,} more characters are not shown.</p>" if more > 0 else ""
    return f"<pre>{escape(text[:SHOWN])}</pre>{note}"


@cache
def _parts() -> tuple[Any, Any]:
    """Return the parser and the sanitizer."""
    try:
        import nh3
        from markdown_it import MarkdownIt
    except ModuleNotFoundError as error:
        raise MissingExtra("the rendering of answers", "llm") from error
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": DEEPEST + 2})
    parser.validateLink = lambda url: _ABSOLUTE.match(url) is not None  # type: ignore[method-assign]
    parser.enable(["table", "strikethrough"]).disable(["image", "reference", "html_block", "html_inline"])
    cleaner = nh3.Cleaner(
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        attribute_filter=_kept,
        link_rel=REL,
        set_tag_attribute_values={"a": {"target": "_blank"}},
        url_schemes=set(SCHEMES),
    )
    return parser, cleaner


def _kept(tag: str, attribute: str, value: str) -> str | None:
    """Return the value of an attribute; None removes it."""
    if attribute == "class":
        return value if _LANGUAGE.fullmatch(value) else None
    if attribute == "href":
        return value if _ABSOLUTE.match(value) else None
    if attribute == "start":
        return value if _NUMBER.fullmatch(value) else None
    return value
