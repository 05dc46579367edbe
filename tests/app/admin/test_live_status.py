"""The live status survives a damaged file, and keeps a bounded history."""

from __future__ import annotations

from collections import deque

import msgspec

from tests.support.admin import admin, grown, learning, set_up, until


def test_a_damaged_status_is_logged_and_replaced_by_the_next(tmp_path, caplog):
    """A status that is no JSON does not end the watching: the next one counts."""
    home = tmp_path / "home"
    with set_up(home, grown(home, examples=700)) as setup, admin(setup) as opened:
        setup.status.write_bytes(b"{")
        until(lambda: "cannot refresh" in caplog.text)
        setup.status.write_bytes(msgspec.json.encode({"time": 1.0}))
        until(lambda: opened.context.live.status == {"time": 1.0})
        with learning(setup):
            until(lambda: opened.context.live.status is not None and "counts" in opened.context.live.status)


def test_it_holds_ten_seconds_of_counts(tmp_path):
    home = tmp_path / "home"
    with set_up(home, grown(home, examples=700)) as setup, learning(setup), admin(setup) as opened:
        for _ in range(50):
            opened.context.live.sample()
        samples = opened.context.live._samples
        assert isinstance(samples, deque)
        assert len(samples) == samples.maxlen == 11
