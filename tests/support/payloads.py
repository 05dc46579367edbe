"""Payloads of every kind, as strategies of Hypothesis, and short helpers to fill and read a log."""

from __future__ import annotations

from hypothesis import strategies as st

from everlearn import events
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Erased,
    Event,
    Evidence,
    Example,
    Label,
    Payload,
    Prediction,
    Preference,
    Rejected,
    Reward,
    Version,
)

EVIDENCE = Evidence(600, 25, 24, 0.01, -0.1, 0.1, 3.2, -1.5, 2.99)

# Surrogates have no UTF-8; NUL, quotes and every script have.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

floats = st.floats(allow_nan=False, allow_infinity=False)

scalars = st.booleans() | st.integers(-(10**40), 10**40) | floats | texts

json = st.recursive(
    st.none() | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)

features = st.dictionaries(texts, json, max_size=4)

counts = st.integers(0, 2**62)

versions = st.builds(
    Version, texts, st.tuples(texts), counts, texts, features, st.dictionaries(texts, floats, max_size=2), texts
)

payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(
        Prediction,
        *(texts, features, scalars, st.tuples(floats, floats), texts),
        *(counts, floats, st.booleans(), texts, features),
    ),
    st.builds(Example, texts, features, scalars, floats, texts, texts),
    st.builds(Label, texts, scalars, floats, texts),
    st.builds(Reward, texts, floats, floats, texts),
    st.builds(
        Preference, texts, st.integers(-1, 9), floats, texts, st.sampled_from(["choice", "tie", "skip"]), floats, texts
    ),
    st.builds(
        Decision,
        st.sampled_from(
            ["start", "promote", "reject", "rollback", "drift", "challenger", "withdraw", "erase", "config"]
        ),
        counts,
        texts,
        texts,
        texts,
        texts,
        texts,
        st.none() | st.just(EVIDENCE),
        features,
    ),
    st.builds(Born, versions),
    st.builds(Checkpoint, counts, texts),
    st.builds(Rejected, texts, counts, texts, texts, counts),
    st.builds(Erased, counts, texts),
)


def example(id: str, x: float = 0.5) -> Example:
    return Example(id, {"x": x}, True)


def content(log: events.Log) -> list[Event]:
    found: list[Event] = []
    while piece := log.read(found[-1].position if found else 0, limit=777):
        found += piece
    return found
