"""Preference data in TRL's formats: what is read, what is kept aside, and round trips through both kinds of files."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import ConfigError, InputError
from everlearn.stream.preferences import (
    ChatTurn,
    Form,
    PreferredRow,
    PromptRow,
    RankedRow,
    Row,
    Text,
    UnpairedRow,
    form_of_columns,
    pairs_of,
    read_preferences,
    unpaired_of,
    write_preferences,
)


def u(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def a(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def one(row: dict[str, Any], form: Form | None = None) -> Row:
    """Return the only row of a table; raise its fault if it was kept aside."""
    chunk = next(read_preferences({name: [value] for name, value in row.items()}, form))
    if chunk.rejected:
        raise InputError(chunk.rejected[0].reason)
    return chunk.rows[0]


def turns(*messages: dict[str, str]) -> tuple[ChatTurn, ...]:
    return tuple(ChatTurn(**message) for message in messages)


# ---- forms ---------------------------------------------------------------------------------------------------------


def test_each_form_is_read_as_text_and_as_conversation() -> None:
    assert one({"prompt": "p", "chosen": "c", "rejected": "r"}) == PreferredRow("p", "c", "r")
    assert one({"prompt": "p", "completion": "c", "label": False}) == UnpairedRow("p", "c", False)
    assert one({"prompt": "p"}) == PromptRow("p")
    assert one({"prompt": "p", "completions": ["a", "b"]}) == RankedRow("p", ("a", "b"), (1, 2))
    assert one({"prompt": "p", "completions": ["a", "b"], "ranks": [2, 1]}) == RankedRow("p", ("a", "b"), (2, 1))
    q, x, y = [u("q")], [a("x")], [a("y")]
    assert one({"prompt": q, "chosen": x, "rejected": y}) == PreferredRow(turns(*q), turns(*x), turns(*y))
    assert one({"prompt": q, "completion": x, "label": 1}) == UnpairedRow(turns(*q), turns(*x), True)
    assert one({"prompt": q}) == PromptRow(turns(*q))
    assert one({"prompt": q, "completions": [x, y]}) == RankedRow(turns(*q), (turns(*x), turns(*y)), (1, 2))


# Texts, and what extract_prompt of TRL 1.16 makes of them. Where two answers begin with the same letters, TRL cuts
# inside a word; those cases are in the next test.
AS_IN_TRL = [
    ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
    ("Q: x\nYes", "Q: x\nNo", ("Q: x\n", "Yes", "No")),
    (
        "Human: hi\n\nAssistant: Sure.",
        "Human: hi\n\nAssistant: No.",
        ("Human: hi\n\nAssistant:", " Sure.", " No."),
    ),
    ("It is blue sky", "It is blue.", ("It is blue", " sky", ".")),
    ("空は青", "空は赤", ("空は", "青", "赤")),
    ("1 + 1 = 2", "1 + 1 = 3", ("1 + 1 =", " 2", " 3")),
    ([u("q"), a("x")], [u("q"), a("y")], ([u("q")], [a("x")], [a("y")])),
    (
        [u("q"), a("x"), u("r"), a("z")],
        [u("q"), a("x"), u("r"), a("w"), u("s"), a("t")],
        ([u("q"), a("x"), u("r")], [a("z")], [a("w"), u("s"), a("t")]),
    ),
]


@pytest.mark.parametrize(("chosen", "rejected", "expected"), AS_IN_TRL)
def test_an_implicit_prompt_is_the_common_beginning(chosen: Any, rejected: Any, expected: Any) -> None:
    plain = [part if isinstance(part, str) else turns(*part) for part in expected]
    assert one({"chosen": chosen, "rejected": rejected}) == PreferredRow(*plain)


def test_an_implicit_prompt_holds_no_half_word() -> None:
    found = one({"chosen": "The sky is blue", "rejected": "The sky is black"})
    assert found == PreferredRow("The sky is", " blue", " black")
    assert one({"chosen": "It was so", "rejected": "It wasn't so"}) == PreferredRow("It", " was so", " wasn't so")


def test_a_prompt_that_is_repeated_in_the_answers_is_taken_out() -> None:
    expected = PreferredRow(turns(u("q")), turns(a("x")), turns(a("y")))
    whole = {"chosen": [u("q"), a("x")], "rejected": [u("q"), a("y")]}
    assert one({"prompt": "q"} | whole) == expected
    assert one({"prompt": [u("q")]} | whole) == expected


def test_the_form_follows_from_the_columns() -> None:
    assert form_of_columns(["prompt", "chosen", "rejected", "completion"]) == "preference"
    assert form_of_columns(["prompt", "completions", "label"]) == "ranking"
    assert form_of_columns(["label", "completion", "prompt"]) == "unpaired"
    assert form_of_columns(["prompt", "answer"]) == "prompt"
    for columns in (["messages"], ["prompt", "completion"], ["text"], []):
        with pytest.raises(InputError, match="expected those of one form. preference: prompt, chosen, rejected"):
            form_of_columns(columns)


def test_a_form_can_be_chosen_and_needs_its_columns(tmp_path: Path) -> None:
    assert one({"prompt": "p", "chosen": "c", "rejected": "r"}, "prompt") == PromptRow("p")
    path = lines(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c"})
    with pytest.raises(InputError, match="a.jsonl has no column 'label'; its columns are 'prompt', 'completion'"):
        read_preferences(path, "unpaired")
    with pytest.raises(ConfigError, match="size: got 0"):
        read_preferences(path, "prompt", size=0)


# ---- bad rows ------------------------------------------------------------------------------------------------------

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
BAD: list[tuple[Any, str]] = [
    ({"chosen": "", "rejected": "r"}, "chosen: got ''"),
    ({"prompt": "p", "chosen": None, "rejected": "r"}, "chosen: got None"),
    ({"prompt": "p", "chosen": "c"}, "rejected: got None"),
    ({"prompt": "p", "chosen": 7, "rejected": "r"}, "chosen: got 7"),
    ({"prompt": "p", "chosen": "c", "rejected": "c"}, "rejected: got the same as chosen"),
    ({"prompt": "p", "chosen": [a("c")], "rejected": "r"}, "rejected: got text, expected a list of messages"),
    ({"prompt": "p", "chosen": [], "rejected": []}, "chosen: got []"),
    ({"prompt": "p", "chosen": ["c"], "rejected": ["r"]}, "chosen: got 'c', expected a message"),
    ({"prompt": [u("p")], "chosen": [{"role": "assistant"}], "rejected": [a("r")]}, "chosen: got the content None"),
    ({"prompt": [u("p")], "chosen": [a("c") | {"tool_calls": [{}]}], "rejected": [a("r")]}, "tool_calls"),
    (
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": [a("c")], "rejected": [a("r")]},
        "prompt: got the content",
    ),
    ({"chosen": "abc", "rejected": "abc def"}, "the beginning of rejected, or the reverse"),
    ({"chosen": "abc", "rejected": "xyz"}, "prompt: got none"),
    ('{"prompt": "p", "chosen": "\\ud83d", "rejected": "r"}', "half a surrogate pair"),
    ("{broken", "not valid JSON"),
    ("[1]", "expected an object"),
]


def test_bad_rows_are_kept_aside_with_their_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, "", *[row for bad, _ in BAD for row in (bad, GOOD)])
    for size in (1, 3, 256):
        chunks = list(read_preferences(path, size=size))
        rejected = [row for chunk in chunks for row in chunk.rejected]
        assert [row.line for row in rejected] == [3 + 2 * i for i in range(len(BAD))]
        for row, (_, reason) in zip(rejected, BAD, strict=True):
            assert reason in row.reason
        assert [at for chunk in chunks for at in chunk.positions] == [1, *range(3, 2 * len(BAD) + 2, 2)]
        assert {row for chunk in chunks for row in chunk.rows} == {PreferredRow("p", "c", "r")}
        assert chunks[-1].last == 2 * len(BAD) + 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "completion": "c", "label": 2}, "label: got 2"),
        ({"prompt": "p", "completion": "c", "label": "true"}, "label: got 'true'"),
        ({"prompt": "p", "completion": [a("c")], "label": True}, "completion: got a list of messages, expected text"),
        ({"prompt": "", "completion": "c", "label": True}, "prompt: got ''"),
        ({"prompt": "p", "completions": ["a"]}, "completions: got"),
        ({"prompt": "p", "completions": "ab"}, "completions: got 'ab'"),
        ({"prompt": "p", "completions": ["a", ""]}, "completions: got ''"),
        ({"prompt": "p", "completions": ["a", [a("b")]]}, "completions: got a list of messages, expected text"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [1]}, "ranks: got [1]"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [1, 1]}, "not all the same"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [True, 2]}, "ranks: got [True, 2]"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [1.5, 2]}, "ranks: got [1.5, 2]"),
    ],
)
def test_the_reason_of_a_bad_row_names_the_column(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as raised:
        one(row)
    assert reason in str(raised.value)


def test_parts_of_text_are_joined() -> None:
    content = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    assert one({"prompt": [{"role": "user", "content": content}]}) == PromptRow(turns(u("Where is it?")))


# ---- sources -------------------------------------------------------------------------------------------------------


def test_reading_resumes_after_any_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}"} if i % 4 else {"prompt": ""} for i in range(30)]
    path = lines(tmp_path / "a.jsonl", *rows)
    whole = [(at, row) for chunk in read_preferences(path) for at, row in zip(chunk.positions, chunk.rows, strict=True)]
    for after in range(31):
        chunks = list(read_preferences(path, after=after, size=7))
        found = [(at, row) for chunk in chunks for at, row in zip(chunk.positions, chunk.rows, strict=True)]
        assert found == [entry for entry in whole if entry[0] > after]


def test_gzip_folders_and_pipes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"prompt": "a"}\n')
    write_preferences(tmp_path / "b.parquet", [PromptRow("b")])
    chunks = list(read_preferences(tmp_path))
    assert [row for chunk in chunks for row in chunk.rows] == [PromptRow("a"), PromptRow("b")]
    assert [at for chunk in chunks for at in chunk.positions] == [1, 2]
    piped = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"prompt": "c"}\n{"prompt": "d"}\n')))  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stdin", piped)
    assert next(read_preferences("-")).rows == [PromptRow("c"), PromptRow("d")]


def test_parquet_of_the_datasets_library_is_read(tmp_path: Path) -> None:
    """Large strings, dictionaries of codes, and messages with a column of nulls, as that library writes them."""
    messages = [[{"role": "user", "content": "q", "tool_calls": None}], [{"role": "user", "content": "r"}]]
    table = pa.table(
        {
            "prompt": pa.array(messages),
            "completion": pa.array([[a("x")], None]),
            "label": pa.array([True, None]),
            "score": pa.array([1.0, 2.0]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    chunk = next(read_preferences(tmp_path / "a.parquet"))
    assert chunk.rows == [UnpairedRow(turns(u("q")), turns(a("x")), True)]
    assert [(row.line, row.reason.split(",")[0]) for row in chunk.rejected] == [(2, "completion: got None")]
    texts = pa.array(["p", "p2"]).dictionary_encode()
    pq.write_table(
        pa.table({"prompt": texts.cast(pa.dictionary(pa.int32(), pa.large_string()))}), tmp_path / "b.parquet"
    )
    assert next(read_preferences(tmp_path / "b.parquet")).rows == [PromptRow("p"), PromptRow("p2")]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def many(n: int) -> Iterator[Row]:
        return (PreferredRow(f"prompt {i}", "good " * 100, "bad " * 100) for i in range(n))

    for name in ("a.jsonl", "a.parquet"):
        peaks = []
        for n in (3_000, 9_000):
            tracemalloc.start()
            assert write_preferences(tmp_path / name, many(n)) == n
            assert sum(len(chunk.rows) for chunk in read_preferences(tmp_path / name)) == n
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.3 * peaks[0] + 1_000_000, name


# ---- round trips ---------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TALKS = st.lists(st.builds(ChatTurn, st.sampled_from(["system", "user", "assistant"]), WORDS), min_size=1, max_size=3)


def rows_of(texts: st.SearchStrategy[Text]) -> st.SearchStrategy[list[Row]]:
    pairs = st.tuples(texts, texts, texts).filter(lambda t: t[1] != t[2] and t[1][: len(t[0])] != t[0])
    ranked = st.lists(st.tuples(texts, st.integers(-3, 9)), min_size=2, max_size=4).filter(
        lambda some: len({rank for _, rank in some}) > 1
    )
    kinds: list[st.SearchStrategy[Row]] = [
        pairs.map(lambda t: PreferredRow(*t)),
        st.builds(UnpairedRow, texts, texts, st.booleans()),
        st.builds(PromptRow, texts),
        st.builds(lambda p, some: RankedRow(p, tuple(t for t, _ in some), tuple(r for _, r in some)), texts, ranked),
    ]
    return st.one_of([st.lists(kind, min_size=1, max_size=5) for kind in kinds])


@given(rows=st.one_of(rows_of(WORDS), rows_of(TALKS.map(tuple))), parquet=st.booleans())
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read_again(
    rows: list[Row], parquet: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round.{'parquet' if parquet else 'jsonl'}"
    assert write_preferences(path, rows) == len(rows)
    chunks = list(read_preferences(path, size=2))
    assert [row for chunk in chunks for row in chunk.rows] == rows
    assert not any(chunk.rejected for chunk in chunks)


def test_columns_are_those_of_trl(tmp_path: Path) -> None:
    write_preferences(tmp_path / "a.jsonl", [PreferredRow("p", "c", "r")])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"prompt": "p", "chosen": "c", "rejected": "r"}
    row = UnpairedRow(turns(u("q")), turns(a("x")), True)
    write_preferences(tmp_path / "a.parquet", [row])
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == [{"prompt": [u("q")], "completion": [a("x")], "label": True}]


def test_a_file_holds_rows_of_one_form_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("before\n")
    many: list[Row] = [PromptRow("p")] * 1500
    for wrong in (PromptRow(turns(u("q"))), UnpairedRow("p", "c", True)):
        with pytest.raises(InputError, match="row 1501: got a .*as in the first row"):
            write_preferences(path, [*many, wrong])
    with pytest.raises(InputError, match="row 1: got text beside a conversation"):
        write_preferences(path, [RankedRow("p", ("a", turns(a("b"))), (1, 2))])
    assert path.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [path]


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    assert write_preferences(tmp_path / "a.jsonl", []) == 0
    assert write_preferences(tmp_path / "a.parquet", []) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert list(read_preferences(tmp_path / "a.parquet")) == []


def test_rankings_and_pairs_become_other_forms() -> None:
    pairs = pairs_of(RankedRow("p", ("a", "b", "c", "d"), (3, 1, 3, 2)))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("b", "d"),
        ("b", "a"),
        ("b", "c"),
        ("d", "a"),
        ("d", "c"),
    ]
    assert unpaired_of(pairs[0]) == (UnpairedRow("p", "b", True), UnpairedRow("p", "d", False))
