"""Lines of a piece of text, against `str.split`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.stream.lines import PlainLines, plain_lines

TEXT = st.text(alphabet='aé"\r\n,', max_size=30)


@given(TEXT)
def test_plain_lines_are_those_of_str_split(text: str) -> None:
    found, split = plain_lines(text.encode()), text.split("\n")
    assert (found is not None) == (all(split) and not set(text) & {'"', "\r"})
    if found is not None:
        assert list(found) == split == [found[place] for place in range(len(found))]
        assert found[-1] == split[-1]
        assert found.longest == max(len(line.encode()) + 1 for line in split)


@given(st.lists(st.text(alphabet="aéb", min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_slices_and_pieces_put_together_are_lines_again(texts: list[str], data: st.DataObject) -> None:
    whole = plain_lines("\n".join(texts).encode())
    assert whole is not None
    begin = data.draw(st.integers(0, len(texts)))
    end = data.draw(st.integers(begin, len(texts)))
    part = whole[begin:end]
    assert list(part) == texts[begin:end]
    assert part.encoded() == "\n".join(texts[begin:end]).encode()
    assert all((text in part) == (text in texts[begin:end]) for text in [*texts, "a", "zz"])
    if 0 < begin < len(texts):
        assert list(whole[:begin].followed_by(whole[begin:])) == texts


def test_a_place_outside_is_refused_and_so_are_gaps() -> None:
    found = PlainLines(b"a\nb", plain_lines(b"a\nb")._starts)  # type: ignore[union-attr]
    with pytest.raises(IndexError):
        found[2]
    with pytest.raises(ValueError, match="without gaps"):
        found[::2]
