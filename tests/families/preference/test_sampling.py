"""Sampling with a cache: log-probabilities, stops, limits and distributions on tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.preference.passes import token_logprobs
from everlearn.families.preference.sampling import Truncation, draw, generate, generate_many, stream
from tests.support.tiny_lms import NAMES, VOCABULARY, tiny

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12], [13], [14, 15, 16, 17, 18]]
STOP = tuple(range(40, 50))  # a fifth of the vocabulary, so that answers end at different lengths


@pytest.mark.parametrize("name", NAMES)
def test_what_is_sampled_has_the_log_probability_of_the_forward_pass(name: str) -> None:
    model = tiny(name)
    found = generate_many(model, PROMPTS, 6, seeds=[1, 2, 3, 4], limit=12, stop=STOP)
    flat = [(prompt, one) for prompt, answers in zip(PROMPTS, found, strict=True) for one in answers]
    logp, mask = token_logprobs(model, [prompt for prompt, _ in flat], [one.ids for _, one in flat])
    for row, (_, one) in enumerate(flat):
        np.testing.assert_allclose(one.logp, logp[row][mask[row]].detach().numpy(), atol=1e-5)
        assert one.sent == one.logp
    assert len({len(one.ids) for _, one in flat}) > 3  # rows were left out of the cache on the way


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_the_batch(name: str) -> None:
    model = tiny(name)
    together = generate_many(model, PROMPTS, 4, seeds=[5, 6, 7, 8], limit=10, stop=STOP)
    for prompt, seed, answers in zip(PROMPTS, (5, 6, 7, 8), together, strict=True):
        alone = generate(model, prompt, 4, seed=seed, limit=10, stop=STOP)
        assert [one.ids for one in alone] == [one.ids for one in answers]
        assert [one.cut for one in alone] == [one.cut for one in answers]
        fewer = generate(model, prompt, 2, seed=seed, limit=10, stop=STOP)
        assert [one.ids for one in fewer] == [one.ids for one in answers[:2]]
    other = generate_many(model, PROMPTS, 4, seeds=[9, 10, 11, 12], limit=10, stop=STOP)
    assert [one.ids for one in other[0]] != [one.ids for one in together[0]]


def test_an_answer_ends_with_its_stop_token_or_was_cut() -> None:
    found = [one for seed in range(8) for one in generate(tiny("llama"), [1, 2], 4, seed=seed, limit=6, stop=STOP)]
    for one in found:
        assert not set(one.ids[:-1]) & set(STOP)
        assert (one.ids[-1] in STOP) == (not one.cut)
        assert len(one.ids) == 6 or not one.cut
        assert len(one.logp) == len(one.sent) == len(one.ids)
    assert {one.cut for one in found} == {True, False}
    assert all(one.cut and len(one.ids) == 3 for one in generate(tiny("llama"), [1], 2, limit=3))


def test_frequencies_are_those_of_the_model() -> None:
    model = tiny("gpt2")
    many = 4000
    first = [one.ids[0] for one in generate(model, [1, 2, 3], many, seed=3, limit=1)]
    chances = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(0).detach().numpy()
    observed = np.bincount(first, minlength=VOCABULARY) / many
    assert np.abs(observed - chances).sum() < 3 * np.sqrt(VOCABULARY / many)
    assert ((observed - chances) ** 2 / chances).sum() * many < 100  # chi square of 49 degrees: p = 2e-5


def test_temperature_and_nucleus_change_what_is_sent_and_not_the_logp() -> None:
    model, prompt = tiny("qwen3"), [3, 4, 5]
    plain = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(0).detach()
    for temperature, top_p in ((0.5, 1.0), (1.0, 0.6), (2.0, 0.8)):
        cooled = (plain / temperature).log_softmax(0)
        order = cooled.argsort(descending=True)
        kept = int((cooled[order].exp().cumsum(0) < top_p).sum()) + 1 if top_p < 1 else VOCABULARY
        total = cooled[order[:kept]].logsumexp(0)
        answers = generate(model, prompt, 200, seed=1, temperature=temperature, top_p=top_p, limit=1)
        assert {one.ids[0] for one in answers} <= set(order[:kept].tolist())
        for one in answers:
            assert one.logp[0] == pytest.approx(float(plain[one.ids[0]]), abs=1e-5)
            assert one.sent[0] == pytest.approx(float(cooled[one.ids[0]] - total), abs=1e-5)
    greedy = generate(model, prompt, 2, temperature=0.0, limit=5)
    assert greedy[0].ids == greedy[1].ids
    assert greedy[0].ids[0] == int(plain.argmax())
    assert greedy[0].sent == (0.0,) * 5


def test_a_number_next_to_one_never_leaves_the_nucleus() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]])
    for number in (0.0, 1 - 2**-53):
        tokens, _, sent = draw(logits, [number], Truncation(top_p=0.7))
        assert int(tokens) < 2
        assert sent.isfinite().all()


def test_a_stream_is_the_same_answers_token_by_token() -> None:
    model = tiny("llama")
    whole = generate_many(model, PROMPTS, 2, seeds=[1, 2, 3, 4], limit=8, stop=STOP)
    heard: dict[int, list[int]] = {}
    for step in stream(model, PROMPTS, 2, seeds=[1, 2, 3, 4], limit=8, stop=STOP):
        for row, token in zip(step.rows, step.tokens, strict=True):
            heard.setdefault(row, []).append(token)
    assert [tuple(heard[row]) for row in range(8)] == [one.ids for answers in whole for one in answers]


def test_requests_that_cannot_be_answered_are_refused() -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match=r"got 90 tokens, with up to 20 for the answer; the model has room for 96"):
        generate(model, [1] * 90, limit=20)
    with pytest.raises(InputError, match=r"prompt: got no tokens"):
        generate_many(model, [[1], []], seeds=[0, 1])
    with pytest.raises(ConfigError, match=r"got temperature -1"):
        generate(model, [1], temperature=-1)
    with pytest.raises(ConfigError, match=r"got 1 seeds for 2 prompts"):
        generate_many(model, [[1], [2]], seeds=[0])
    with pytest.raises(ModelError, match=r"training mode"):
        generate(model.train(), [1])
