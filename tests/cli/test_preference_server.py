"""`everlearn demo --preference --serve`: the page hands out pairs, and a judgement outlives a SIGKILL of everything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

pytest.importorskip("transformers")

from everlearn.app.admin.processes import running
from everlearn.data import tiny_model
from everlearn.records import Preference
from everlearn.serve import snapshot
from tests.support.servers import alive, events_of, until


@contextmanager
def demo(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command until the block ends; yield its process and the address that it prints."""
    command = ["demo", "--preference", "--serve", "--labels", "2", "--port", "0", "--folder", str(folder), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "everlearn", *command], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    found, seen = threading.Event(), list[str]()

    def read() -> None:
        for line in process.stderr or ():
            seen.append(line)
            if "http://" in line:
                found.set()
        found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert found.wait(600)
        url = re.search(r"http://[\d.:a-z]+", "".join(seen))
        assert url, "".join(seen)
        yield process, url[0]
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        process.stdout.close()
        process.stderr.close()


def kill_everything(process: subprocess.Popen[str], home: Path) -> None:
    pids = [one.pid for one in running(process.pid, str(snapshot.folder(home))).values()]
    process.kill()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(60)
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.slow
def test_a_judgement_outlives_a_kill(tmp_path: Path) -> None:
    folder, home = tmp_path / "demo", tmp_path / "demo" / "preference.home"
    tiny_model.make(folder / "service-desk-0", steps=2)  # the demo makes none where it finds one
    with demo(folder) as (process, url), httpx.Client(base_url=url, timeout=120) as client:
        assert "label.js" in client.get("/label").raise_for_status().text
        pair = client.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
        assert pair["trees"]["left"] != pair["trees"]["right"]
        body = {"id": pair["id"], "annotator": "anna", "verdict": "left"}
        assert client.post("/label/judge", json=body).raise_for_status().json()["progress"]["judged"] == 1
        kill_everything(process, home)
    kept = [event.payload for event in events_of(home) if isinstance(event.payload, Preference)]
    assert [one.source for one in kept] == ["people/simulated"] * 2 + ["people/anna"]
    with demo(folder) as (_, url), httpx.Client(base_url=url, timeout=120) as client:
        end = max(event.position for event in events_of(home) if isinstance(event.payload, Preference))
        until(lambda: client.get("/status").json()["position"] >= end)
        assert client.get("/status").json()["preference"]["labels"] == 3
        following = client.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
        assert following["progress"]["judged"] == 1
        assert following["id"] != pair["id"]
    assert json.loads((folder / "service-desk-0" / "config.json").read_text())["model_type"] == "llama"
