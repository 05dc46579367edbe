"""Log-probabilities and states on tiny models of several architectures, however passes are cut and prompts shared."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from everlearn.errors import InputError
from everlearn.families.preference import passes
from everlearn.families.preference.passes import cuts, logprobs, read_answers, token_logprobs, token_states
from tests.support.tiny_lms import NAMES, tiny

LONG = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
PROMPTS = [LONG, [11, 12], [13], [14, 15, 16, 17, 18], LONG, LONG, [13]]
ANSWERS = [[20, 21], [22, 23, 24, 25, 26, 27, 28, 29], [30], [31, 32, 33, 34, 35], [1, 2, 3, 4, 5, 6, 7], [36], []]
PRICES = [0, 12, 10_000]  # each length in a pass with shared prompts; something between; one pass, nothing shared


@pytest.fixture(params=PRICES)
def _price(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PASS", request.param)


@pytest.mark.usefixtures("_price")
@pytest.mark.parametrize("name", NAMES)
def test_neither_padding_nor_sharing_changes_a_log_probability_or_a_state(name: str) -> None:
    model = tiny(name)
    found, mask = token_logprobs(model, PROMPTS, ANSWERS)
    again, _, states = token_states(model, PROMPTS, ANSWERS)
    assert mask.sum(1).tolist() == [len(answer) for answer in ANSWERS]
    torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-5)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        plain = model(input_ids=torch.tensor([prompt + answer]), output_hidden_states=True)  # no mask, no positions
        logp = plain.logits[0].log_softmax(1)
        expected = [float(logp[len(prompt) - 1 + i, token].detach()) for i, token in enumerate(answer)]
        np.testing.assert_allclose(found[row][mask[row]].detach().numpy(), expected, atol=1e-5)
        assert (found[row][~mask[row]] == 0).all()
        before = plain.hidden_states[-1][0, len(prompt) - 1 : -1].detach()
        torch.testing.assert_close(states[row][mask[row]], before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logprobs(model, PROMPTS, ANSWERS), found.sum(1))


@pytest.mark.usefixtures("_price")
@pytest.mark.parametrize("name", NAMES)
def test_features_are_hidden_states_summed_over_the_answer_and_those_of_its_last_token(name: str) -> None:
    model = tiny(name)
    found = read_answers(model, PROMPTS, ANSWERS, rows=3)
    np.testing.assert_allclose(found.logp, logprobs(model, PROMPTS, ANSWERS).detach().numpy(), atol=1e-5)
    assert found.features.dtype == np.float32
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        states = model(input_ids=torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states
        held = [states[layer][0].detach().numpy() for layer in (1, 2)]
        expected = np.concatenate([part for one in held for part in (one[len(prompt) :].sum(0), one[-1])])
        if not answer:
            expected *= 0.0  # an answer that is not there
        np.testing.assert_allclose(found.features[row], [*expected, len(answer)], atol=1e-4, rtol=1e-5)
    last = read_answers(model, PROMPTS, ANSWERS, layers=[-1]).features
    np.testing.assert_allclose(last, found.features[:, 64:], atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("_price")
def test_gradients_are_those_of_single_answers() -> None:
    model = tiny("llama")
    logprobs(model, PROMPTS, ANSWERS).sum().backward()
    together = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        if answer:
            logprobs(model, [prompt], [answer]).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(together[name], weight.grad, atol=1e-4, rtol=1e-4)


def test_answers_of_any_lengths_are_cut_where_the_fewest_tokens_are_computed() -> None:
    draw = np.random.default_rng(0)
    for _ in range(60):
        count, rows = int(draw.integers(1, 9)), int(draw.integers(1, 9))
        lengths = sorted(draw.integers(0, 12, count).tolist())
        prompt, price = int(draw.integers(1, 8)), int(draw.integers(0, 40))

        found = cuts(lengths, prompt, price, rows)
        inner = [end for end in range(1, count) if lengths[end] != lengths[end - 1] or end % rows == 0]
        every = [(*some, count) for size in range(len(inner) + 1) for some in itertools.combinations(inner, size)]
        assert [start for start, _ in found] == [0, *[end for _, end in found[:-1]]]
        costs = [_tokens(ends, lengths, prompt, price, rows) for ends in every]
        assert _tokens(tuple(end for _, end in found), lengths, prompt, price, rows) == min(costs)


def _tokens(ends: tuple[int, ...], lengths: list[int], prompt: int, price: int, rows: int) -> float:
    """Return the tokens that passes compute which end there, with the price of each; infinite if one has too many."""
    starts = [0, *ends[:-1]]
    if any(end - start > rows for start, end in zip(starts, ends, strict=True)):
        return np.inf
    return sum(price + (b - a) * (prompt + lengths[b - 1]) for a, b in zip(starts, ends, strict=True))


def test_empty_answers_have_probability_one_and_empty_prompts_are_refused() -> None:
    model = tiny("llama")
    assert logprobs(model, [[1], [2]], [[], []]).tolist() == [0.0, 0.0]
    assert logprobs(model, [[1, 2], [2]], [[], [3]])[0] == 0.0
    with pytest.raises(InputError, match=r"prompt: got no tokens"):
        logprobs(model, [[]], [[1]])
    with pytest.raises(InputError, match=r"answers: got none"):
        read_answers(model, [], [])
