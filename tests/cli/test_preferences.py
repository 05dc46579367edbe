"""`everlearn demo --preference` and `everlearn init --model`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from everlearn import config
from everlearn.cli import preferences
from everlearn.cli.preferences import ModelLimits, limits
from everlearn.data import tiny_model
from everlearn.errors import ConfigError
from everlearn.families.preference import asking, text
from everlearn.families.preference.model import PreferenceModel
from everlearn.families.preference.policy import load_model
from everlearn.loop.loop import Loop
from tests.support.commands import call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after two steps."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make(folder, steps=2)
    return folder


def test_the_demo_prints_a_row_for_each_measurement(data: Any, model: Path, folder: Path) -> None:
    shutil.copytree(model, folder / "everlearn-demo" / "service-desk-0")  # the demo makes none where it finds one
    found = data("demo", "--preference", "--labels", "2")
    assert [one["labels"] for one in found["marks"]] == [0, 2]
    assert set(preferences._SHOWN) == set(found["marks"][0])
    assert len(found["examples"]) == 3
    assert config.load(folder / "everlearn-demo" / "preference.toml").schema.task == "preference"
    listed = data("versions", "--config", "everlearn-demo/preference.toml")["versions"]
    assert len(listed) == found["versions"]
    stored = data("export", "stored", "--version", listed[0]["id"][:8], "--config", "everlearn-demo/preference.toml")
    assert (stored["version"], "model.safetensors" in stored["files"]) == (listed[0]["id"], True)
    served = data("export", "served", "--config", "everlearn-demo/preference.toml")
    assert served["files"] == stored["files"]
    load_model("served")  # with all weights trained, the folder is a model as any other
    call("export", "served", "--config", "everlearn-demo/preference.toml", expect=1)


def test_init_writes_a_configuration_that_a_loop_opens(data: Any, model: Path, folder: Path) -> None:
    Path("prompts.txt").write_text("My parcel is late.\n\nThe line is dead. The screen is cracked.\n")
    found = data("init", "--model", str(model), "--prompts", "prompts.txt")
    assert found == {"config": "everlearn.toml", "vocabulary": 577, "prompt_tokens": 64, "answer_tokens": 64,
                     "longest_prompt": 10}  # fmt: skip
    spec = config.load(folder / "everlearn.toml")
    with Loop(spec, folder / "home") as loop:
        learner = loop.ready().model
        assert isinstance(learner, PreferenceModel)
        assert learner.settings.improve.limit == learner.settings.pairs.answer_tokens == 64
        assert learner.settings.weights == "adapters"
        asked = asking.ask(learner, text.render(learner.tokenizer, "My parcel is late."), (0, 0))
        loop.judge(loop.record(asked, {"prompt": "My parcel is late."}).id, 0, source="people/anna")
        assert loop.report()["waiting"] == 0


def test_init_reads_prompts_of_other_forms(folder: Path, model: Path) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "The line is dead."}\n{"prompt": "The food was cold."}\n')
    assert preferences.look(str(model), Path("prompts.jsonl")) == ModelLimits(577, tiny_model.POSITIONS, 6)


def test_init_refuses_what_does_not_fit(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("init", "--model", "nowhere/at/all", expect=1)
    assert "--model: got 'nowhere/at/all', which cannot be loaded" in capsys.readouterr().err
    for arguments in ([], ["rows.csv"], ["rows.csv", "--label", "y", "--model", str(model)], ["--label", "y"]):
        call("init", *arguments, expect=1)
        assert "expected DATA with --label" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match="got a prompt of 200 tokens; the model has room for 128, of which 64"):
        limits(ModelLimits(577, 128, 200))
    assert limits(ModelLimits(577, 0, 1000)) == (1024, preferences.ANSWER_TOKENS)
