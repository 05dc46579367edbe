"""Streams of tasks made from arrays: split, permuted, rotated or otherwise changed; with sharp, blurred or no borders.

Nothing is copied: a stream holds the given arrays and, for each row to come, its task and its index (8 bytes). Rows are
gathered and changed when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, InputError
from everlearn.evaluate.continual.images import Change, permutation, rotation
from everlearn.records import Batch, Examples, Floats, Ints, Singles

Data = tuple[NDArray[Any], NDArray[Any]]
Kind = Literal["class", "task", "domain"]

CHUNK = 1024  # rows made at a time
SHUFFLE, BLUR, JOINT = range(3)  # keys of the random numbers


@dataclass(frozen=True, slots=True, eq=False)
class StreamTask:
    """One task of a stream: its classes, its rows of the test arrays, and the change of its rows.

    `change` maps rows as given, (n, ...), to as many of the same shape, each row independently.
    """

    name: str
    classes: tuple[int, ...]
    test: Ints
    change: Change | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TaskStream:
    """Tasks one after the other: the rows in order, and the test rows of each task.

    `order` is int32 (n, 2): for each row of the stream its task, and its row in the training arrays. `borders` are the
    numbers of rows after which each task ends; a stream of mixed tasks has one, its end. `labels` int64 gives the class
    of each label. If `reveals_task`, the task of a row is known when it is predicted (task-incremental).
    """

    name: str
    train: Data
    test: Data
    tasks: tuple[StreamTask, ...]
    order: NDArray[np.int32]
    borders: tuple[int, ...]
    labels: Ints
    reveals_task: bool = False

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Examples]:
        return self.chunks()

    def __repr__(self) -> str:
        names = " | ".join(task.name for task in self.tasks)
        return f"TaskStream({self.name}: {len(self):,} rows of {self.row}, tasks {names})"

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one row as given, for instance (28, 28)."""
        return self.train[0].shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes in the whole stream."""
        return int(self.labels.max()) + 1

    @property
    def shape(self) -> dict[str, Any]:
        """Shape of the inputs, the second argument of `everlearn.build`."""
        task = "binary" if self.classes == 2 else "multiclass"
        return {"task": task, "dense": int(np.prod(self.row)), "hashed": 0, "classes": self.classes}

    @property
    def heads(self) -> tuple[tuple[int, ...], ...]:
        """Classes of each task: the setting `heads` of a network that learns each task with a separate softmax."""
        return tuple(task.classes for task in self.tasks)

    def chunks(self, begin: int = 0, end: int | None = None) -> Iterator[Examples]:
        """Yield rows begin to end - 1 of the stream, up to 1,024 at a time; dense float32 (n, columns), flat."""
        last = len(self) if end is None else end
        for start in range(begin, last, CHUNK):
            picked = self.order[start : min(start + CHUNK, last)]
            dense = np.empty((len(picked), self.shape["dense"]), np.float32)
            for task in np.unique(picked[:, 0]):
                mine = picked[:, 0] == task
                dense[mine] = self._dense(self.train[0], picked[mine, 1], self.tasks[task])
            yield _examples(dense, self.labels[self.train[1][picked[:, 1]]], start)

    def tests(self, task: int) -> Iterator[Examples]:
        """Yield the test rows of task number `task`, up to 1,024 at a time, in the form of `chunks`."""
        rows = self.tasks[task].test
        for start in range(0, len(rows), CHUNK):
            picked = rows[start : start + CHUNK]
            dense = self._dense(self.test[0], picked, self.tasks[task])
            yield _examples(dense, self.labels[self.test[1][picked]], start)

    def restrict(self, scores: Singles, tasks: NDArray[Any]) -> Singles:
        """Restrict probabilities (n, classes) to the classes of each row's task, if the stream reveals it.

        `tasks` (n,) are the tasks of the rows. The probability of other classes is distributed in proportion; where
        nothing is left, evenly.
        """
        if not self.reveals_task:
            return scores
        allowed = np.zeros((len(self.tasks), scores.shape[1]), np.float32)
        for number, task in enumerate(self.tasks):
            allowed[number, list(task.classes)] = 1.0
        inside = scores * allowed[tasks]
        total = inside.sum(axis=1, keepdims=True)
        inside = np.where(total > 0, inside, allowed[tasks])
        return np.asarray(inside / inside.sum(axis=1, keepdims=True), np.float32)

    def _dense(self, x: NDArray[Any], rows: NDArray[Any], task: StreamTask) -> NDArray[Any]:
        picked = x[rows]
        changed = picked if task.change is None else np.asarray(task.change(picked))
        if changed.shape != picked.shape:
            raise InputError(
                f"the change of task {task.name!r} made {changed.shape} of rows of shape {picked.shape}; "
                "expected the same shape"
            )
        return changed.reshape(len(rows), -1)


def split(
    train: Data,
    test: Data,
    per_task: int | Sequence[int] = 2,
    kind: Kind = "class",
    order: Sequence[int] | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> TaskStream:
    """Return a stream of tasks with different classes: the first `per_task` classes of `order`, then the next.

    `train` and `test` are pairs (x, y): x of shape (n, ...), labels y integers from 0. `per_task` may list the number
    of classes of each task. `kind` is one of the three scenarios of van de Ven and Tolias 2019: "class"
    (class-incremental: all classes can be predicted), "task" (task-incremental: the task of a row is known, and
    predictions are restricted to its classes), "domain" (the label is the index of the class in its task, so that all
    tasks have the same labels). Rows of a task come in random order by `seed`, at most `rows` of them. Raises
    `ConfigError` if classes do not divide into tasks, `InputError` if the arrays do not fit together.

    >>> x, y = np.zeros((60, 4), np.float32), np.arange(60) % 6
    >>> stream = split((x, y), (x, y), per_task=2, order=[5, 4, 3, 2, 1, 0])
    >>> stream.heads, stream.borders
    (((5, 4), (3, 2), (1, 0)), (20, 40, 60))
    """
    train, test, classes = _checked(train, test)
    chosen = list(range(classes)) if order is None else list(order)
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(classes)):
        raise ConfigError(f"order is {order}; expected each of the classes 0 to {classes - 1} at most once")
    groups = _groups(chosen, per_task)
    labels: Ints = np.arange(classes)
    if kind == "domain":
        for group in groups:
            labels[list(group)] = np.arange(len(group))
        labels[[label for label in range(classes) if label not in chosen]] = 0
    elif kind not in ("class", "task"):
        raise ConfigError(f"kind is {kind!r}; expected 'class', 'task' or 'domain'")
    tasks = tuple(
        StreamTask(
            _listed(group), tuple(int(labels[label]) for label in group), np.flatnonzero(np.isin(test[1], group))
        )
        for group in groups
    )
    taken = [np.flatnonzero(np.isin(train[1], group)) for group in groups]
    pieces = [_shuffled(places, rows, seed, number) for number, places in enumerate(taken)]
    return _stream(f"split, {kind}-incremental", train, test, tasks, pieces, labels, kind == "task")


def domain(
    train: Data,
    test: Data,
    changes: Mapping[str, Change | None],
    rows: int | None = None,
    seed: int = 0,
) -> TaskStream:
    """Return a stream of tasks with the same classes and different inputs, one for each of `changes`.

    `changes` maps names of tasks to functions that map rows as given, (n, ...), to rows of the same shape, each row
    independently; None leaves them unchanged. Every task has all rows (or `rows` of them, drawn by `seed`), in a
    separate random order, and all test rows. Raises `InputError` if the arrays do not fit together, `ConfigError` for
    changes that are not functions.

    >>> x, y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 0, 1])
    >>> stream = domain((x, y), (x, y), {"as it is": None, "inverted": lambda x: 7 - x})
    >>> next(stream.tests(1)).batch.dense[0].tolist()
    [7.0, 6.0]
    """
    train, test, classes = _checked(train, test)
    if not isinstance(changes, Mapping) or not changes:
        raise ConfigError(
            f"changes is {changes!r}; expected a mapping of task names to changes, and None for unchanged rows"
        )
    for name, change in changes.items():
        if change is not None and not callable(change):
            raise ConfigError(
                f"the change of task {name!r} is {change!r}; expected a function of rows, or None for unchanged rows"
            )
    every = np.arange(len(test[1]))
    tasks = tuple(StreamTask(name, tuple(range(classes)), every, change) for name, change in changes.items())
    pieces = [_shuffled(np.arange(len(train[1])), rows, seed, number) for number in range(len(tasks))]
    return _stream("domain-incremental", train, test, tasks, pieces, np.arange(classes), False)


def permuted(train: Data, test: Data, tasks: int = 10, rows: int | None = None, seed: int = 0) -> TaskStream:
    """Return a stream of tasks with permuted columns; the first task is unchanged.

    Goodfellow et al. 2014, Kirkpatrick et al. 2017. Raises `ConfigError` for fewer than one task.

    >>> x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([0, 1])
    >>> stream = permuted((x, y), (x, y), tasks=2, seed=1)
    >>> [sorted(next(stream.tests(task)).batch.dense[0].tolist()) for task in (0, 1)]
    [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]]
    """
    train, test, _ = _checked(train, test)
    if tasks < 1:
        raise ConfigError(f"tasks is {tasks}; expected at least 1")
    columns = int(np.prod(train[0].shape[1:]))
    changes = {
        f"order {number}" if number else "as it is": permutation(columns, seed, number) if number else None
        for number in range(tasks)
    }
    return replace(domain(train, test, changes, rows, seed), name="permuted")


def rotated(
    train: Data,
    test: Data,
    angles: Sequence[float] = tuple(range(0, 180, 18)),
    image: tuple[int, int] | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> TaskStream:
    """Return a stream of tasks with images rotated by different angles, in degrees, anticlockwise.

    Lopez-Paz and Ranzato 2017. The last two axes of x are height and width; for flat rows `image` gives (height,
    width). Pixels are interpolated linearly, with 0 outside the image; uint8 stays uint8. Raises `ConfigError` if the
    size is unknown.

    >>> x, y = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.uint8), np.array([0, 1])
    >>> stream = rotated((x, y), (x, y), angles=(0, 90))
    >>> next(stream.tests(1)).batch.dense[0].tolist()
    [2.0, 4.0, 1.0, 3.0]
    """
    train, test, _ = _checked(train, test)
    size = image or train[0].shape[-2:]
    if (train[0].ndim < 3 and image is None) or int(np.prod(train[0].shape[1:])) % int(np.prod(size)):
        raise ConfigError(
            f"rows have shape {train[0].shape[1:]} and image is {image}; expected (..., height, width), or flat rows "
            "with image=(height, width)"
        )
    changes = {f"{angle:g}°": rotation(angle, (int(size[0]), int(size[1]))) if angle else None for angle in angles}
    return replace(domain(train, test, changes, rows, seed), name="rotated")


def blurred(stream: TaskStream, width: int, seed: int = 0) -> TaskStream:
    """Return the same rows without sharp borders: around each, `width` rows are a mixture of the two tasks.

    The share of the next task rises linearly from 0 to 1 within the width: at row k of the mixture it is (k + 1/2) /
    width (the fuzzy borders of Lee et al. 2020, "A Neural Dirichlet Process Mixture Model for Task-Free Continual
    Learning"). `borders` stay where they were, in the middle of the mixtures. Raises `ConfigError` if two mixtures
    would overlap, or the stream has no sharp borders.

    >>> x, y = np.zeros((4000, 1), np.float32), np.arange(4000) % 2
    >>> stream = blurred(split((x, y), (x, y), per_task=1), width=2000)
    >>> [round(float(stream.order[k : k + 500, 0].mean()), 1) for k in (500, 1000, 1500, 2000, 2500, 3000)]
    [0.0, 0.1, 0.4, 0.6, 0.9, 1.0]
    """
    half = width // 2
    starts = (0, *stream.borders)
    if width < 2 or any(
        end - begin < (half if begin == 0 or end == len(stream) else 2 * half) for begin, end in pairwise(starts)
    ):
        raise ConfigError(
            f"width is {width}, and tasks have {', '.join(str(end - begin) for begin, end in pairwise(starts))} rows; "
            "expected at least 2 and at most the rows of every task (twice those of the first and the last)"
        )
    order = stream.order.copy()
    for number, border in enumerate(stream.borders[:-1]):
        window = order[border - half : border + half]
        if not ((window[:half, 0] == number).all() and (window[half:, 0] == number + 1).all()):
            raise ConfigError(f"{stream.name}: the border after row {border:,} is not sharp; blur a stream once")
        random = np.random.default_rng([seed, BLUR, number])
        chance = (np.arange(half) + random.random(half)) / half
        # places within the mixture: rows of the previous task thin out evenly, rows of the next one increase
        place = np.concatenate([1 - np.sqrt(1 - chance), np.sqrt(chance)])
        order[border - half : border + half] = window[np.argsort(place, kind="stable")]
    return replace(stream, name=f"{stream.name}, borders blurred over {width:,} rows", order=order)


def joint(stream: TaskStream, seed: int = 0) -> TaskStream:
    """Return the same rows in random order, all tasks mixed: the result without any forgetting.

    >>> x, y = np.zeros((60, 4), np.float32), np.arange(60) % 6
    >>> stream = joint(split((x, y), (x, y)))
    >>> stream.borders, sorted(set(stream.order[:20, 0].tolist()))
    ((60,), [0, 1, 2])
    """
    order = np.random.default_rng([seed, JOINT]).permutation(stream.order, axis=0)
    return replace(stream, name=f"{stream.name}, joint", order=order, borders=(len(order),))


def _stream(
    name: str,
    train: Data,
    test: Data,
    tasks: tuple[StreamTask, ...],
    pieces: Sequence[NDArray[Any]],
    labels: Ints,
    reveals_task: bool,
) -> TaskStream:
    for task, piece in zip(tasks, pieces, strict=True):
        if not len(piece) or not len(task.test):
            raise InputError(
                f"task {task.name!r} has {len(piece)} rows to learn and {len(task.test)} to test; expected at least one"
            )
    numbers = np.repeat(np.arange(len(tasks)), [len(piece) for piece in pieces])
    order = np.stack([numbers, np.concatenate(pieces)], axis=1).astype(np.int32)
    borders = tuple(int(end) for end in np.cumsum([len(piece) for piece in pieces]))
    return TaskStream(name, train, test, tasks, order, borders, labels, reveals_task)


def _examples(dense: NDArray[Any], y: NDArray[Any], before: int) -> Examples:
    n = len(dense)
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    batch = Batch(np.ascontiguousarray(dense, np.float32), np.zeros(n + 1, np.int64), *nothing)
    target: Floats = y.astype(np.float64)
    return Examples(batch, target, np.ones(n, np.float32), np.arange(before + 1, before + n + 1))


def _shuffled(places: NDArray[Any], rows: int | None, seed: int, task: int) -> NDArray[Any]:
    if rows is not None and (not isinstance(rows, int | np.integer) or rows < 1):
        raise ConfigError(f"rows is {rows!r}; expected the number of rows of each task, at least 1, or None for all")
    return np.random.default_rng([seed, SHUFFLE, task]).permutation(places)[:rows]


def _groups(order: Sequence[int], per_task: int | Sequence[int]) -> list[tuple[int, ...]]:
    sizes = [per_task] * (len(order) // max(1, per_task)) if isinstance(per_task, int) else list(per_task)
    if min(sizes, default=0) < 1 or sum(sizes) != len(order):
        raise ConfigError(
            f"per_task is {per_task}, and there are {len(order)} classes; expected sizes of tasks that add up to it"
        )
    ends = np.cumsum(sizes)
    return [tuple(order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _listed(group: Sequence[int]) -> str:
    """Return classes as text: "0, 1", or "0 to 9" for many in a row."""
    if len(group) > 3 and list(group) == list(range(group[0], group[0] + len(group))):
        return f"{group[0]} to {group[-1]}"
    return ", ".join(map(str, group))


def _checked(train: Data, test: Data) -> tuple[Data, Data, int]:
    """Return the pairs with integer labels, and the number of classes.

    Raises `InputError` if they do not fit together.
    """
    pairs: list[Data] = []
    for name, pair in (("train", train), ("test", test)):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"{name} is of type {type(pair).__name__}; expected a pair of arrays (x, y)")
        x, y = np.asanyarray(pair[0]), np.asarray(pair[1])
        if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or not len(y):
            raise InputError(f"{name}: x has shape {x.shape} and y {y.shape}; expected (n, ...) and (n,), with n > 0")
        if x.dtype.kind not in "fiub":
            raise InputError(f"{name}: x has dtype {x.dtype}; expected numbers")
        if y.dtype.kind not in "fiub":
            raise InputError(
                f"{name}: y has dtype {y.dtype}; expected whole numbers from 0, such as the second result of "
                "numpy.unique(y, return_inverse=True)"
            )
        whole = y.astype(np.int64)
        if (whole != y).any() or whole.min() < 0:
            raise InputError(f"{name}: y holds {y.min()} to {y.max()} as {y.dtype}; expected whole numbers from 0")
        pairs.append((x, whole))
    (x, y), (test_x, test_y) = pairs
    if x.shape[1:] != test_x.shape[1:]:
        raise InputError(f"rows to learn have shape {x.shape[1:]}, to test {test_x.shape[1:]}; expected the same")
    classes = int(max(y.max(), test_y.max())) + 1
    if classes < 2:
        raise InputError("all labels are 0; expected at least two classes")
    return (x, y), (test_x, test_y), classes
