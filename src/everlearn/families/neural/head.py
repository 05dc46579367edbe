"""The head "ncm": predict the class whose mean of remembered features is nearest.

Features are the inputs of the last linear layer. A last layer that learns from a stream favours the newest classes;
means of remembered rows do not. Follows iCaRL (Rebuffi et al. 2017, algorithm 1): features of length 1, their mean for
each class, again of length 1, and the class whose mean is nearest. Means belong to the weights of the last refresh:
see `due`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Inputs, TensorRows

SHARE = 2  # a refresh, one forward pass over the memory, is due for each SHARE x the held rows of new rows
SHARPNESS = tuple(2.0**power for power in range(12))  # values tried


def start(module: nn.Module, classes: int) -> Tensors:
    """Allocate the tensors of a head, on the module's device.

    `means` float32 (classes, features) are 0; `held` int64 (classes,) is the number of rows in each mean; `sharpness`
    float32 (1,) is the factor of distances. Raises `ConfigError` where the module has no linear layer.

    >>> own = start(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), classes=3)
    >>> own["means"].shape
    torch.Size([3, 5])
    """
    weight = last(module).weight
    return {
        "means": torch.zeros((classes, weight.shape[1]), device=weight.device),
        "held": torch.zeros(classes, dtype=torch.int64, device=weight.device),
        "sharpness": torch.ones(1, device=weight.device),
    }


def last(module: nn.Module) -> nn.Linear:
    """Return the last linear layer, in the order of `named_modules`; raise `ConfigError` where there is none.

    The two layers of an adapter do not count; the layer that it adapts does.
    """
    found = [
        layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and ".lora_" not in f".{name}"
    ]
    if not found:
        raise ConfigError(
            f"head 'ncm' needs features, the input of the last nn.Linear, and {type(module).__name__} has no such "
            "layer; set head to 'module'"
        )
    return found[-1]


def features(module: nn.Module, call: Callable[[Inputs], Tensor], x: Inputs) -> Tensor:
    """Return the inputs of the last linear layer, float32 (n, features), scaled to length 1; runs `call(x)`."""
    seen: list[Tensor] = []
    hook = last(module).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        call(x)
    finally:
        hook.remove()
    return functional.normalize(seen[-1].detach().float().flatten(1), dim=1)


@torch.no_grad()
def refresh(own: Tensors, module: nn.Module, call: Callable[[Inputs], Tensor], parts: Iterable[TensorRows]) -> None:
    """Compute the means again from remembered rows, in parts of any size; a class without rows has no mean.

    The sharpness is the power of 2, up to 2,048, that makes the labels of these rows likeliest.
    """
    found, labels = [], []
    for rows in parts:
        found.append(features(module, call, rows.x))
        labels.append(rows.y)
    if not found:
        return
    points, y = torch.cat(found), torch.cat(labels)
    own["held"].copy_(torch.bincount(y, minlength=own["held"].shape[0]))
    sums = torch.zeros_like(own["means"]).index_add_(0, y, points)
    own["means"].copy_(functional.normalize(sums, dim=1))
    own["sharpness"].fill_(1.0)
    scores = answer(own, points)
    losses = [float(functional.cross_entropy(scores * factor, y)) for factor in SHARPNESS]
    own["sharpness"].fill_(SHARPNESS[losses.index(min(losses))])


def answer(own: Tensors, points: Tensor) -> Tensor:
    """Return logits float32 (n, classes) of features (n, features): minus the sharpened squared distance to each mean.

    Both have length 1, so the squared distance is 2 minus twice their product. A class without a mean has the logit
    minus infinity. If no class has a mean, all logits are 0.
    """
    apart = 2.0 - 2.0 * points @ own["means"].T
    absent = own["held"] == 0
    return (-own["sharpness"] * apart).masked_fill(absent & ~absent.all(), -torch.inf).masked_fill(absent.all(), 0.0)


def due(learned: int, held: int, room: int, batch: int) -> bool:
    """Return True if means are due after `learned` minibatches of `batch` rows, with `held` of `room` rows remembered.

    While the memory fills, they are due when the number of minibatches is a power of 2, which costs a forward pass of
    fewer than two rows for each learned row. In a full memory, they are due for each 2 x `held` new rows, which costs
    a few per cent of training, however large the memory.

    >>> [learned for learned in range(400) if due(learned, held=500, room=500, batch=10)]
    [100, 200, 300]
    >>> [learned for learned in range(50) if due(learned, held=10 * learned, room=500, batch=10)]
    [1, 2, 4, 8, 16, 32]
    """
    if held < room:
        return learned > 0 and learned & (learned - 1) == 0
    return learned > 0 and learned % max(1, -(-SHARE * held // batch)) == 0
