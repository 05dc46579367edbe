"""Answers by the nearest class mean: of what goes into the last linear layer, over the remembered rows.

A last layer that learns from a stream leans towards the newest classes; means of remembered rows do not. Follows
iCaRL (Rebuffi et al. 2017, algorithm 1): features of length 1, their mean for each class, again of length 1, and the
class whose mean is nearest. Means are those of the weights that they were made with: see `due`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Inputs, Rows

SHARE = 2  # each refresh costs one forward pass of the memory, as often as the memory has been seen twice in batches
SHARPNESS = tuple(2.0**power for power in range(12))  # that are tried


def start(module: nn.Module, classes: int) -> Tensors:
    """The tensors of a head, on the module's device: `means` float32 (classes, features), all 0; `held` int64
    (classes,), how many rows each mean is of; `sharpness` float32 (1,), what distances are multiplied by.

    Raises `ConfigError` where the module has no linear layer.

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
    """The last linear layer, in the order in which layers are named; raises `ConfigError` where there is none.

    The two of an adapter are none: where the last layer has one, it is the layer that the adapter stands beside.
    """
    found = [one for name, one in module.named_modules() if isinstance(one, nn.Linear) and ".lora_" not in f".{name}"]
    if not found:
        raise ConfigError(
            f"head 'ncm' needs features, the input of the last nn.Linear, and {type(module).__name__} has no such "
            "layer; set head to 'module'"
        )
    return found[-1]


def features(module: nn.Module, call: Callable[[Inputs], Tensor], x: Inputs) -> Tensor:
    """What goes into the last linear layer, float32 (n, features), of length 1; runs `call(x)`, a forward pass."""
    seen: list[Tensor] = []
    hook = last(module).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        call(x)
    finally:
        hook.remove()
    return functional.normalize(seen[-1].detach().float().flatten(1), dim=1)


@torch.no_grad()
def refresh(own: Tensors, module: nn.Module, call: Callable[[Inputs], Tensor], parts: Iterable[Rows]) -> None:
    """Make the means anew from remembered rows, in parts of any size; a class without rows has none.

    The sharpness is the power of 2, up to 2,048, under which the labels of these rows are likeliest.
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
    losses = [float(functional.cross_entropy(scores * one, y)) for one in SHARPNESS]
    own["sharpness"].fill_(SHARPNESS[losses.index(min(losses))])


def answer(own: Tensors, points: Tensor) -> Tensor:
    """Logits float32 (n, classes) of features (n, features): minus the squared distance to each mean, sharpened.

    Both have length 1, so that distance is 2 less twice their product. A class without a mean has minus
    infinity, unless none has one: then all are 0.
    """
    apart = 2.0 - 2.0 * points @ own["means"].T
    absent = own["held"] == 0
    return (-own["sharpness"] * apart).masked_fill(absent & ~absent.all(), -torch.inf).masked_fill(absent.all(), 0.0)


def due(learned: int, held: int, room: int, batch: int) -> bool:
    """Whether means are to be made anew after this many minibatches of `batch` rows, with `held` rows remembered and
    room for `room`.

    Once the memory is full, for each 2 x `held` new rows, so that it costs a learning stream a few per cent, however
    large the memory. While it fills, when the number of minibatches is a power of 2: fewer than two rows are looked at
    for each that is learned.

    >>> [learned for learned in range(400) if due(learned, held=500, room=500, batch=10)]
    [100, 200, 300]
    >>> [learned for learned in range(50) if due(learned, held=10 * learned, room=500, batch=10)]
    [1, 2, 4, 8, 16, 32]
    """
    if held < room:
        return learned > 0 and learned & (learned - 1) == 0
    return learned > 0 and learned % max(1, -(-SHARE * held // batch)) == 0
