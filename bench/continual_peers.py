"""Peers of `bench/continual.py`: python bench/continual_peers.py PEER METHOD MEMORY SEED FORM ROWS

PEER is "avalanche" (0.6, as its documentation shows) or "hand" (a loop written out for one method, with torch only).
FORM is "tasks" (five big ones), or "stream" (an experience every ten examples, without borders). Prints one line of
JSON: accuracy on all test images, processor and wall seconds for each 1,000 examples, and for "stream" the seconds of
each tenth of it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from continual_data import BATCH, mnist, network, split

RATE = 0.1
Model = tuple[nn.Module, list[float]]


class Balanced:
    """Memory with equal room for each class, from which the hand-written loops replay."""

    def __init__(self, rows: int, seed: int) -> None:
        self.x, self.y = torch.zeros(rows, 784), torch.zeros(rows, dtype=torch.long)
        self.logits = torch.zeros(rows, 10)
        self.slots: list[list[int]] = [[] for _ in range(10)]
        self.seen, self.held = [0] * 10, 0
        self.random = np.random.default_rng(seed)

    def draw(self, n: int) -> Tensor:
        return torch.from_numpy(self.random.choice(self.held, min(n, self.held), replace=False))

    def slot(self, label: int) -> int:
        self.seen[label] += 1
        if self.held < len(self.y):
            self.held += 1
            self.slots[label].append(self.held - 1)
            return self.held - 1
        room, largest = len(self.slots[label]), max(range(10), key=lambda number: len(self.slots[number]))
        if room == self.seen[label] - 1 and room < len(self.slots[largest]):
            taken = self.slots[largest].pop(int(self.random.integers(len(self.slots[largest]))))
            self.slots[label].append(taken)
            return taken
        which = int(self.random.integers(self.seen[label]))
        return self.slots[label][which] if which < room else -1

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        for row, label in enumerate(y.tolist()):
            place = self.slot(label)
            if place >= 0:
                self.x[place], self.y[place], self.logits[place] = x[row], y[row], logits[row]


def hand(method: str, rows: int, seed: int, x: Tensor, y: Tensor, average: float, answers: bool) -> Model:
    """Run one pass with "naive", "er", "er_ace" or "derpp".

    `average` is the share of the average of weights kept at each step; with `answers`, each ten rows are predicted with
    the served weights before they are learned.
    """
    net = network(seed)
    weights = list(net.parameters())
    served = network(seed)
    serving = list(served.parameters())
    optimizer = torch.optim.SGD(weights, lr=RATE)
    memory = Balanced(rows, seed)
    marks = [time.perf_counter()]
    for step, begin in enumerate(range(0, len(y), BATCH)):
        fresh, labels = x[begin : begin + BATCH], y[begin : begin + BATCH]
        if answers:
            with torch.inference_mode():
                served(fresh).softmax(1)
        optimizer.zero_grad()
        if method == "naive" or not memory.held:
            logits = net(fresh)
            loss = F.cross_entropy(logits, labels)
        else:
            drawn = memory.draw(BATCH)
            inputs = [fresh, memory.x[drawn]]
            if method == "derpp":
                again = memory.draw(BATCH)
                inputs.append(memory.x[again])
            outputs = net(torch.cat(inputs))
            logits, old = outputs[: len(labels)], outputs[len(labels) : len(labels) + len(drawn)]
            if method == "er":
                loss = F.cross_entropy(outputs, torch.cat([labels, memory.y[drawn]]))
            elif method == "er_ace":
                mask = torch.full((10,), -1e9)
                mask[labels.unique()] = 0.0
                loss = F.cross_entropy(logits + mask, labels) + F.cross_entropy(old, memory.y[drawn])
            else:
                kept = outputs[len(labels) + len(drawn) :]
                loss = F.cross_entropy(logits, labels) + 0.5 * F.cross_entropy(old, memory.y[drawn])
                loss = loss + 0.1 * F.mse_loss(kept, memory.logits[again])
        loss.backward()
        optimizer.step()
        if average:
            keep = min(average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(serving, weights, 1.0 - keep)
        if method != "naive":
            memory.add(fresh, labels, logits.detach())
        if (step + 1) % (len(y) // BATCH // 10) == 0:
            marks.append(time.perf_counter())
    return (served if average else net), marks


def avalanche(method: str, rows: int, seed: int, x: Tensor, y: Tensor, form: str) -> Model:
    """Run one pass with Avalanche's strategy, memory and loader, with its evaluation switched off."""
    _without_compiled_vision()
    from avalanche.benchmarks import benchmark_from_datasets, split_online_stream
    from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as dataset
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import AGEM, DER, ER_ACE, EWC, GDumb, Naive

    net = network(seed)
    parts = [(y // 2 == task).nonzero().flatten() for task in range(5)]
    if method == "joint":
        parts = [torch.arange(len(y))]
    data = [dataset(x[part], y[part], task_labels=[0] * len(part)) for part in parts if len(part)]
    stream: Any = benchmark_from_datasets(train=data).train_stream
    if form == "stream":
        stream = split_online_stream(stream, experience_size=BATCH, shuffle=False)
    common: dict[str, Any] = {
        "model": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=RATE),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": BATCH,
        "train_epochs": 1,
        "eval_mb_size": 1000,
        "evaluator": EvaluationPlugin(),
    }
    if method == "er":
        buffer = ClassBalancedBuffer(rows, adaptive_size=True)
        replay = ReplayPlugin(rows, batch_size=BATCH, batch_size_mem=BATCH, storage_policy=buffer)
        strategy: Any = Naive(**common, plugins=[replay])
    elif method == "er_ace":
        strategy = ER_ACE(**common, mem_size=rows, batch_size_mem=BATCH)
    elif method == "derpp":
        strategy = DER(**common, mem_size=rows, batch_size_mem=BATCH, alpha=0.1, beta=0.5)
    elif method == "agem":
        strategy = AGEM(**common, patterns_per_exp=rows // 5, sample_size=64)
    elif method == "ewc":
        strategy = EWC(**common, ewc_lambda=100.0)
    elif method == "gdumb":
        strategy = GDumb(**{**common, "train_epochs": 30}, mem_size=rows)
    else:
        strategy = Naive(**common)
    marks, tenth = [time.perf_counter()], max(1, len(y) // BATCH // 10)
    for number, experience in enumerate(stream, 1):
        strategy.train(experience, num_workers=0)  # shuffled by default; otherwise memory would be read in order
        if form == "tasks" or number % tenth == 0:
            marks.append(time.perf_counter())
    return strategy.model, marks  # GDumb replaces its module


def _without_compiled_vision() -> None:
    """Declare two operators, so that a torchvision built for another torch can still be imported."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[Any] = []


def main() -> None:
    peer, method, rows, seed, form, most = sys.argv[1:7]
    torch.set_num_threads(1)
    import warnings

    warnings.simplefilter("ignore")
    train, test = mnist()
    x, y = split(*train, seed=int(seed), joint=method == "joint")
    x, y = x[: int(most)], y[: int(most)]
    if method == "joint" and peer == "hand":
        method = "naive"
    cpu, wall = time.process_time(), time.perf_counter()
    if peer == "avalanche":
        net, marks = avalanche(method, int(rows), int(seed), x, y, form)
    else:
        method, _, more = method.partition("+")
        net, marks = hand(method, int(rows), int(seed), x, y, 0.998 if "ema" in more else 0.0, "answers" in more)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    net.eval()
    with torch.no_grad():
        accuracy = float((net(test[0]).argmax(1) == test[1]).float().mean())
    tenths = np.diff(marks).tolist()
    thousands = len(y) / 1000
    print(json.dumps({"accuracy": accuracy, "cpu": cpu / thousands, "wall": wall / thousands, "tenths": tenths}))


if __name__ == "__main__":
    main()
