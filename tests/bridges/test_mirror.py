"""The mirror tries again after failures, and never raises."""

from __future__ import annotations

import threading

from everlearn.bridges.mirror import Mirror


def test_failures_are_logged_and_tried_again(caplog):
    calls, done = [], threading.Event()

    def push():
        calls.append(len(calls))
        if len(calls) < 3:
            raise OSError("no server")
        done.set()

    mirror = Mirror(push, pause=0.001)
    assert done.wait(30)
    mirror.close()
    assert mirror.failures == 0
    assert caplog.text.count("no server") == 2


def test_the_end_copies_once_more():
    calls = []
    Mirror(lambda: calls.append(1), pause=3600.0).close()
    assert calls == [1]


def test_a_server_that_hangs_is_left_behind(caplog):
    hung = threading.Event()
    Mirror(lambda: hung.wait(60), pause=3600.0).close(patience=0.05)
    assert "gave up the last copy" in caplog.text
    hung.set()
