"""Prompts from files of text and of JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.errors import InputError
from everlearn.stream.preferences import ChatTurn
from everlearn.stream.prompts import Prompt, read_prompts


def test_lines_of_text_and_of_json_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" Where is it?\n\n{no json}\n")
    assert read_prompts(tmp_path / "a.txt") == (Prompt("Where is it?"), Prompt("{no json}"))
    lines = ['"Why?"', '{"prompt": [{"role": "user", "content": "Hi"}], "group": "g"}', ""]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    found = read_prompts(tmp_path / "b.jsonl")
    assert found == (Prompt("Why?"), Prompt((ChatTurn("user", "Hi"),), "g"))
    assert [one.text for one in found] == ["Why?", '[{"role":"user","content":"Hi"}]']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "got no prompt in .*a.txt; expected at least one line"),
        ("a.jsonl", '"x"\n{"text": "y"}', "a.jsonl:2: .*; expected"),
        ("a.jsonl", '"x"\n" "', "a.jsonl:2: got an empty prompt"),
        ("a.jsonl", '{"prompt": []}', "a.jsonl:1: got an empty prompt"),
    ],
)
def test_files_without_usable_prompts_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere")
