"""Examples that a policy imitates: read, kept in the arrays, imitated in each round, and missed when they change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, ModelError
from everlearn.families.preference import PreferenceModel, build, examples, text
from everlearn.families.preference.passes import logprobs
from everlearn.schema.layout import PAIR_COLUMNS
from tests.support import tiny_lms
from tests.support.preference_loops import MODEL

KNOWN = [
    {"prompt": "hello", "completion": "there"},
    {"prompt": [{"role": "user", "content": "how"}], "completion": [{"role": "assistant", "content": "well"}]},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def made(path: str, **more: Any) -> PreferenceModel:
    bounds = {"prompt_tokens": 48, "answer_tokens": 12}
    return build(MODEL | {"hashed": 300, "dense": PAIR_COLUMNS, "pairs": bounds, "examples": path} | more)


def test_prompts_are_rendered_and_completions_end(tmp_path: Path) -> None:
    tokenizer = tiny_lms.tokenizer(True)
    found = examples.read(write(tmp_path / "a.jsonl", KNOWN), tokenizer, [7], (48, 12))
    assert [tokenizer.decode(completion[:-1]) for _, completion in found] == ["there", "well"]
    assert [completion[-1] for _, completion in found] == [7, 7]
    assert found[0][0] == text.render(tokenizer, "hello")
    assert examples.held(examples.start(found)) == [(list(a), list(b)) for a, b in found]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "got 0 in .*; expected 1 to 4,096"),
        ([{"prompt": "a"}], r"a.jsonl:1: .*completion.*; expected \{\"prompt\": \"text\", \"completion\": \"text\"\}"),
        ([KNOWN[0], {"prompt": "a", "completion": "well " * 20}], "a.jsonl:2: got .* tokens; expected at most 48"),
        ([{"prompt": "a", "completion": ""}], "a.jsonl:1: completion: got no tokens"),
    ],
)
def test_a_wrong_file_is_explained(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        made(write(tmp_path / "a.jsonl", rows))
    with pytest.raises(ConfigError, match="examples: got 'nowhere', which cannot be read"):
        made("nowhere")


def test_rounds_imitate_the_examples_and_other_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", KNOWN)
    likely = {}
    for mix in (0.0, 4.0):
        steps = {"steps": 4, "prompts": 2, "candidates": 3, "mix": mix}
        one = made(path, improve=steps, optimizer={"name": "adam", "lr": 0.01})
        part = one.part("pool")
        part["ids"][0, :2], part["prompts"][0] = [5, 6], (0, 2, 1)
        one._improve()
        given = examples.held(one.part("examples"))
        likely[mix] = logprobs(one.policy.module, [a for a, _ in given], [b for _, b in given]).sum().item()
    assert likely[4.0] > likely[0.0] + 1
    held = {name: array.copy() for name, array in one.arrays.items()}
    assert not any("examples" in name for name in held if not name.startswith("learn/"))
    same = made(path)
    same.arrays = held
    assert {name: array.tobytes() for name, array in same.arrays.items()} == {
        name: array.tobytes() for name, array in held.items()
    }
    write(tmp_path / "a.jsonl", KNOWN[::-1])
    other = made(path)
    with pytest.raises(ModelError, match=r"learned with other examples than those of the file"):
        other.arrays = held
