"""The dashboard in a real Chromium, on a real server that learns during the tests."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import everlearn as el
from everlearn import config
from everlearn.app import dashboard
from everlearn.app.auth import tokens
from everlearn.app.supervisor import Server
from everlearn.spec import ServeSpec, Spec
from tests.support.browser import CONTRAST, Page, chromium, in_chromium

__all__ = ["chromium"]

FOLDER = Path(dashboard.__file__).parent
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in dashboard.MEDIA)
PAGES = {"": "Overview", "versions": "Versions", "decisions": "Decisions", "events": "Events"}
SPEC: dict[str, Any] = {
    "schema": {"label": "y", "task": "binary", "classes": [0, 1], "fields": {"x": "numeric", "z": "numeric"}},
    "model": {"family": "linear"},
    "mode": "gated",
    "gate": {"minimum": 100, "promote": "snapshot"},  # what serves stays apart from what learns, to be merged
}
MARKUP = '<img src="x" onerror="alert(1)"> & <b>bold</b>'


# ---- the files ---------------------------------------------------------------------------------------------------


def test_the_files_are_found_and_small():
    assert {path.name for path in FILES} == set(dashboard.files())
    assert sum(len(file.content) for file in dashboard.files().values()) < 220_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_short_and_loads_nothing_from_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500
    # The names of SVG's elements and of nothing else are an address.
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text.replace("http://www.w3.org/2000/svg", "")) == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".html", ".svg")], ids=lambda path: path.name
)
def test_markup_has_nothing_inline(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_never_read_data_as_markup_or_code(path):
    text = path.read_text(encoding="utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function"
    assert re.findall(forbidden, text) == []
    for name in re.findall(r'from "\./([\w.]+)"', text):
        assert name in dashboard.files()


# ---- a server with traffic, and a browser ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose loop has promoted something, and traffic with labels that come a little later."""
    home = tmp_path_factory.mktemp("dashboard") / "home"
    draw, stop = random.Random(1), threading.Event()

    def row() -> tuple[dict[str, float], int]:
        x, z = draw.gauss(0, 1), draw.gauss(0, 1)
        return {"x": x, "z": z}, int(x + z > 0)

    with el.open(SPEC, home=home) as loop:
        for _ in range(1000):
            loop.learn(*row())
        loop.promote(loop.versions()[0].id, "what the learner has to beat")
        for _ in range(500):
            loop.learn(*row())
        assert "previous" in [name for names in loop.aliases().values() for name in names]

    def use() -> None:
        with running.client() as client:
            waiting: list[tuple[str, int]] = []
            while not stop.wait(0.02):
                features, label = row()
                waiting.append((client.predict(features).id, label))
                if len(waiting) > 20:
                    id, label = waiting.pop(0)
                    client.feedback(id, label=label)

    spec = msgspec.structs.replace(config.convert(SPEC), serve=ServeSpec(port=0))
    with Server(spec, home) as running:
        user = threading.Thread(target=use)
        user.start()
        yield running
        stop.set()
        user.join()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Page]:
    opened = Page(chromium, server.url)
    opened.emulate()
    yield opened
    assert opened.errors() == []


# ---- every page --------------------------------------------------------------------------------------------------


@in_chromium
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_with_its_title_and_landmarks(page, name):
    page.open(name)
    assert page.browser.title == f"{PAGES[name]} · Everlearn"
    counts = "return ['header.top', 'nav', 'main', 'h1'].map((one) => document.querySelectorAll(one).length)"
    assert page.run(counts) == [1, 1, 1, 1]
    assert page.text("nav [aria-current=page]") == PAGES[name]
    unnamed = """return [...document.querySelectorAll('button, a, input, select, textarea, [tabindex="0"]')]
        .filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label') || one.closest('label')))
        .map((one) => one.outerHTML)"""
    assert page.run(unnamed) == []


@in_chromium
@pytest.mark.parametrize("name", PAGES)
def test_text_stands_out_from_its_ground(page, name):
    page.open(name)
    for scheme in ("light", "dark"):
        page.emulate(scheme=scheme)
        found = page.run(CONTRAST)
        assert len(found) > 15
        assert found[0][0] >= 4.5, (scheme, found[:5])
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == (scheme == "dark")


@in_chromium
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scrolling(page, name):
    page.emulate(360, 740)
    page.open(name)
    wide, there = page.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= there <= 360
    over = """return [...document.querySelectorAll('.card .scroll')].filter((one) => {
        const [inner, outer] = [one.getBoundingClientRect(), one.closest('.card').getBoundingClientRect()];
        return inner.left < outer.left || inner.right > outer.right; }).length"""
    assert page.run(over) == 0
    if name == "events":
        assert page.run(
            "return [...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth)"
        )


@in_chromium
def test_the_colours_chosen_are_remembered(page):
    page.emulate(scheme="light")
    page.open()
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = page.run(ground)
    page.find("#theme").click()
    page.find("#theme").click()
    assert page.text("#theme").endswith("Dark")
    assert page.run(ground) != before
    page.open()
    assert page.text("#theme").endswith("Dark")
    page.find("#theme").click()
    assert page.run(ground) == before


# ---- live updates ------------------------------------------------------------------------------------------------


@in_chromium
def test_the_overview_shows_the_quality_and_its_charts_move(page, server):
    page.open()
    page.until(lambda: page.text("#answer") not in ("", "Loading…"))
    assert re.search(r"\d\d\.\d%", page.text(".figure.main .value"))
    with server.client() as client:
        champion = client.versions()[-1]
        assert page.text("[data-value=serves]") in [one.id[:6] for one in client.versions()], champion
    line = """const cards = [...document.querySelectorAll('section.card')];
        const card = cards.find((one) => one.querySelector('h2')?.textContent === arguments[0]);
        return [...card.querySelectorAll('.plot .line')].map((one) => one.getAttribute('d')).join()"""
    for title in ("Requests", "Latency"):
        page.until(lambda title=title: len(page.run(line, title)) > 20)
        before = page.run(line, title)
        page.until(lambda title=title, before=before: page.run(line, title) != before, 5)
    before = page.text(".sentence")
    page.until(lambda: page.text(".sentence") != before, 5)


@in_chromium
def test_the_headline_states_the_interval_of_the_status(page, server):
    page.open()
    shown = [r"points (better|worse) than .*, between [\d.]+ and [\d.]+$", "^No difference from .* shown$"]

    def agrees() -> bool:
        gain = client.status()["gain"] or {}
        return gain.get("low") is not None and re.search(shown[gain["better"] == 0], page.text("#answer")) is not None

    with server.client() as client:
        page.until(agrees, 60)
    if page.text("#answer").startswith("No"):
        assert "the true difference lies between" in page.text(".sentence")


WORDS = """const done = arguments[arguments.length - 1];
    import(`${location.origin}/static/words.js`)
        .then((words) => done(words[arguments[0]](JSON.parse(arguments[1]))));"""
START = {"baseline": "frozen", "metric": "accuracy"}
GAIN = START | {"difference": 0.021, "low": 0.004, "high": 0.038, "better": 1}
QUALITY = {"metric": "accuracy", "examples": 4000, "mode": "live", "metrics": {"champion": {"accuracy": 0.81}}}
NO_GAIN = {"difference": 0.003, "low": -0.01, "high": 0.016, "better": 0}
BRIER = {"loss": "brier", "difference": 0.02, "low": 0.01, "high": 0.03, "examples": 4000, "better": 1}


@in_chromium
@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({}, "2.1 points better than the frozen start, between 0.4 and 3.8"),
        (
            {"difference": -0.021, "low": -0.038, "high": -0.004, "better": -1},
            "2.1 points worse than the frozen start, between 0.4 and 3.8",
        ),
        (
            {"metric": "log_loss", "difference": -0.02, "low": -0.03, "high": -0.01},
            "Better than the frozen start: log loss lower by 0.0200, between 0.0100 and 0.0300",
        ),
        (NO_GAIN, "No difference from the frozen start shown"),
        (NO_GAIN | {"gate": BRIER}, "Brier score better than the frozen start; no difference in accuracy shown"),
        ({"gate": BRIER | {"better": -1}}, "Accuracy better, but Brier score worse, than the frozen start"),
    ],
)
def test_the_title_says_what_interval_and_gate_show(page, change, title):
    page.open()
    status = QUALITY | {"gain": GAIN | {"examples": 4000, "gate": None} | change}
    assert page.browser.execute_async_script(WORDS, "summary", json.dumps(status))["title"] == title


@in_chromium
def test_old_evidence_says_how_old_it_is(page):
    page.open()
    for days, text in ((3, "The newest label came 3 days ago"), (0.5, "")):
        status = json.dumps({"time": 1e9, "labelled_at": 1e9 - days * 86400})
        assert page.browser.execute_async_script(WORDS, "oldEvidence", status).startswith(text)
        assert bool(page.browser.execute_async_script(WORDS, "oldEvidence", status)) == bool(text)


@in_chromium
def test_the_roster_shows_the_members_of_a_mix(chromium, tmp_path):
    members = [{"family": "linear"}, {"family": "forest", "trees": 2}]
    settings = {**SPEC, "model": {"family": "mix", "members": members, "price": 100.0}}
    draw = random.Random(2)
    with el.open(settings, home=tmp_path / "home") as loop:
        for _ in range(2500):
            x, z = draw.gauss(0, 1), draw.gauss(0, 1)
            loop.learn({"x": x, "z": z}, int(x + z > 0))
    with Server(
        msgspec.structs.replace(config.convert(settings), serve=ServeSpec(port=0)), tmp_path / "home"
    ) as running:
        opened = Page(chromium, running.url)
        opened.emulate()
        opened.open()
        roster = opened.run("return document.querySelector('#roster').closest('section').innerText")
        assert re.search(r"mix, learning\s+linear \d\.\d\d\s+forest at rest\s", roster)
        assert opened.errors() == []
        chromium.get("about:blank")  # else the page misses its server, and the next test finds that error


@in_chromium
def test_the_overview_of_a_phone_fits_two_screens(page):
    page.emulate(360, 740)
    page.open()
    page.until(lambda: page.run("return document.querySelectorAll('.plot .line').length > 4"))
    page.until(lambda: page.run("return document.documentElement.scrollHeight") <= 2 * 740)
    page.find(".all").click()
    assert page.find("#processes").is_displayed()


@in_chromium
def test_the_status_is_not_requested_while_the_page_is_hidden(page):
    page.open()
    asked = "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/status')).length"
    hide = """Object.defineProperty(document, 'hidden', {configurable: true, get: () => arguments[0]});
        document.dispatchEvent(new Event('visibilitychange'))""".replace("arguments[0]", "window.unseen")
    page.run(f"window.unseen = true; {hide}")
    time.sleep(0.7)  # a reply may be under way
    before = page.run(asked)
    time.sleep(1.5)
    assert page.run(asked) == before
    page.run("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.until(lambda: page.run(asked) > before)


@in_chromium
def test_a_lost_server_is_reported_and_found_again(page):
    page.open()
    page.until(lambda: page.text("#link-text") == "connected")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    page.until(lambda: page.text("#link-text") == "disconnected")
    assert page.find("#alarm").is_displayed()
    assert "does not respond" in page.text("#alarm")
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})
    page.until(lambda: page.text("#link-text") == "connected")
    page.until(lambda: not page.find("#alarm").is_displayed())
    assert all("ERR_INTERNET_DISCONNECTED" in one for one in page.errors())


@in_chromium
def test_a_learner_that_hangs_is_reported_with_its_lag(page, server):
    page.open()
    page.until(lambda: page.text("#link-text") == "connected")
    with server.client() as client:
        learner = client.status()["learner"]["pid"]
    os.kill(learner, signal.SIGSTOP)
    try:
        page.until(lambda: "silent for" in page.text(".fact:last-child .more"))
        assert page.text("#link-text").startswith("learner silent for")
        page.until(lambda: int(re.sub(r"\D", "", page.text("[data-value=lag]"))) > 20)
        page.until(lambda: re.match(r"[2-9]\.?\d* s", page.text("[data-value=fresh]")))
    finally:
        os.kill(learner, signal.SIGCONT)
    page.until(lambda: page.text("#link-text") == "connected")
    page.until(lambda: "events/s" in page.text(".fact:last-child .more"))


# ---- use ---------------------------------------------------------------------------------------------------------


@in_chromium
def test_keys_alone_lead_everywhere(page):
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.press(Keys.TAB)
    focused = "return document.activeElement.textContent"
    assert page.run(focused) == "Skip to content"
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "content"
    page.run("document.querySelector('nav a:last-child').focus()")
    page.press(Keys.ENTER)
    page.until(lambda: page.browser.title.startswith("Events"))
    assert page.run(focused) == "Events"
    ring = "return getComputedStyle(document.activeElement).outlineStyle"
    page.press(Keys.TAB)
    assert page.run(ring) == "solid"


@in_chromium
def test_charts_and_explanations_open_to_keys(page):
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.until(lambda: page.run("return document.querySelectorAll('.plot .line').length > 4"))
    page.run("document.querySelector('.plot').focus()")
    page.press(Keys.ARROW_LEFT)
    page.until(lambda: "champion" in page.text(".plot [aria-live]"))
    assert page.text(".plot [aria-live]").startswith("at example ")
    assert page.run("return document.querySelectorAll('.plot .cursor').length") == 1
    page.press(Keys.ESCAPE)
    assert page.run("return document.querySelectorAll('.plot .cursor').length") == 0
    page.run("document.querySelector('button.why').focus()")
    page.press(Keys.ENTER)
    assert page.run("return document.querySelectorAll(':popover-open').length") == 1
    page.press(Keys.ESCAPE)
    assert page.run("return document.querySelectorAll(':popover-open').length") == 0


@in_chromium
def test_rolling_back_by_button_needs_a_reason_and_is_done(page, server):
    from selenium.webdriver.common.keys import Keys

    page.open("versions")
    page.until(lambda: page.text(".actions button:last-child").startswith("Roll back to "))
    page.run("document.querySelector('.actions button:last-child').focus()")
    page.press(Keys.ENTER)
    target = page.text("dialog h2").removeprefix("Roll back to ").removesuffix("?")  # stays, whatever the gate promotes
    assert (
        page.run("return document.activeElement.closest('dialog').open && document.activeElement.tagName") == "TEXTAREA"
    )
    page.press(Keys.TAB, Keys.TAB, Keys.ENTER)  # past the fold with advanced settings: without a reason
    assert page.run("return document.querySelector('dialog').open")
    page.run("document.querySelector('dialog textarea').focus()")
    page.press(MARKUP)
    page.run("document.querySelector('dialog .main').focus()")
    page.press(Keys.ENTER)
    page.until(lambda: page.text(".note.good") == f"Rolled back: {target} is the champion.")
    page.until(lambda: page.run("return document.querySelector('dialog') === null"))
    with server.client() as client:
        moves = [one for one in client.decisions() if one.action == "rollback"]
    assert [one.version[:6] for one in moves if one.by == "user"] == [target]
    page.open("decisions")
    page.until(lambda: MARKUP in page.text(".entries"))
    assert page.run("return document.querySelectorAll('main img, .entries b').length") == 0


@in_chromium
def test_a_refusal_is_shown_in_the_dialog(page):
    page.open("versions")
    page.find(".actions button:first-child").click()
    spec = page.find("dialog textarea.code")
    spec.clear()
    spec.send_keys("{")
    assert "This is not JSON" in page.text("#spec-check")
    spec.clear()
    spec.send_keys('{"family": "no:such"}')
    page.find("dialog textarea:not(.code)").send_keys("to see")
    page.find("dialog .main").click()
    page.until(lambda: "no:such" in page.text("dialog .note"))
    assert page.run("return document.querySelector('dialog').open")
    page.find("dialog .buttons button:last-child").click()
    page.until(lambda: page.run("return document.querySelector('dialog') === null"))
    assert all("/challengers" in one and "status of 4" in one for one in page.errors())


@in_chromium
def test_two_versions_side_by_side(page):
    page.open("versions")
    for box in page.browser.find_elements("css selector", ".pick")[:2]:
        box.click()
    page.until(lambda: page.run("return document.querySelectorAll('.versus table').length") >= 1)
    assert "weights" in page.text(".versus")
    middles = """return [...document.querySelectorAll(arguments[0])].map((one) => {
        const {top, bottom} = one.getBoundingClientRect();
        return (top + bottom) / 2;
    })"""
    dots, rows = page.run(middles, ".graph circle"), page.run(middles, ".lineage tbody tr")
    assert dots == pytest.approx(rows, abs=1.5)


@in_chromium
def test_a_name_and_a_note_appear_beside_their_version(page, server):
    page.open("versions")
    page.until(lambda: page.run("return document.querySelectorAll('.lineage .do button').length") > 0)
    named = page.run("return document.querySelector('.lineage [data-version]').dataset.version")
    page.run("document.querySelector('.lineage .do button').click()")
    page.find("dialog input[name=name]").send_keys("spring")
    page.find("dialog textarea[name=note]").send_keys(MARKUP)
    page.find("dialog textarea:not([name])").send_keys("before the sale")
    page.find("dialog .main").click()
    page.until(lambda: page.text(".note.good") == f"{named[:6]} is now also called spring.")
    row = f'[data-version="{named}"]'
    page.until(lambda: "spring" in page.text(f"{row} .what"))
    page.until(lambda: page.text(f"{row} .words") == MARKUP)
    with server.client() as client:
        assert client.version("spring").note == MARKUP


@in_chromium
def test_learning_is_paused_and_resumed_by_buttons(page, server):
    page.open()
    assert not page.find("#paused").is_displayed()
    with server.client() as client:
        for button, paused in ((".halt button", True), ("#resume", False)):
            page.run("document.querySelector(arguments[0]).click()", button)
            page.find("dialog textarea").send_keys("the sensor is being repaired")
            page.find("dialog .main").click()
            page.until(lambda paused=paused: page.find("#paused").is_displayed() is paused)
            page.until(lambda: page.run("return document.querySelector('dialog') === null"))
            assert client.status()["paused"] is paused
            if paused:
                page.run("location.hash = '#/versions'")
                page.until(lambda: page.browser.title.startswith("Versions"))
                assert page.find("#paused").is_displayed()


@in_chromium
def test_a_merged_version_hangs_on_both_of_its_parents(page, server):
    with server.client() as client:
        made = client.merge("champion", "challenger", reason="for the drawing").followed[0].version
        shown = {one.id: one.parents for one in client.versions()}
    assert len(shown[made]) == 2
    page.open("versions")
    page.until(lambda: page.run(f"return document.querySelector('[data-version=\"{made}\"]') !== null"))
    known = page.run(
        "return [...document.querySelectorAll('.lineage [data-version]')].map((one) => one.dataset.version)"
    )
    lines = sum(parent in known for id in known for parent in shown.get(id, ()))
    page.until(lambda: page.run("return document.querySelectorAll('.graph path').length") == lines)
    with server.client() as client:
        client.withdraw(made)


@in_chromium
def test_the_lifecycle_of_one_prediction(page, server):
    with server.client() as client:
        given = client.predict({"x": 0.25, "z": 0.5}, id="order/17")
        client.feedback(given.id, label=1, source="shop")
    page.open("events")
    page.find("input[name=id]").send_keys("order/17\n")
    page.until(lambda: page.text("[data-value=state]") == "learned")
    assert "Label 1" in page.text(".timeline")
    assert "from shop" in page.text(".timeline")
    assert "0.25" in page.text(".pairs")
    page.find("input[name=id]").clear()
    page.find("input[name=id]").send_keys("nobody\n")
    page.until(lambda: "Nothing in the log has the id 'nobody'" in page.text("section .note.bad"))
    assert all("/events/nobody" in one for one in page.errors())


@in_chromium
def test_decisions_show_their_evidence_and_are_filtered(page):
    page.open("decisions")
    page.until(lambda: page.run("return document.querySelectorAll('.entry').length") > 1)
    page.find("select option[value=promote]").click()
    actions = page.run("return [...document.querySelectorAll('.entry .what')].map((one) => one.textContent)")
    assert set(actions) == {"Promotion"}
    page.run("document.querySelectorAll('.entry summary').forEach((one) => one.click())")
    page.until(lambda: "evidence for better" in page.text(".entries"))
    assert re.search(r"Seal [0-9a-f]{64}", page.text(".entries"))
    page.until(lambda: page.text("[data-value=chain]").startswith("chain intact"))


@in_chromium
def test_the_two_decisions_of_a_start_say_which_seat_they_fill(page):
    page.open("decisions")
    page.until(lambda: page.run("return document.querySelector('.entry') !== null"))
    starts = page.run(
        "const all = [...document.querySelectorAll('.entry')];"
        "return all.filter((one) => one.querySelector('.what').textContent === 'Start')"
        ".map((one) => one.querySelector('.reason .soft').textContent.split(' ')[2])"
    )
    assert sorted(starts) == ["challenger", "champion"]


@in_chromium
def test_all_decisions_are_exported(page, server, tmp_path):
    page.open("decisions")
    where = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    page.find(".actions button").click()
    page.until(lambda: (tmp_path / "decisions.json").exists())
    exported = json.loads((tmp_path / "decisions.json").read_text())
    with server.client() as client:
        assert [one["seal"] for one in exported["decisions"]] == [one.seal for one in client.decisions()][
            : len(exported["decisions"])
        ]


# ---- a server that asks for a token, and has nothing to show yet -------------------------------------------------


@in_chromium
def test_a_token_opens_a_page_that_waits_for_its_first_event(chromium, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    secret = tokens.create(home / "tokens.json", "ann", ("read",), 1)
    spec: Spec = msgspec.structs.replace(config.convert(SPEC), serve=ServeSpec(port=0))
    with Server(spec, home) as server:
        page = Page(chromium, server.url)
        page.emulate()
        page.browser.get(server.url)
        page.until(lambda: page.browser.title == "Log in · Everlearn")
        assert not any("/status" in one for one in page.errors())
        page.find("input[name=token]").send_keys("wrong\n")
        page.until(lambda: page.text(".note.bad") != "")
        page.find("input[name=token]").clear()
        page.find("input[name=token]").send_keys(f"{secret}\n")
        page.until(lambda: page.browser.title == "Overview · Everlearn")
        page.until(lambda: page.find(".empty").is_displayed())
        assert "No events yet" in page.text(".empty")
        assert "Waiting for the first labels" in page.text("#answer")
        page.run("location.hash = '#/versions'")
        page.until(lambda: page.text(".lineage .what") != "" and "untrained start" in page.text(".lineage"))
        assert page.run("return [...document.querySelectorAll('.actions button')].every((one) => one.disabled)")
        page.find("#logout").click()
        page.until(lambda: page.browser.title == "Log in · Everlearn")
        assert [one for one in page.errors() if "status of 401" not in one] == []
