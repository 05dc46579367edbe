"""Prompts as token ids, and what a chat template makes of them."""

from __future__ import annotations

import copy

import pytest

from everlearn.errors import InputError
from everlearn.families.preference.text import following, render, stop_tokens
from tests.support.tiny_lms import tiny, tokenizer

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
