"""Azurite, the emulator of Azure's blob storage that its makers publish, for tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate

import pytest

ACCOUNT = "devstoreaccount1"  # which every emulator has, with this key
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PORT = 10000  # the one that clients expect of an emulator
CONTAINER = "everlearn"


def running() -> Iterator[dict[str, str]]:
    """Start the emulator with an empty container, and yield the environment that its clients need."""
    program = os.environ.get("EVERLEARN_AZURITE") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed; npm install -g azurite")
    command = [program, "--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    process = subprocess.Popen(
        [*command, "--blobPort", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _await(process)
        _create_container()
        yield {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"Azurite did not start: is port {PORT} in use?"
        try:
            socket.create_connection(("127.0.0.1", PORT), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, "Azurite does not start"
            time.sleep(0.1)


def _create_container() -> None:
    """Create the container by a request that is signed with the key of the account (Azure's "Shared Key")."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06", "content-length": "0"}
    listed = "".join(f"{name}:{headers[name]}\n" for name in ("x-ms-date", "x-ms-version"))
    text = f"PUT{chr(10) * 12}{listed}/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    signed = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    url = f"http://127.0.0.1:{PORT}/{ACCOUNT}/{CONTAINER}?restype=container"
    headers["authorization"] = f"SharedKey {ACCOUNT}:{signed}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30).close()
