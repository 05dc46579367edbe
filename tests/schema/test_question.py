"""What was asked survives the log bit by bit, and a question that contradicts itself is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.schema.question import (
    Asked,
    SampledAnswer,
    Sampling,
    decode,
    encode,
    judged,
    pack_ids,
    pack_logp,
    unpack_ids,
    unpack_logp,
)
from tests.support.pairs import answer, question

ids = st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=9)
logps = st.floats(-(2.0**100), 0.0, width=32)


@given(ids, st.data())
def test_tokens_and_numbers_survive_the_log(tokens: list[int], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(logps, min_size=len(tokens), max_size=len(tokens)))
    one = SampledAnswer(ids=pack_ids(tokens), logp=pack_logp(numbers), finish="stop", text="é\n", version="v", uid=3)
    two = msgspec.structs.replace(one, sent=pack_logp(numbers), finish="length", seed=7)
    asked = Asked(
        prompt=pack_ids(tokens),
        answers=(one, two),
        arm="duel",
        pair=(1, 0),
        swapped=True,
        selector="double-thompson",
        propensity=0.125,
        value=0.5,
        sampling=Sampling(temperature=0.7, top_p=0.9, limit=64),
        reference="r",
        reference_logp=(-3.5, -1.25),
        group="billing",
        tokenizer="cafe",
    )
    again = decode(json.loads(json.dumps(encode(asked))))
    assert again == asked
    assert judged(again) == (two, one)
    assert unpack_ids(again.prompt).tolist() == tokens
    assert unpack_logp(again.answers[1].sent).tobytes() == np.array(numbers, np.float32).tobytes()


def test_the_payload_holds_base64_of_little_endian_numbers() -> None:
    payload = encode(question(answer(258), arm="chat", prompt=(1,)))
    assert payload["prompt"] == "AQAAAA=="
    assert payload["answers"][0]["ids"] == "AgEAAAIAAAA="
    assert payload["answers"][0]["logp"] == "AAAAvgAAgL4="  # -1/8, -1/4
    assert "sent" not in payload["answers"][0]


FINE = encode(question(answer(5, 6), answer(7)))
FIRST = FINE["answers"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "other"}, "Invalid enum value 'other'"),
        ({"pair": [0]}, r"pair: got \(0,\) of 2 answers; expected the places of two different answers"),
        ({"pair": [1, 1]}, r"pair: got \(1, 1\)"),
        ({"pair": [0, 2]}, r"pair: got \(0, 2\)"),
        ({"pair": [-1, 0]}, r"pair: got \(-1, 0\)"),
        ({"arm": "chat"}, "on the arm 'chat'; expected one answer and no pair"),
        ({"propensity": 0.0}, "propensity: got 0.0"),
        ({"propensity": 1.5}, "propensity: got 1.5"),
        ({"value": float("nan")}, "value and reference_logp: got nan"),
        ({"reference_logp": [-1.0]}, "reference_logp: got 1 sums"),
        ({"reference_logp": [-1.0, float("-inf")]}, "value and reference_logp"),
        ({"prompt": ""}, "prompt: got no tokens"),
        ({"prompt": "AQA="}, "token ids: got 2 bytes; expected 4 for each token"),
        ({"prompt": "/////w=="}, "prompt: got the token -1; expected ids from 0"),
        ({"prompt": "?"}, "Invalid base64"),
        ({"answers": [FIRST | {"logp": "AAAAvg=="}, FIRST]}, r"answers\[0\].logp: got 1 numbers; expected 3"),
        ({"answers": [FIRST, FIRST | {"sent": "AAAAvg=="}]}, r"answers\[1\].sent: got 1 numbers; expected 3"),
        ({"answers": [FIRST | {"ids": "", "logp": ""}, FIRST]}, r"answers\[0\]: got no tokens"),
        ({"answers": [FIRST | {"logp": "AACAPwAAgD8AAIA/"}, FIRST]}, "expected finite log-probabilities, at most 0"),
        ({"answers": [FIRST | {"finish": "cut"}, FIRST]}, "Invalid enum value 'cut'"),
        ({"answers": [FIRST | {"tokens": 3}, FIRST]}, "unknown field `tokens`"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_a_question_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(FINE | changes)


def test_ids_beyond_int32_are_refused() -> None:
    assert pack_ids([]) == b""
    for bad in (-1, 1 << 31):
        with pytest.raises(InputError, match=f"token ids: got {bad}"):
            pack_ids([bad])
    with pytest.raises(InputError, match="log-probabilities: got 3 bytes"):
        unpack_logp(b"abc")
