"""Terms that learn from remembered rows: ER, ER-ACE, MIR, DER, DER++, A-GEM, and GDumb.

With `rows` 0, as many rows are drawn as came; `draws` returns -1 for that (and -2 for twice as many).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term, mean

# Random streams of the draws that terms make, apart from those of the forward pass (0, 1, ... by term).
INTERFERED, REFERENCE, EPOCHS = 1_000, 1_001, 2_000
CANDIDATES = 50  # remembered rows that "interfered" chooses from (Aljundi et al. 2019)
EVERYTHING = 1 << 40  # more rows than any memory holds: draws all of them

# Constants of GDumb (Prabhu et al. 2020, section 4).
BATCH, HIGHEST, LOWEST, MOMENTUM, DECAY, CLIP = 16, 0.05, 0.0005, 0.9, 1e-6, 10.0


class Replay(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="replay"):
    """Learn `rows` remembered rows with each minibatch (0: as many as came): experience replay.

    `loss` "joint" is the mean over new and remembered rows together (ER: Chaudhry et al. 2019, "On tiny episodic
    memories"). "asymmetric" compares the class of a new row only with classes that came in the same minibatch, so
    that new classes do not push old ones away, and adds the mean loss of remembered rows (ER-ACE: Caccia et al. 2022,
    equation 4). `retrieve` "interfered" takes, of 50 rows drawn, those whose loss would rise most by the step on the
    new rows alone (MIR: Aljundi et al. 2019, "Online continual learning with maximally interfered retrieval"); it
    costs about two passes more.
    """

    rows: Annotated[int, Meta(ge=0)] = 0
    loss: Literal["joint", "asymmetric"] = "joint"
    retrieve: Literal["uniform", "interfered"] = "uniform"


class Distill(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="distill"):
    """Reproduce the outputs that `rows` remembered rows had when they came (DER), and learn as many others (DER++).

    The loss is `alpha` times the mean squared distance of the outputs to the remembered ones, plus `beta` times the
    loss of the other rows (Buzzega et al. 2020, "Dark experience", equations 4 and 6). With `beta` 0 it is DER.
    The two draws share no row, unless fewer are held than both need; then each gets half.
    """

    rows: Annotated[int, Meta(ge=0)] = 0
    alpha: float = 0.5
    beta: float = 0.5


class Agem(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="agem"):
    """Project gradients that would raise the loss of remembered rows (A-GEM: Chaudhry et al. 2019).

    Retired: `rows`, the number of remembered rows.
    """

    rows: Annotated[int, Meta(ge=1)] = 64


class Gdumb(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="gdumb"):
    """Learn only the memory, from scratch, at each consolidation, in 30 passes (Prabhu et al. 2020).

    A baseline: a method that does no better did not learn from the stream. Between consolidations weights and buffers
    do not change. As published: SGD with momentum 0.9, batches of 16 (a last single row joins the batch before), weight
    decay 1e-6, gradients clipped at 10; a first pass at a tenth of the rate 0.05, then one cosine down to 0.0005.
    Without cutmix, which the paper leaves out for MNIST, too. Retired: `epochs`, the number of passes.
    """

    epochs: Annotated[int, Meta(ge=1)] = 30


def asymmetric(outputs: Tensor, y: Tensor) -> Tensor:
    """Return outputs (n, columns), with the lowest float in the columns of classes that are not in `y`.

    >>> asymmetric(torch.zeros(2, 3), torch.tensor([0, 2])).exp().tolist()
    [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """
    came = torch.zeros(outputs.shape[1], dtype=torch.bool, device=outputs.device).index_fill_(0, y, True)
    return outputs.masked_fill(~came, torch.finfo(outputs.dtype).min)


def project(gradients: list[Tensor], reference: list[Tensor]) -> None:
    """Change gradients in place so that a step along them does not raise the loss with gradient `reference`.

    g - (g.r / r.r) r where g.r < 0 (Chaudhry et al. 2019, equation 11), over all tensors as one vector. There is no
    branch, so that the CPU does not wait for a GPU.

    >>> step = [torch.tensor([1.0, 0.0])]
    >>> project(step, [torch.tensor([-1.0, 1.0])])
    >>> step
    [tensor([0.5000, 0.5000])]
    """
    product = torch.stack([(slope * other).sum() for slope, other in zip(gradients, reference, strict=True)]).sum()
    square = torch.stack([other.square().sum() for other in reference]).sum()
    share = product.clamp(max=0.0) / square.clamp(min=torch.finfo(square.dtype).tiny)
    for slope, other in zip(gradients, reference, strict=True):
        slope.sub_(share * other)


def joins(settings: Replay) -> bool:
    """Return True if new and drawn rows are learned as one minibatch, with the mean loss over both."""
    return settings.loss == "joint" and settings.retrieve == "uniform"


def _replay_start(settings: Replay, net: Net) -> Tensors:
    """Return no tensors; raise `ConfigError` for a loss that does not fit the task."""
    if settings.loss == "asymmetric" and net.classes == 0:
        raise ConfigError(
            "terms: got replay with loss 'asymmetric' and task 'regression'; expected classes. Use loss 'joint'"
        )
    return {}


def _replay_draws(settings: Replay) -> int:
    """Return the rows to draw for a forward pass."""
    return 0 if settings.retrieve == "interfered" else settings.rows or -1


def _replay_fresh(settings: Replay, net: Net, own: Tensors, seen: Seen) -> Tensor:
    """Return the loss of the new rows."""
    outputs = asymmetric(seen.outputs, seen.new.y) if settings.loss == "asymmetric" else seen.outputs
    losses = net.losses(outputs, seen.new) * seen.new.weight
    if settings.retrieve == "uniform":
        return losses.sum() / _sharing(settings, seen.new, seen.drawn)
    rows = _interfered(settings.rows or len(seen.new), net, losses.mean())
    total = losses.sum() / _sharing(settings, seen.new, rows)
    return total + _replayed(settings, net, seen.new, rows, net.call(rows.x)) if len(rows) else total


def _replay_loss(settings: Replay, net: Net, own: Tensors, seen: Seen) -> Tensor | None:
    """Return the loss of remembered rows, unless `_replay_fresh` has added it."""
    if settings.retrieve == "interfered" or not len(seen.drawn):
        return None
    return _replayed(settings, net, seen.new, seen.drawn, seen.drawn_outputs)


def _sharing(settings: Replay, new: TensorRows, drawn: TensorRows) -> int:
    """Return the divisor of the sum of the losses of new rows."""
    return max(1, len(new) + (len(drawn) if settings.loss == "joint" else 0))


def _replayed(settings: Replay, net: Net, new: TensorRows, drawn: TensorRows, outputs: Tensor) -> Tensor:
    """Return the share of the loss of remembered rows."""
    losses = (net.losses(outputs, drawn) * drawn.weight).sum()
    return losses / (len(drawn) + (len(new) if settings.loss == "joint" else 0))


def _interfered(n: int, net: Net, loss: Tensor) -> TensorRows:
    """Return, of drawn rows, the n whose loss a plain step on `loss` raises most; the network does not change."""
    rows = net.draw(max(CANDIDATES, n), INTERFERED)
    if len(rows) <= n:
        return rows
    weights = list(net.weights.values())
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    buffers = [(part, name, held) for part in net.module.modules() for name, held in part._buffers.items()]
    with torch.no_grad():
        changed = [*weights, *(held for _, _, held in buffers if held is not None)]
        before = [tensor.clone() for tensor in changed]
        old = net.losses(net.call(rows.x), rows)
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.data.sub_(net.rate * gradient)  # `data`: the pass of the new rows is differentiated later
        rise = net.losses(net.call(rows.x), rows) - old
        for tensor, was in zip(changed, before, strict=True):
            tensor.data.copy_(was)
    for part, name, kept in buffers:  # a pass may replace a buffer by another tensor
        part._buffers[name] = kept
    return _part(rows, rise.argsort(descending=True, stable=True)[:n])


def _part(rows: TensorRows, at: Tensor | slice) -> TensorRows:
    """Return some of the rows."""
    outputs = None if rows.outputs is None else rows.outputs[at]
    return TensorRows(tuple(given[at] for given in rows.x), rows.y[at], rows.weight[at], outputs)


def _distill_draws(settings: Distill) -> int:
    """Return the rows to draw for both parts of the loss."""
    return (settings.rows or -1) * (2 if settings.beta else 1)


def _distill_loss(settings: Distill, net: Net, own: Tensors, seen: Seen) -> Tensor | None:
    """Return the distance to remembered outputs, and the loss of the other rows."""
    rows, outputs = seen.drawn, seen.drawn_outputs
    if rows.outputs is None or not len(rows):
        return None
    half = (len(rows) + 1) // 2 if settings.beta else len(rows)
    apart = (outputs[:half] - rows.outputs[:half]).square().mean(1)
    total = settings.alpha * mean(apart, rows.weight[:half])
    if half == len(rows):
        return total
    others = _part(rows, slice(half, None))
    return total + settings.beta * mean(net.losses(outputs[half:], others), others.weight)


def _agem_gradient(settings: Agem, net: Net, own: Tensors, seen: Seen) -> None:
    """Project the gradients of the step."""
    rows = net.draw(settings.rows, REFERENCE)
    if not len(rows):
        return
    with torch.enable_grad():
        loss = mean(net.losses(net.call(rows.x), rows), rows.weight)
        found = torch.autograd.grad(loss, list(net.weights.values()), allow_unused=True)
    gradients, reference = [], []
    for weight, other in zip(net.weights.values(), found, strict=True):
        if other is not None:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients.append(weight.grad)
            reference.append(other)
    project(gradients, reference)


def _gdumb_start(settings: Gdumb, net: Net) -> Tensors:
    """Return the initial network, and the one that predicts."""
    began = {name: tensor.detach().clone() for name, tensor in _everything(net).items()}
    return began | {f"held/{name}": tensor.clone() for name, tensor in began.items()}


def _everything(net: Net) -> Tensors:
    """Return the named trained weights and buffers."""
    return {**net.weights, **dict(net.module.named_buffers())}


def _gdumb_fresh(settings: Gdumb, net: Net, own: Tensors, seen: Seen) -> Tensor:
    """Return a loss without gradients."""
    return seen.outputs.sum() * 0.0


def _gdumb_stepped(settings: Gdumb, net: Net, own: Tensors, seen: Seen) -> None:
    """Undo the step: an optimiser decays weights without a gradient, and a pass moves statistics."""
    for name, tensor in _everything(net).items():
        tensor.data.copy_(own[f"held/{name}"])


def _gdumb_consolidate(settings: Gdumb, net: Net, own: Tensors, recent: TensorRows) -> None:
    """Train the initial network on the memory."""
    weights = list(net.weights.values())
    device = weights[0].device
    net.module.train()  # the only consolidation that learns
    with torch.no_grad():
        for name, tensor in _everything(net).items():
            tensor.copy_(own[name])
    optimizer = torch.optim.SGD(weights, lr=HIGHEST, momentum=MOMENTUM, weight_decay=DECAY)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(net.seed)
        for epoch in range(settings.epochs):
            optimizer.param_groups[0]["lr"] = gdumb_rate(epoch, settings.epochs)
            rows = net.draw(EVERYTHING, EPOCHS + epoch)  # in another order, and augmented again
            for at in _batches(len(rows)):
                batch = _part(rows, at)
                optimizer.zero_grad()
                mean(net.losses(net.call(batch.x), batch), batch.weight).backward()  # type: ignore[no-untyped-call]
                if torch.isfinite(nn.utils.clip_grad_norm_(weights, CLIP)):
                    optimizer.step()
    optimizer.zero_grad()
    for name, tensor in _everything(net).items():
        own[f"held/{name}"].copy_(tensor.detach())


def _batches(n: int) -> Iterator[slice]:
    """Yield the minibatches of a pass over n rows; a last single row, which BatchNorm cannot take, joins the last.

    >>> [(at.start, at.stop) for at in _batches(33)], [(at.start, at.stop) for at in _batches(18)]
    ([(0, 16), (16, 33)], [(0, 16), (16, 18)])
    """
    begin = 0
    while begin < n:
        stop = n if n - begin <= BATCH + 1 else begin + BATCH
        yield slice(begin, stop)
        begin = stop


def gdumb_rate(epoch: int, epochs: int) -> float:
    """Return the learning rate of a pass: a tenth of the highest in the first, then down a cosine.

    >>> [round(gdumb_rate(epoch, 4), 4) for epoch in range(4)]
    [0.005, 0.05, 0.0253, 0.0005]
    """
    if epoch == 0 and epochs > 1:
        return HIGHEST / 10
    along = (epoch - 1) / max(1, epochs - 2) if epochs > 1 else 0.0
    return LOWEST + (HIGHEST - LOWEST) * (1.0 + math.cos(math.pi * along)) / 2.0


REPLAY = Term(start=_replay_start, draws=_replay_draws, fresh=_replay_fresh, loss=_replay_loss)
DISTILL = Term(draws=_distill_draws, remembers=True, loss=_distill_loss)
AGEM = Term(gradient=_agem_gradient)
GDUMB = Term(start=_gdumb_start, fresh=_gdumb_fresh, stepped=_gdumb_stepped, consolidate=_gdumb_consolidate)
