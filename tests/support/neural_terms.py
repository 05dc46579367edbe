"""Networks, rows and steps for tests of single terms, by hand, without the model around them."""

from __future__ import annotations

from typing import Any

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term, mean

LOW = -1e30


def net_of(module: nn.Module, classes: int, allowed: Tensor | None = None, rate: float = 0.1) -> Net:
    """A network for classes (0: a number, squared error); `allowed` (classes, classes) is with which each competes."""

    def call(x: tuple[Tensor, ...]) -> Tensor:
        outputs: Tensor = module(*x)
        return outputs

    def losses(outputs: Tensor, rows: TensorRows) -> Tensor:
        if classes == 0:
            return (outputs[:, 0] - rows.y).square()
        if allowed is not None:
            outputs = outputs.masked_fill(~allowed[rows.y], LOW)
        return functional.cross_entropy(outputs, rows.y, reduction="none")

    weights: Any = dict(module.named_parameters())
    return Net(module, weights, max(1, classes), classes, 0, call, losses, lambda n, stream: rows_of(0, 1, 1), rate)


def rows_of(n: int, dense: int, classes: int, seed: int = 0) -> TensorRows:
    """Rows of noise, with labels of noise; numbers where there are no classes."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dense, generator=random)
    y = torch.randint(classes, (n,), generator=random) if classes else torch.randn(n, generator=random)
    return TensorRows((x,), y, torch.ones(n))


def seen_of(net: Net, rows: TensorRows) -> Seen:
    """What a term that draws nothing sees."""
    outputs = net.call(rows.x)
    none = TensorRows(tuple(one[:0] for one in rows.x), rows.y[:0], rows.weight[:0])
    return Seen(rows, outputs, none, outputs[:0])


def step(net: Net, rows: TensorRows, term: Term, spec: Any, own: Tensors, optimizer: torch.optim.Optimizer) -> float:
    """One step of learning with one term; returns the loss of the rows before it."""
    seen = seen_of(net, rows)
    fresh = mean(net.losses(seen.outputs, rows), rows.weight)
    more = term.loss(spec, net, own, seen) if term.loss else None
    optimizer.zero_grad()
    (fresh if more is None else fresh + more).backward()
    with torch.no_grad():
        if term.gradient:
            term.gradient(spec, net, own, seen)
    optimizer.step()
    with torch.no_grad():
        if term.stepped:
            term.stepped(spec, net, own, seen)
    net.step += 1
    return float(fresh.detach())


def two_tasks() -> tuple[TensorRows, TensorRows]:
    """Two directions tell the classes apart, one after the other; what is learned of the second undoes the first."""
    random = torch.Generator().manual_seed(0)
    first, second = torch.zeros(16), torch.zeros(16)
    first[0], second[0], second[1] = 1.0, -0.7, 1.0
    tasks = []
    for direction in (first, second):
        y = torch.randint(2, (400,), generator=random)
        noise = 0.7 * torch.randn(400, 16, generator=random)
        tasks.append(TensorRows((2 * (2 * y[:, None] - 1) * direction + noise,), y, torch.ones(400)))
    return tasks[0], tasks[1]


def learn(net: Net, task: TensorRows, term: Term, spec: Any, own: Tensors, optimizer: torch.optim.Optimizer) -> None:
    """A task of 400 rows, six times over, sixteen rows a step."""
    for i in range(150):
        at = torch.arange(i * 16, i * 16 + 16) % 400
        step(net, TensorRows((task.x[0][at],), task.y[at], task.weight[at]), term, spec, own, optimizer)


class Called(nn.Module):
    """Layers called as a function says."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._said = forward

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self._said(self, x)
        return said


def rows_like(*shape: int) -> TensorRows:
    return TensorRows((torch.randn(*shape),), torch.zeros(shape[0], dtype=torch.int64), torch.ones(shape[0]))
