"""Policy and reference as named arrays: all weights, adapters, stored and restored."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from everlearn.errors import ConfigError, ModelError
from everlearn.families.neural.settings import Lora
from everlearn.families.preference.passes import logprobs
from everlearn.families.preference.policy import FROZEN, POLICY, REFERENCE, VALUE, Policy, load_model
from tests.support.tiny_lms import tiny

PROMPTS, ANSWERS = [[1, 2], [3]], [[4, 5, 6], [7]]
ADAM = {"name": "adam", "lr": 0.01}


def make() -> torch.nn.Module:
    """A model as a user's function makes it."""
    return tiny("qwen2")


def learn(policy: Policy, steps: int = 1) -> None:
    for _ in range(steps):
        policy.step([-logprobs(policy.module, PROMPTS, ANSWERS).sum()])


def likelihood(module: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        return logprobs(module, PROMPTS, ANSWERS).tolist()


def test_settings_of_adapters_are_kept_where_all_linear_layers_get_one() -> None:
    policy = Policy(tiny("llama"), lora=Lora(rank=2, dora=True, rslora=True))
    assert any(".lora_magnitude_vector" in name for name in policy.arrays)
    layer = policy.module.get_submodule("model.layers.0.self_attn.q_proj")
    assert layer.scaling["default"] == Lora(rank=2).alpha / 2**0.5  # type: ignore[index,operator]


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_policy_learns_and_the_reference_stays(name: str, lora: Lora | None) -> None:
    start = likelihood(tiny(name))
    policy = Policy(tiny(name), lora=lora, optimizer=ADAM)
    assert likelihood(policy.module) == start  # B is 0
    names = set(policy.arrays)
    learn(policy, 5)
    assert set(policy.arrays) == names
    assert sum(likelihood(policy.module)) > sum(start) + 1
    with policy.reference() as module:
        assert likelihood(module) == start
    assert sum(likelihood(policy.module)) > sum(start) + 1
    trained = {name.removeprefix(POLICY) for name in names if name.startswith(POLICY)}
    assert trained == {name.removeprefix(REFERENCE) for name in names if name.startswith(REFERENCE)}
    if lora:
        assert all(".lora_" in name for name in trained)
        assert not any("lm_head" in name for name in trained)
        size = sum(one.nbytes for name, one in policy.arrays.items() if name.startswith(POLICY))
        assert size < sum(weight.nbytes for weight in policy.module.parameters()) / 3
    else:
        assert trained == dict(policy.module.named_parameters()).keys()


def test_adapters_take_the_layers_that_are_named() -> None:
    policy = Policy(tiny("llama"), lora=Lora(rank=2, targets=("q_proj",)))
    names = [name for name in policy.arrays if name.startswith(POLICY)]
    assert len(names) == 4
    assert all("q_proj" in name for name in names)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("value", [True, False])
def test_a_policy_goes_on_from_stored_arrays_with_the_same_bytes(lora: Lora | None, value: bool) -> None:
    whole = Policy(tiny("gemma3"), lora=lora, optimizer=ADAM, value=value)
    learn(whole, 2)
    stored = {name: one.copy() for name, one in whole.arrays.items()}
    learn(whole, 2)
    resumed = Policy(tiny("gemma3"), lora=lora, optimizer=ADAM, value=value)
    resumed.restore(stored)
    learn(resumed, 2)
    assert resumed.steps == 4
    for name, one in whole.arrays.items():
        assert one.tobytes() == resumed.arrays[name].tobytes(), name
    assert (VALUE + "weight" in stored) == value


def test_arrays_that_do_not_fit_are_refused() -> None:
    policy = Policy(tiny("llama"), lora=Lora(rank=2))
    stored = {name: one.copy() for name, one in policy.arrays.items()}
    learn(policy)
    now = likelihood(policy.module)
    with pytest.raises(ModelError, match=r"'learn/steps' is missing"):
        policy.restore({name: one for name, one in stored.items() if name != "learn/steps"})
    with pytest.raises(ModelError, match=r"'more' was not expected"):
        policy.restore({**stored, "more": np.zeros(1)})
    with pytest.raises(ModelError, match=r"'learn/steps' is int32 \(\), expected int64 \(\)"):
        policy.restore({**stored, "learn/steps": np.zeros((), np.int32)})
    other = Policy(tiny("llama", seed=1), lora=Lora(rank=2))
    with pytest.raises(ModelError, match=r"other frozen weights"):
        other.restore(stored)
    assert likelihood(policy.module) == now
    assert stored[FROZEN].tobytes() != other.arrays[FROZEN].tobytes()


def test_processes_that_answer_take_up_published_weights() -> None:
    learner, answerer = (Policy(tiny("qwen2"), lora=Lora(rank=2), optimizer=ADAM) for _ in range(2))
    learn(learner, 2)
    published = {name: one.copy() for name, one in learner.arrays.items() if not name.startswith("learn/")}
    answerer.adopt(published)
    assert likelihood(answerer.module) == likelihood(learner.module)
    assert answerer.steps == 0
    answerer.adopt(learner.arrays)
    assert answerer.steps == 0
    with pytest.raises(ModelError, match=r"'base' is missing"):
        answerer.adopt({name: one for name, one in published.items() if name != FROZEN})
    with pytest.raises(ModelError, match=r"'learn/steps' is missing"):
        answerer.restore(published)
    np.testing.assert_array_equal(answerer.read(PROMPTS, ANSWERS).logp, np.array(likelihood(tiny("qwen2")), np.float32))


def test_copies_share_the_frozen_weights_alone() -> None:
    policy = Policy(tiny("llama"), lora=Lora(rank=2), optimizer=ADAM)
    learn(policy)
    twin = copy.copy(policy)
    held, others = dict(policy.module.named_parameters()), dict(twin.module.named_parameters())
    for name, weight in held.items():
        assert (weight.data_ptr() == others[name].data_ptr()) != weight.requires_grad, name
    before = likelihood(policy.module)
    assert likelihood(twin.module) == before
    learn(twin)
    assert likelihood(policy.module) == before
    learn(policy)
    assert likelihood(twin.module) == likelihood(policy.module)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within PEFT
def test_adapters_are_read_by_peft(tmp_path: Path) -> None:
    import peft

    from everlearn.families.neural.lora import export

    policy = Policy(tiny("llama"), lora=Lora(rank=2), optimizer=ADAM)
    learn(policy, 3)
    export(policy.module, tmp_path)
    found = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path).eval()
    np.testing.assert_allclose(likelihood(found), likelihood(policy.module), atol=1e-5)
    assert sum(likelihood(found)) > sum(likelihood(tiny("llama"))) + 0.5


def test_a_step_that_is_not_finite_is_skipped_and_counted() -> None:
    policy = Policy(tiny("llama"), optimizer=ADAM)
    before = likelihood(policy.module)
    policy.step([logprobs(policy.module, PROMPTS, ANSWERS).sum() * np.inf])
    assert likelihood(policy.module) == before
    assert (policy.steps, int(policy.tensors["learn/skipped"])) == (1, 1)
    learn(policy)
    assert (policy.steps, int(policy.tensors["learn/skipped"])) == (2, 1)


def test_losses_in_pieces_are_one_step() -> None:
    whole, pieces = (Policy(tiny("llama"), optimizer={"name": "sgd", "lr": 0.1}) for _ in range(2))
    learn(whole)
    pieces.step(
        -logprobs(pieces.module, [prompt], [answer]).sum() for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    )
    np.testing.assert_allclose(likelihood(pieces.module), likelihood(whole.module), atol=1e-4)


def test_models_are_loaded_from_folders_and_functions(tmp_path: Path) -> None:
    model = tiny("qwen3")
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert likelihood(load_model(str(tmp_path))) == likelihood(model)
    assert not load_model(str(tmp_path)).training
    assert likelihood(load_model(f"{__name__}:make")) == likelihood(make())
    half = load_model(str(tmp_path), dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"is torch.bfloat16; expected trained weights of float32"):
        Policy(half)
    adapted = Policy(load_model(str(tmp_path), dtype="bfloat16"), lora=Lora(rank=2), optimizer=ADAM)
    before = sum(likelihood(adapted.module))
    learn(adapted, 5)
    assert sum(likelihood(adapted.module)) > before
    with pytest.raises(ConfigError, match=r"policy.model: got '.*nowhere', which cannot be loaded"):
        load_model(str(tmp_path / "nowhere"))


def test_a_model_without_trained_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no weight requires a gradient"):
        Policy(tiny("llama").requires_grad_(False))
