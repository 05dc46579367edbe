"""The preference model: what a label moves, that its state is a function of the labels, and who is believed."""

from __future__ import annotations

from copy import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from everlearn import checks, merge, model
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.preference import (
    PreferenceModel,
    annotators,
    choose,
    features,
    improve,
    laplace,
    pair_rows,
    reward,
)
from everlearn.families.preference.model import EVIDENCE, LABELS, ROUNDS, TRUSTED
from everlearn.model import LEARN, answering, copied, cut, row_slice
from everlearn.records import Batch, Examples
from everlearn.schema import pairs as columns
from tests.support import preferences, slotworld

PLAIN = {"round": 10_000}  # the policy stays


def taught(one: PreferenceModel, rows: Examples) -> Any:
    return one.learn(rows.batch, rows.y, rows.weight)


def bytes_of(one: PreferenceModel) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in one.arrays.items()}


def test_every_check_of_the_contract() -> None:
    found = checks.run(preferences.build, preferences.labelled(18))
    assert [result for result in found if not result.ok] == []


def test_each_label_moves_the_prediction_of_its_pair() -> None:
    one = preferences.build(**PLAIN)
    pair = preferences.row(0, 3, 250)
    for at in range(4):  # later ones narrow the posterior, too, which brings a mean probability nearer to 1/2
        before = one.predict(pair)[0, 1]
        one.learn(pair, np.ones(1), np.ones(1, np.float32))
        assert one.predict(pair)[0, 1] > before, at
    mirrored = preferences.row(0, 250, 3)
    assert one.predict(mirrored)[0, 1] == pytest.approx(one.predict(pair)[0, 0], abs=1e-6)


def test_the_reward_model_learns_the_taste() -> None:
    one, rows = preferences.build(**PLAIN), preferences.labelled(100)
    taught(one, rows)
    right = (one.predict(rows.batch)[:, 1] > 0.5) == (rows.y > 0.5)
    assert right.mean() > 0.7  # of the labels themselves; a quarter is noise


def test_the_map_of_features_is_settled_before_the_policy_moves() -> None:
    """The labels from before are learned again by the new map, so predictions of them stay on their side."""
    one, rows = preferences.build(round=16), preferences.labelled(40)
    maps = []
    for first in range(0, 40, 8):
        taught(one, cut(rows, first, first + 8))
        maps.append(one.part("features")["mapping"].copy())
    assert [bool(np.array_equal(a, b)) for a, b in pairwise(maps)] == [False, True, True, True]
    assert features.settled(one.part("features"))
    right = (one.predict(cut(rows, 0, 16).batch)[:, 1] > 0.5) == (rows.y[:16] > 0.5)
    assert right.mean() > 0.7


def test_a_restart_between_any_two_labels_changes_no_byte() -> None:
    rows, whole, parts = preferences.labelled(40), preferences.build(), preferences.build()
    expected = taught(whole, rows)
    got = []
    for first in range(0, 40, 7):
        fresh = preferences.build()
        model.restore(fresh, parts.arrays)
        parts = fresh
        got.append(taught(parts, cut(rows, first, min(first + 7, 40))))
    assert np.concatenate(got).tobytes() == expected.tobytes()
    assert bytes_of(parts) == bytes_of(whole)
    assert whole.part("progress")["counts"][ROUNDS] == 2


def test_a_copy_learns_alone_and_shares_the_frozen_weights() -> None:
    one = preferences.build()
    taught(one, preferences.labelled(8))
    twin, before = copy(one), bytes_of(one)
    assert bytes_of(twin) == before
    taught(twin, preferences.labelled(16, seed=1))
    assert bytes_of(one) == before
    frozen = [weight for weight in one.policy.module.parameters() if not weight.requires_grad]
    others = [weight for weight in twin.policy.module.parameters() if not weight.requires_grad]
    assert [weight.data_ptr() for weight in frozen] == [weight.data_ptr() for weight in others]


def test_what_serves_needs_no_arrays_of_learning() -> None:
    one, other = preferences.build(), preferences.build()
    rows = preferences.labelled(20)
    taught(one, rows)
    served = copied(answering(one.arrays))
    assert not any(name.startswith(LEARN) for name in served)
    for array in served.values():
        array.flags.writeable = False
    other.arrays = served
    assert other.predict(rows.batch).tobytes() == one.predict(rows.batch).tobytes()


def test_a_pair_with_a_known_answer_judges_only_the_annotator() -> None:
    one = preferences.build(**PLAIN)
    gold = preferences.row(0, 3, 250, arm="gold")
    for _ in range(12):
        one.learn(gold, np.zeros(1), np.ones(1, np.float32))  # the second answer, which is known to be worse
    assert one.part("progress")["counts"][LABELS] == 0
    assert not one.part("reward")["weights"].any()
    assert annotators.NAMES[annotators.named(one.part("annotators"))[1]] == "inverted"


def test_repeated_pairs_and_times_judge_the_annotator() -> None:
    """The model's prediction counts for fresh pairs, an annotator's earlier judgement for repeated ones."""
    one, plain = preferences.build(**PLAIN), preferences.build(**PLAIN)
    for turn in range(24):
        again = preferences.row(0, 3, 250, arm="again", before=turn % 2, seconds=0.5 if turn % 2 else 8.0)
        one.learn(again, np.ones(1), np.ones(1, np.float32))  # the same as before in every other turn
    table = one.part("annotators")
    assert annotators.consistency(table)[1] == 0.5
    assert annotators.reliability(table)[1] < annotators.reliability(plain.part("annotators"))[1] - 0.1
    mean, hasty = annotators.seconds(table)
    assert (mean[1], hasty[1]) == (pytest.approx(2.0), 0.5)
    assert one.summary()["annotators"][0]["consistency"] == 0.5
    assert not one.part("progress")["counts"].any()  # the first judgement has taught all that they could
    assert not one.part("reward")["weights"].any()
    assert one.measures()["brier"]["again"] is not None
    assert one.measures()["trusted"] == 0


def rated(prompt: int, answer: int) -> Batch:
    """A single answer that a user has rated."""
    pair = preferences.row(prompt, answer, answer, source="implicit/thumbs", arm="chat")
    dense = pair.dense.copy()
    dense[0, columns.SECOND] = 0
    kept = len(pair.indices) - slotworld.SLOTS
    return Batch(dense, np.array([0, kept]), pair.indices[:kept], pair.values[:kept])


@pytest.mark.parametrize("forgotten", [False, True])
def test_labels_keep_their_answers_when_the_map_of_features_changes(forgotten: bool) -> None:
    """Single answers are among the pairs, or a group forgets some: a label's number still is that of its answers."""
    one, rows = preferences.build(**PLAIN), preferences.labelled(31, groups=True)
    for at in range(31):
        one.learn(cut(rows, at, at + 1).batch, rows.y[at : at + 1], np.ones(1, np.float32))
        if at % 3 == 0 and not forgotten:
            one.learn(rated(0, at), np.ones(1), np.ones(1, np.float32))
        if at == 20 and forgotten:
            reward.forget(one.part("reward"), 1, 0)
    head, n = one.part("reward"), int(one.part("reward")["learn/counts"][laplace.COUNT])
    held = features.kept(one.part("features"), head["learn/number"][:n])
    np.testing.assert_allclose(head["learn/difference"][:n], held[0] - held[1], atol=1e-5)
    assert int(head["learn/counts"][laplace.TOTAL]) == int(one.part("features")[features.PAIRS][0])
    raw = one.part("features")[features.KEPT_ANSWERS][:, head["learn/number"][:n]]
    known = [one._raw_pair(pair_rows.read(row_slice(rows.batch, at, at + 1)), 0) for at in range(31)]
    for place, label in enumerate(head["learn/label"][:n]):  # and the label is that of its answers
        same = [at for at, pair in enumerate(known) if np.allclose(pair, raw[:, place], atol=1e-6)]
        assert not same or rows.y[same[0]] == label


def test_arms_are_those_that_the_model_drew() -> None:
    one = preferences.build(**PLAIN)
    for arm in ("random", "active", "duel", "file"):
        one.learn(preferences.row(0, 3, 250, arm=arm), np.ones(1), np.ones(1, np.float32))  # type: ignore[arg-type]
    edit = preferences.row(0, 3, 250, arm="active")
    edit.dense[0, columns.ARM] = columns.UNASKED
    one.learn(edit, np.ones(1), np.ones(1, np.float32))
    assert one.part("reward")["learn/arm"][:5].tolist() == [0, 1, -1, -1, -1]


def test_versions_merge_before_all_questions_are_known() -> None:
    one, other = preferences.build(**PLAIN), preferences.build(**PLAIN)
    taught(one, preferences.labelled(2))
    taught(other, preferences.labelled(3, seed=1))
    whole = merge.merged(merge.completed(merge.How(method="linear"), 2), [one, other])
    assert np.isfinite(whole["asking/information"]).all()
    assert choose.teaches({name: whole[f"asking/{name}"] for name in ("information", "worth")})


def test_the_random_arm_follows_what_questions_teach() -> None:
    one = preferences.build(**PLAIN)
    for arm, seen in (("active", 0), ("random", 3), ("duel", 3)):
        for _ in range(3):
            one.learn(preferences.row(0, 3, 250, arm=arm), np.ones(1), np.ones(1, np.float32))
        assert one.part("asking")["worth"][choose.SEEN] == seen
    value = one.part("asking")["information"][:3]
    assert (value > 0.0).all()


def test_evidence_of_skill_is_the_most_there_was() -> None:
    """A policy that has moved on evidence is not pulled back by a few labels that its model did not expect."""
    one, pair, found = preferences.build(**PLAIN), preferences.row(0, 3, 250), []
    for label in (1.0, 0.0):
        for _ in range(8):
            one.learn(pair, np.array([label]), np.ones(1, np.float32))
        found.append(float(one.part("progress")["counts"][EVIDENCE]))
    assert found[0] == found[1] > improve.LUCK > annotators.skill(one.part("annotators"))


def test_a_group_whose_taste_turned_is_found_and_learned_again() -> None:
    one = preferences.build(**PLAIN)
    better, worse = (one for one in np.argsort(slotworld.world().gold[0])[[-1, 0]].tolist())
    pair = preferences.row(0, better, worse, group="prompt 0")

    def judge(times: int, label: float) -> None:
        for _ in range(times):
            one.learn(pair, np.array([label]), np.ones(1, np.float32))

    judge(60, 1.0)
    assert one.predict(pair)[0, 1] > 0.8
    judge(8, 0.0)
    number = 1  # the first group that came
    assert one.part("drift")["groups"][number, 1] >= 1
    judge(60, 0.0)
    assert one.predict(pair)[0, 1] < 0.5


def test_labels_of_a_judge_count_and_are_not_trusted() -> None:
    one = preferences.build(**PLAIN)
    taught(one, preferences.labelled(6, source="judge/strict@00ff"))
    taught(one, preferences.labelled(4))
    assert one.part("progress")["counts"][:3].tolist() == [10.0, 4.0, 0.0]
    assert one.part("progress")["counts"][TRUSTED] == 4
    assert (one.part("reward")["bias"][1] != 0).any()  # the judge's own taste
    assert not one.part("reward")["bias"][0].any()


def test_a_reward_model_that_does_not_learn_stays() -> None:
    one = preferences.build(
        reward={"learn": False, "window": 128}, improve={**preferences.SPEC["improve"], "method": "ppo"}
    )
    before = {name: array.copy() for name, array in one.part("reward").items()}
    policy = one.policy.arrays["learn/steps"].copy()
    taught(one, preferences.labelled(16))
    assert all(np.array_equal(before[name], array) for name, array in one.part("reward").items())
    assert one.policy.arrays["learn/steps"] > policy


@pytest.mark.parametrize("method", ["dpo", "kto", "regression"])
def test_a_method_by_name_moves_the_policy(method: str) -> None:
    one = preferences.build(improve={**preferences.SPEC["improve"], "method": method, "ramp": 0.0})
    before = one.policy.arrays["learn/steps"].copy()
    taught(one, preferences.labelled(16))
    after = one.policy.arrays
    assert after["learn/steps"] == before + 2
    moved = [
        name
        for name in after
        if name.startswith("policy/")
        and not np.array_equal(after[name], after["reference" + name.removeprefix("policy")])
    ]
    assert moved


def test_a_row_without_weight_changes_nothing() -> None:
    one = preferences.build()
    before, rows = bytes_of(one), preferences.labelled(3)
    scores = one.learn(rows.batch, rows.y, np.zeros(3, np.float32))
    assert scores.tobytes() == one.predict(rows.batch).tobytes()
    assert bytes_of(one) == before


def test_tokens_beyond_the_model_are_refused() -> None:
    one, pair = preferences.build(), preferences.row(0, 3, 250)
    assert one.refused(pair) == {}
    pair.indices[-1] = slotworld.PROMPTS + slotworld.WORDS
    assert "expected ids from 0 to 12" in one.refused(row_slice(pair, 0, 1))[0]
    with pytest.raises(InputError, match="row 0 is no pair of answers"):
        one.learn(pair, np.ones(1), np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"improve": {"method": "dpoo"}}, "improve.method: got 'dpoo'; expected one of bon"),
        ({"choose": {"selector": "best"}}, "choose.selector: got 'best'; expected one of random"),
        ({"weights": "all", "dtype": "bfloat16"}, "with all weights trained; expected float32"),
        ({"rewrd": {}}, "rewrd: unknown setting"),
        ({"model": "tests.support.slotworld:nothing"}, "nothing"),
    ],
)
def test_a_wrong_setting_is_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preferences.build(**changes)


def test_arrays_of_another_model_are_refused() -> None:
    one, other = preferences.build(), preferences.build(prompts=9)
    with pytest.raises(ModelError, match="learn/pool/ids"):
        model.restore(one, other.arrays)
