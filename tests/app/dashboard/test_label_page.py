"""The page for annotators in a real Chromium, on a real server with a tiny language model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from everlearn.app import dashboard
from everlearn.app.generator.rendering import ATTRIBUTES, TAGS
from everlearn.app.supervisor import Server
from everlearn.events import SqliteLog
from everlearn.records import Preference
from everlearn.spec import ServeSpec
from tests.support.browser import CONTRAST, Page, chromium, in_chromium
from tests.support.preference_loops import MODEL, settings

__all__ = ["chromium"]

HOSTILE = "<img src=x onerror=a()> [go](javascript:b()) **bold** `<b>`"
PROMPTS = ("hello *there*", HOSTILE, "how are you", "- one\n- two\n\n```python\nprint(1)\n```")
SCHEMA = {"label": "chosen", "task": "preference", "fields": {"prompt": "text"}, "vocabulary": 300}
LIMITS = {"prompt_tokens": 80, "answer_tokens": 12}
SHORT = MODEL | {"improve": {"steps": 2, "limit": 12}}  # prompt and answer fit in the 96 tokens of the model
READY = "return document.querySelector('.answers .text') && !document.querySelector('.bone')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("judging")
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in PROMPTS))
    spec = settings(model=SHORT, schema=SCHEMA | LIMITS, prompts=str(folder / "prompts.jsonl"))
    with Server(msgspec.structs.replace(spec, serve=ServeSpec(port=0)), folder / "home") as running:
        yield running


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Page]:
    opened = Page(chromium, server.url)
    opened.emulate()
    yield opened
    assert opened.errors() == []


def enter(page: Page, name: str) -> None:
    """Open the page as an annotator, and wait for a pair."""
    page.browser.get(f"{page.url}/label")
    page.run("localStorage.setItem('everlearn-annotator', arguments[0])", name)
    page.browser.get(f"{page.url}/label")
    ready(page)


def ready(page: Page) -> None:
    page.until(
        lambda: page.run("return document.querySelector('.answers .text') && !document.querySelector('.bone')"), 60
    )


def judge(page: Page, key: str) -> None:
    """Press a key, and wait until it is counted or, for a skip, until the pair is another one."""
    before = page.text("#announcer")
    page.press(key)
    page.until(lambda: page.text("#announcer") != before)
    ready(page)


def given(server: Server, name: str) -> list[Preference]:
    log = SqliteLog(Path(server.home) / "log.sqlite", tidy=False)
    events = [event.payload for event in log.read(0, 10_000)]
    log.close()
    return [one for one in events if isinstance(one, Preference) and one.source == f"people/{name}"]


def held(page: Page, name: str, after: str = "") -> dict[str, Any]:
    """Return the pair on the screen of an annotator, or the one that follows it."""
    parameters = {"annotator": name} | ({"after": after} if after else {})
    reply = httpx.get(f"{page.url}/label/next", params=parameters, timeout=60)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


# ---- the files ---------------------------------------------------------------------------------------------------


def test_the_page_builds_exactly_the_elements_that_the_server_allows():
    script = dashboard.files()["tree.js"].content.decode()
    found = re.search(r'new Set\("([a-z0-9 ]+)"', script)
    assert found is not None
    assert set(found[1].split()) == TAGS
    assert {name for names in ATTRIBUTES.values() for name in names} == {"href", "title", "class", "start"}


# ---- judging -----------------------------------------------------------------------------------------------------


@in_chromium
def test_the_name_is_asked_once(page):
    page.browser.get(f"{page.url}/label")
    page.run("localStorage.clear()")
    page.browser.get(f"{page.url}/label")
    page.until(lambda: page.text("h1") == "Judge answers")
    assert page.run("return document.activeElement.name") == "annotator"
    page.press("anna", "\ue007")
    ready(page)
    assert page.text("h1") == "Which answer is better?"
    page.browser.get(f"{page.url}/label")
    ready(page)
    assert page.text("#person") == "Annotator: anna"


@in_chromium
def test_keys_judge_and_the_next_pair_is_there(page, server):
    enter(page, "keys")
    pairs = []
    for key in "123":
        pairs.append(held(page, "keys"))
        judge(page, key)
    sides = [{"left": int(pair["swapped"]), "right": int(not pair["swapped"])} for pair in pairs]
    logged = given(server, "keys")
    assert [one.id for one in logged] == [pair["id"] for pair in pairs]
    assert [one.chosen for one in logged] == [sides[0]["left"], sides[1]["right"], -1]
    assert [one.verdict for one in logged] == ["choice", "choice", "tie"]
    assert all(0 < one.seconds < 60 for one in logged)
    assert len({one["id"] for one in pairs}) == 3
    page.until(lambda: page.text("[data-fact=judged] dd") == "3")
    on_screen = held(page, "keys")
    following = held(page, "keys", on_screen["id"])
    assert following["id"] not in {on_screen["id"], *(one["id"] for one in pairs)}
    assert held(page, "keys", on_screen["id"])["id"] == following["id"]
    judge(page, "3")
    assert held(page, "keys")["id"] == following["id"]


@in_chromium
def test_buttons_do_the_same_and_nothing_moves(page, server):
    enter(page, "buttons")
    place = """return [...document.querySelectorAll('.card, .verdicts')]
        .map((one) => Math.round(one.getBoundingClientRect().top))"""
    before = page.run(place)
    for what in ("left", "right", "tie", "skip"):
        heard = page.text("#announcer")
        page.find(f"[data-verdict={what}]").click()
        page.until(lambda heard=heard: page.text("#announcer") != heard)
        ready(page)
        assert page.run(place) == before
        assert page.run("return document.activeElement.dataset.verdict") == what
    assert [one.verdict for one in given(server, "buttons")] == ["choice", "choice", "tie", "skip"]


@in_chromium
def test_undo_shows_the_pair_again_and_corrects_it(page, server):
    enter(page, "undo")
    first = held(page, "undo")
    judge(page, "1")
    second = held(page, "undo")
    page.press("u")
    page.until(lambda: page.text(".reason .chip") == "Judged before")
    assert held(page, "undo")["id"] == first["id"]
    page.press("2")
    page.until(lambda: len(given(server, "undo")) == 2)
    ready(page)
    one, other = given(server, "undo")
    assert (one.id, one.chosen) == (other.id, 1 - other.chosen)
    assert held(page, "undo")["id"] == second["id"]
    assert page.text(".reason .chip") != "Judged before"


@in_chromium
def test_two_annotators_see_different_pairs(page):
    enter(page, "twin-a")
    enter(page, "twin-b")
    seen = []
    for name in ("twin-a", "twin-b"):
        pair = held(page, name)
        seen += [pair["id"], held(page, name, pair["id"])["id"]]
    assert len(set(seen)) == 4


@in_chromium
def test_everything_is_undone_after_a_question(page, server):
    enter(page, "gone")
    judge(page, "1")
    page.find(".undoing button").click()
    assert page.text("dialog h2") == "Undo all judgements of gone?"
    page.press("1", "u")  # keys judge nothing behind the dialog
    page.find("dialog button:not(.main)").click()
    assert len(given(server, "gone")) == 1
    page.find(".undoing button").click()
    page.find("dialog button.main").click()
    page.until(lambda: page.text(".undoing .note") == "All judgements of gone are being undone.")
    assert page.text("[data-fact=judged] dd") == "0"
    with server.client() as client:
        page.until(lambda: any(one.action == "rollback" for one in client.decisions()), 60)


# ---- what is shown -----------------------------------------------------------------------------------------------


@in_chromium
def test_markup_is_shown_and_never_runs(page):
    enter(page, "markup")
    for _ in range(30):
        if page.text(".prompt .text").startswith("<img"):
            break
        judge(page, "s")
    shown = page.text(".prompt .text").strip()
    assert shown == "<img src=x onerror=a()> [go](javascript:b()) bold <b>"
    assert page.run("return [...document.querySelectorAll('.prompt .text *')].map((one) => one.localName)") == [
        "p", "strong", "code",
    ]  # fmt: skip


@in_chromium
def test_a_tree_from_elsewhere_becomes_nothing_but_safe_elements(page):
    """The page checks names and addresses itself, whatever the server sends."""
    enter(page, "tree")
    hostile = [
        ["script", {}, ["alert(1)"]],
        [
            "p",
            {"onclick": "alert(2)", "style": "color:red", "class": "card"},
            [["a", {"href": "javascript:alert(3)"}, ["go"]]],
        ],
        ["a", {"href": "https://example.org/x", "target": "_self"}, ["there"]],
        ["h1", {}, ["Title"]],
    ]
    found = page.browser.execute_async_script(
        """const [nodes, done] = arguments;
        import(new URL('static/tree.js', location.href)).then(({grown}) => {
          const box = document.createElement('div');
          box.append(...grown(nodes));
          const named = (one) => Object.fromEntries([...one.attributes].map((each) => [each.name, each.value]));
          done([...box.querySelectorAll('*')].map((one) => [one.localName, named(one)]));
        });""",
        hostile,
    )
    link = {"href": "https://example.org/x", "target": "_blank", "rel": "noopener noreferrer nofollow ugc"}
    assert found == [["p", {}], ["a", {}], ["a", link], ["h3", {}]]


@in_chromium
def test_the_first_version_answers_beside_the_present_one(page):
    enter(page, "versions")
    page.find(".first summary").click()
    there = "return document.querySelectorAll('.versions .text').length == 2 && !document.querySelector('.bone')"
    page.until(lambda: page.run(there), 60)
    assert [page.text(f".versions > div:nth-child({n}) h3")[:15].strip() for n in (1, 2)] == [
        "First version",
        "Present version",
    ]


@in_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_everything_has_a_name(page, scheme):
    page.emulate(scheme=scheme)
    enter(page, "contrast")
    found = page.run(CONTRAST)
    assert len(found) > 12
    assert found[0][0] >= 4.5, found[:5]
    unnamed = """return [...document.querySelectorAll('button, a, input, summary, [tabindex="0"]')]
        .filter((one) => !one.textContent.trim() && !one.ariaLabel && !one.hasAttribute('aria-labelledby'))
        .map((one) => one.outerHTML)"""
    assert page.run(unnamed) == []
    assert page.browser.title == "Judge answers · Everlearn"


@in_chromium
def test_a_phone_shows_both_answers_and_all_buttons_without_scrolling(page):
    page.emulate(360, 740)
    enter(page, "phone")
    wide, there = page.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= there <= 360
    boxes = page.run("""return [...document.querySelectorAll('.answers .card, .verdicts button')].map((one) => {
        const {top, bottom, left} = one.getBoundingClientRect(); return [left, top, bottom]; })""")
    assert boxes[0][0] == boxes[1][0]
    assert boxes[1][1] >= boxes[0][2]
    assert all(bottom <= 740 for _, _, bottom in boxes)


# ---- the overview ------------------------------------------------------------------------------------------------


@in_chromium
def test_the_overview_shows_what_was_learned_of_preferences(page, server):
    enter(page, "overview")
    for key in "12121212":
        judge(page, key)
    page.open()
    page.until(lambda: page.run("return document.querySelector('.preference')?.checkVisibility()"), 60)
    page.until(lambda: int(re.match(r"\d+", page.text(".preference header .soft"))[0]) >= 4, 60)
    page.until(lambda: "nats" in page.text(".preference dl"), 60)
    shown = """return [...document.querySelectorAll('.preference dt')].filter((one) => one.checkVisibility())
        .map((one) => one.firstChild.data)"""
    assert {"KL to the anchor", "Length", "Entropy", "Distinct answers"} <= set(page.run(shown))
    assert page.run("return document.querySelectorAll('.preference tbody tr').length") >= 1
    page.emulate(360, 740)
    wide, there = page.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= there
    page.find(".all").click()  # on a phone the other cards follow on request
    page.find(".preference a[href=label]").click()
    ready(page)
