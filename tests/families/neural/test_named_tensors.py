"""Named tensors: modules bound to them, copies that share them, and dtypes without arrays."""

from __future__ import annotations

import pytest

from everlearn._torch import nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.named_tensors import BoundModule, digest, names, sharing_copy
from tests.support.neural_nets import Counts, one_thread  # noqa: F401  (one_thread)


def test_a_replaced_buffer_is_copied_into_the_bound_tensor() -> None:
    bound = BoundModule(Counts(2, 3))
    tensors = {name: held.clone() for name, held in bound.module.state_dict().items()}
    bound.bind(tensors)
    bound.module(torch.ones(4, 2))  # puts another tensor in the place of its buffer
    assert tensors["passes"] == 0
    bound.gather(tensors)
    assert tensors["passes"] == 1
    assert bound.module.passes is tensors["passes"]


def test_a_copy_shares_tensors_and_requires_gradients_where_wanted() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copied = sharing_copy(module, ("0.weight",))
    with torch.no_grad():
        module[0].weight.fill_(7.0)
        module[1].running_mean.fill_(5.0)
    assert (copied[0].weight == 7.0).all()
    assert (copied[1].running_mean == 5.0).all()
    assert [name for name, weight in copied.named_parameters() if weight.requires_grad] == ["0.weight"]
    assert names(copied).fixed == ("0.bias", "1.weight", "1.bias")


def test_a_digest_differs_with_one_number() -> None:
    module = nn.Linear(2, 3)
    before = digest(module, ("weight",))
    with torch.no_grad():
        module.bias[0] += 1.0
    assert torch.equal(digest(module, ("weight",)), before)
    with torch.no_grad():
        module.weight[0, 0] += 1.0
    assert not torch.equal(digest(module, ("weight",)), before)


def test_a_dtype_that_arrays_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="'bias' is torch.bfloat16" + "|'weight' is torch.bfloat16"):
        names(nn.Linear(2, 3).bfloat16())
