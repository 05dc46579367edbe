"""Prompts, masks and log-probabilities on tiny models of several architectures."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from everlearn.errors import InputError
from everlearn.families.preference.text import (
    following,
    logprobs,
    pad,
    read_answers,
    render,
    stop_tokens,
    token_logprobs,
)
from tests.support.tiny_lms import NAMES, tiny, tokenizer

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12], [13], [14, 15, 16, 17, 18]]
ANSWERS = [[20, 21], [22, 23, 24, 25, 26, 27, 28, 29], [30], [31, 32, 33, 34, 35]]


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_no_log_probability(name: str) -> None:
    model = tiny(name)
    found, mask = token_logprobs(model, PROMPTS, ANSWERS)
    assert mask.sum(1).tolist() == [len(answer) for answer in ANSWERS]
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        plain = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(1)  # no mask, no positions
        expected = [float(plain[len(prompt) - 1 + i, token].detach()) for i, token in enumerate(answer)]
        np.testing.assert_allclose(found[row][mask[row]].detach().numpy(), expected, atol=1e-5)
        assert (found[row][~mask[row]] == 0).all()
    torch.testing.assert_close(logprobs(model, PROMPTS, ANSWERS), found.sum(1))


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
        np.testing.assert_allclose(found.features[row], [*expected, len(answer)], atol=1e-4, rtol=1e-5)
    last = read_answers(model, PROMPTS, ANSWERS, layers=[-1]).features
    np.testing.assert_allclose(last, found.features[:, 64:], atol=1e-4, rtol=1e-5)
    none = read_answers(model, [[1, 2], [1, 2]], [[], [3]]).features
    assert not none[0].any()  # an answer that is not there


def test_gradients_are_those_of_single_answers() -> None:
    model = tiny("llama")
    logprobs(model, PROMPTS, ANSWERS).sum().backward()
    together = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        logprobs(model, [prompt], [answer]).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(together[name], weight.grad, atol=1e-4, rtol=1e-4)


def test_empty_answers_have_probability_one_and_empty_prompts_are_refused() -> None:
    model = tiny("llama")
    assert logprobs(model, [[1], [2]], [[], []]).tolist() == [0.0, 0.0]
    assert logprobs(model, [[1, 2], [2]], [[], [3]])[0] == 0.0
    with pytest.raises(InputError, match=r"prompt: got no tokens"):
        pad([[]], [[1]])
    with pytest.raises(InputError, match=r"answers: got none"):
        read_answers(model, [], [])


# ---- templates -----------------------------------------------------------------------------------------------------

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "I am well"},
    {"role": "user", "content": "how are you"},
]


def test_messages_are_rendered_by_the_template_up_to_the_answer() -> None:
    with_template = tokenizer(True)
    text = with_template.decode(render(with_template, TALK))
    assert text == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
        "I am well<|im_end|>\n<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(with_template, "hello") == render(with_template, [{"role": "user", "content": "hello"}])


def test_without_a_template_text_stays_and_messages_become_lines() -> None:
    plain = tokenizer(False)
    assert plain.decode(render(plain, "hello there")) == "<s>hello there"
    assert plain.decode(render(plain, TALK[1:])) == (
        "<s>user: hello there\nassistant: I am well\nuser: how are you\nassistant:"
    )


@pytest.mark.parametrize("template", [True, False])
def test_a_chat_goes_on_from_the_ids_that_were_sampled(template: bool) -> None:
    chosen = tokenizer(template)
    prompt = render(chosen, TALK[:2])
    whole = chosen.encode("I am well", add_special_tokens=False)
    spelled = [one for letter in "I am well" for one in chosen.encode(letter, add_special_tokens=False)]
    assert spelled != whole  # the model sampled other tokens than the tokenizer would choose for the same text
    stop = chosen.convert_tokens_to_ids("<|im_end|>")
    ended = following(chosen, prompt, [*spelled, stop], TALK[3:])
    cut = following(chosen, prompt, spelled, TALK[3:])
    assert ended[: len(prompt) + len(spelled) + 1] == [*prompt, *spelled, stop]
    assert cut[: len(prompt) + len(spelled)] == [*prompt, *spelled]
    if template:
        assert ended == cut  # the template closes the cut answer, and does not close the other again
        assert following(chosen, prompt, [*whole, stop], TALK[3:]) == render(chosen, TALK)
    else:
        assert chosen.decode(following(chosen, prompt, whole, TALK[3:])) == chosen.decode(render(chosen, TALK)).replace(
            "assistant: I", "assistant:I"
        )


def test_messages_that_cannot_be_rendered_are_refused() -> None:
    with pytest.raises(InputError, match=r"each with a role and a content"):
        render(tokenizer(True), [{"role": "user"}])
    changed = copy.deepcopy(tokenizer(True))
    changed.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"the chat template refuses them: roles must alternate"):
        render(changed, TALK)
    changed.chat_template = None
    with pytest.raises(InputError, match=r"prompt: got no tokens"):
        render(changed, "")


def test_stop_tokens_are_those_of_the_model_and_the_tokenizer() -> None:
    model = tiny("llama")
    assert stop_tokens(model) == ()
    model.generation_config.eos_token_id = [7, 9]
    assert stop_tokens(model, tokenizer(True)) == (7, 9, tokenizer(True).eos_token_id)
