"""The card of a loop that chooses actions, in a real Chromium, on a server that served some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.records import Reward
from everlearn.spec import ServeSpec
from tests.support.bandits import ACTIONS, contexts, record, reward, spec
from tests.support.browser import Page, chromium, in_chromium
from tests.support.servers import catch_up

__all__ = ["chromium"]


@in_chromium
def test_the_overview_shows_rewards_policies_and_actions(chromium: Any, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(spec(), serve=ServeSpec(port=0))
    found = contexts(120)
    with Server(settings, tmp_path / "home") as server, Client(server.url) as client:
        given = client.predict_many([record(one) for one in found])
        catch_up(server)
        earned = [reward(found[row], str(one.value), row) for row, one in enumerate(given)]
        client.feedback_many([Reward(one.id, value) for one, value in zip(given, earned, strict=True)])
        catch_up(server)
        page = Page(chromium, server.url)
        for width in (1280, 360):
            page.emulate(width, 900)
            page.open()
            page.until(lambda: "uniform" in page.text(".bandit"))
            wide = page.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide[0] <= wide[1]
        names = page.run("return [...document.querySelectorAll('.bandit tbody th')].map((one) => one.textContent)")
        assert names[0] == "served"
        assert set(ACTIONS) <= set(names)
        assert any(name.startswith("best constant: ") for name in names)
        assert f"{sum(earned) / len(earned):.3f}"[:4] in page.text(".bandit")
        assert page.errors() == []
