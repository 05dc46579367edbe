"""The examples, run with small budgets."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from pathlib import Path

import everlearn as el
from everlearn.app.supervisor import Server
from everlearn.client import Health
from everlearn.spec import ServeSpec, Spec
from tests.support import ROOT

EXAMPLES = ROOT / "examples"


def play(name: str, *arguments: str) -> str:
    """Run an example and return its output."""
    done = subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_late_complaints_raise_probabilities_that_were_too_low_without_them():
    lines = play("fraud.py", "--rows", "5000").splitlines()
    honest = {line[:50].strip(): float(line.split()[-1]) for line in lines[3:]}
    ignored, weighed = (honest[name] for name in honest if "ignored" in name or "importance" in name)
    assert weighed > ignored + 0.1


def test_the_notebook_runs_from_the_first_cell_to_the_last():
    printed = play("notebook.py")
    assert "weights no older than" in printed
    assert "40783 examples" in printed  # those of the stream behind the warm start, and two labels


def test_a_client_with_manners_meets_a_server_that_learns(tmp_path):
    stream = el.read(Path(el.__file__).parent / "data" / "elec2.parquet", label="label")
    spec = Spec(schema=stream.schema, model={"family": "linear"}, mode="live", serve=ServeSpec(port=0))
    with Server(spec, tmp_path / "home") as server:
        printed = play("traffic.py", "--url", server.url, "--rows", "400", "--rate", "400", "--delay", "5")
    last = printed.splitlines()[-1]
    assert last.startswith("400 predictions")
    with el.open(spec, home=tmp_path / "home") as loop:
        labelled = loop.report()["examples"]
        never = int(re.search(r"(\d+) never labelled", last)[1]) if "never labelled" in last else 0
        assert labelled == 400 - never


def test_the_client_waits_for_a_learner_that_is_away_but_not_for_ever(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    traffic = importlib.import_module("traffic")
    monkeypatch.setattr(traffic, "PATIENCE", 0.1)

    class Stalled:
        async def health(self) -> Health:
            return Health(False, "the learner is gone")

    one = traffic.Traffic(Stalled(), 1.0, 1, 0, [0, 1])
    one.unlearned.extend([0.0] * 9)
    asyncio.run(asyncio.wait_for(one.wait(), 5))
    assert (one.counts["waits that were given up"], len(one.unlearned)) == (1, 0)


def numbers(line: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"[\d.,]*\d", line)]


def test_decisions_by_cost_are_near_the_best_there_are_though_labels_are_days_late():
    _, learned, none, best = play("fraud_days_late.py", "--rows", "4000").splitlines()
    costs = [float(line.split()[4]) for line in (learned, none, best)]
    assert costs[2] < costs[0] < 0.8 * costs[1]
    assert costs[0] < 1.6 * costs[2]


def test_spam_is_found_nearly_as_well_as_by_a_judge_with_the_truth():
    first, last = play("spam.py", "--rows", "3000").splitlines()
    assert first.endswith(": spam")
    accuracy, ceiling = numbers(last)
    assert ceiling - 0.06 < accuracy <= ceiling + 0.01


def test_a_quantile_of_demand_covers_the_share_that_it_names():
    _, quantile, mean = (line.split()[-2:] for line in play("demand.py", "--rows", "3000").splitlines())
    assert 0.84 < float(quantile[0]) < 0.95
    assert 0.4 < float(mean[0]) < 0.6
    assert float(quantile[1]) < 0.3 * float(mean[1])


def test_bad_rows_of_a_dirty_file_are_set_aside_and_the_others_learned():
    *lines, count, accuracy = play("dirty.py", "--rows", "1500").splitlines()
    assert all(line.startswith("line ") for line in lines)
    rejected, bad, learned = map(int, numbers(count))
    assert rejected == bad > 0
    assert learned == 1500 - bad
    assert float(accuracy.split()[-1]) > 0.9


def test_frames_of_two_libraries_go_in_and_come_out():
    accuracy, error, *known = play("frames.py").splitlines()
    assert float(accuracy) > 0.7
    assert float(error.split()[-1]) < 0.06
    assert known == ["polars 0 known before", "3000 examples", "1000 known the second time"]


def test_recommendations_earn_more_than_the_best_constant_article():
    _, *lines, log = play("recommendation.py", "--visits", "2500").splitlines()
    served, constant, best = (float(line.split()[-1]) for line in lines)
    assert constant + 0.1 < served < best + 0.01
    low, high = numbers(log)
    assert constant < low < high


def test_faults_of_a_machine_are_found_without_labels():
    lines = play("machine_anomaly.py", "--rows", "2500").splitlines()
    found, _, faults = lines[1].removeprefix("faults found: ").partition(" of ")
    assert int(found) >= int(faults) / 3
    assert lines[2].endswith("heat")
    assert float(lines[0].rpartition("(")[2].rstrip("%)")) < 2.5


def test_a_forecast_of_demand_beats_the_day_before():
    ahead, naive, inside = (float(line.split()[-1]) for line in play("demand_forecast.py").splitlines())
    assert ahead < 0.6 * naive
    assert 0.85 < inside < 0.99


def test_a_controller_that_learns_keeps_its_set_point_when_the_heater_fouls():
    learns, stopped = ([float(word.rstrip(",")) for word in line.split() if word.rstrip(",").replace(".", "").isdigit()]
                       for line in play("control.py", "--steps", "400").splitlines())  # fmt: skip
    assert learns[1] < 0.5 < stopped[1]
    assert max(learns[0], stopped[0]) < 0.5


def test_mail_gets_its_verdict_and_moved_mail_is_learned(tmp_path):
    first, last = play("mail_filter.py", "--messages", "800").splitlines()
    missed, alarms = ([int(word) for word in line.split() if word.isdigit()] for line in (first, last))
    assert alarms[0] < missed[0]
    assert max(missed[2], alarms[2]) <= 4  # false alarms cost ten missed messages
    inbox = tmp_path / "in.mbox"
    inbox.write_bytes(
        b"From a Thu Jan  1 00:00:00 2026\nFrom: A <a@b.example>\nSubject: =?x-none?q?h=E9?=\n\nhello\n\n"
        b"From b Thu Jan  1 00:00:00 2026\nFrom: nobody\nX-Everlearn-Id: forged\n"
        b"Content-Type: text/html; charset=nonsense\n\n<a href='http://x.example'>free\xff</a>\n\n"
    )
    home = ["--home", str(tmp_path / "mail.home")]
    said = play("mail_filter.py", "--mbox", str(inbox), "--to", str(tmp_path / "out.mbox"), *home)
    assert "of the messages in" in said
    sorted_mail = (tmp_path / "out.mbox").read_text(errors="replace")
    ids = re.findall(r"^X-Everlearn-Id: (\w+)$", sorted_mail, re.M)
    assert len(ids) == len(set(ids)) == 2
    assert "forged" not in ids
    play("mail_filter.py", "--correct", ids[0], "--label", "spam", *home)
    assert len(re.findall(r"^X-Spam-Status: (Yes|No), score=0\.\d\d$", sorted_mail, re.M)) == 2
