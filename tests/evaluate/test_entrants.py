"""The contestant of a model of Everlearn: its scores, and the bytes of its arrays."""

from __future__ import annotations

import everlearn as el
from everlearn.evaluate.entrants import ModelEntrant, Piece


def test_a_model_steps_through_pieces_with_late_labels() -> None:
    stream = el.generate("sea", rows=500)
    whole, parts = (ModelEntrant(el.build({"family": "linear"}, el.schema.shape(stream.schema)), 7) for _ in "ab")
    (chunk,) = stream.chunks()
    scores = whole.step(Piece(chunk.examples, []))
    begin = 0
    for piece in stream.chunks(size=33):
        found = parts.step(Piece(piece.examples, []))
        assert (found == scores[begin : begin + len(found)]).all()
        begin += len(found)
    assert begin == 500
    assert whole.size() == sum(array.nbytes for array in whole.model.arrays.values()) > 0
