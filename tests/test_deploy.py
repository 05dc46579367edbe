"""The files of `deploy/`: each is checked by the program that reads it, and their settings start a real server."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from everlearn import config
from everlearn.errors import ConfigError
from tests.support import ROOT
from tests.support.servers import ServerProcess

DEPLOY = ROOT / "deploy"
VARIABLES = {"DATABASE_USER": "ml", "DATABASE_PASSWORD": "p", "DATABASE_HOST": "db", "BUCKET": "models"}


def manifests() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "everlearn.yaml").read_text()))


def program(name: str) -> str:
    """Return a program of this environment, or of the machine; the test skips where it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfile_is_clean() -> None:
    done = subprocess.run([program("hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_manifests_have_known_fields_alone(tmp_path: Path) -> None:
    validate = [program("kubernetes-validate"), "--strict"]
    path = DEPLOY / "kubernetes" / "everlearn.yaml"
    assert subprocess.run([*validate, str(path)], capture_output=True).returncode == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text().replace("readinessProbe", "readynessProbe"))
    assert subprocess.run([*validate, str(wrong)], capture_output=True).returncode != 0


def test_the_unit_is_one_of_systemd(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    text = (DEPLOY / "systemd" / "everlearn.service").read_text()
    assert "everlearn serve /etc/everlearn/everlearn.toml" in text
    unit = tmp_path / "everlearn.service"
    unit.write_text(text.replace("/opt/everlearn/bin/everlearn", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, "Unknown key" in done.stderr) == (0, False), done.stderr
    unit.write_text(unit.read_text().replace("Restart=", "Restrat="))
    assert "Unknown key" in subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True).stderr


def test_the_settings_of_the_manifests_are_read_with_their_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "everlearn.toml").write_text(manifests()[0]["data"]["everlearn.toml"])
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    spec = config.load(tmp_path / "everlearn.toml")
    assert (spec.log.url, spec.log.blobs) == ("postgresql://ml:p@db/everlearn", "s3://models/everlearn")
    monkeypatch.delenv("BUCKET")
    with pytest.raises(ConfigError, match=r"log.blobs: the environment has no variable BUCKET; set it"):
        config.load(tmp_path / "everlearn.toml")


def test_a_variable_elsewhere_stays_text(tmp_path: Path) -> None:
    text = 'metric = "${HOME}"\n[schema]\nlabel = "y"\ntask = "regression"\nfields = { "${HOME}" = "numeric" }\n'
    (tmp_path / "everlearn.toml").write_text(text)
    spec = config.load(tmp_path / "everlearn.toml")
    assert (spec.metric, list(spec.schema.fields)) == ("${HOME}", ["${HOME}"])


def test_the_probes_reach_a_server_that_starts_as_the_manifests_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token is made by the init container's own script, and both probes get 200 for the name they send."""
    settings, pod = manifests()[0]["data"]["everlearn.toml"], manifests()[2]["spec"]["template"]["spec"]
    here = tmp_path / "everlearn.toml"
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    database = settings[settings.index("[log]") : settings.index("[serve]")]
    settings = settings.replace(database, "").replace("auto", "linear")
    here.write_text(settings.replace("/var/lib/everlearn", str(tmp_path)))
    script = pod["initContainers"][0]["args"][0]
    script = script.replace("/etc/everlearn/everlearn.toml", str(here)).replace("/var/lib/everlearn", str(tmp_path))
    script = script.replace("everlearn token", f"{sys.executable} -m everlearn token")
    subprocess.run(["/bin/sh", "-ec", script], check=True)
    first = (tmp_path / "first-token").read_text()
    subprocess.run(["/bin/sh", "-ec", script], check=True)  # the pod starts again
    assert (tmp_path / "first-token").read_text() == first
    assert (tmp_path / "first-token").stat().st_mode & 0o077 == 0
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        port = free.getsockname()[1]
    here.write_text(here.read_text().replace("workers = 2", f"workers = 1\nport = {port}"))
    container = pod["containers"][0]
    with ServerProcess(config.load(here), tmp_path / "loop"):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[probe]["httpGet"]
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            asked.request("GET", get["path"], headers={one["name"]: one["value"] for one in get["httpHeaders"]})
            assert asked.getresponse().status == 200, probe
            asked.close()
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        asked.request("GET", "/versions", headers={"Host": "localhost"})
        assert asked.getresponse().status == 401
        asked.close()
