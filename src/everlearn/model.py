"""The contract: a model is named arrays, `predict` and `learn`.

All state that must survive a restart is in `arrays`: weights, optimiser moments, random counters. `predict` never
writes. `learn` writes only `arrays`. The first axis is the batch, and one event is a batch of one. Snapshots, versions,
shadows, rollback, averaging and exact resume follow from this contract, for every family. A family that needs at
learning time a part of what it predicted has a `trace` (`TracedModel`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, EverlearnError, ModelError, did_you_mean
from everlearn.records import Arrays, Batch, Examples, Floats, Ints, Loss, LossKind, Singles

Spec = Mapping[str, Any]

_ROOMS = {"tree": "trees", "forest": "trees", "dueling": "bandit.dueling"}  # of families that share one
_NAMES = (
    *("linear", "tree", "forest", "mondrian", "neural", "gated", "last", "mix", "auto", "preference", "bandit"),
    *("dueling", "naive_bayes", "passive_aggressive", "neighbours", "kmeans", "factorization", "matrix", "popular"),
    *("anomaly", "forecast", "foreign"),
)
FAMILIES: dict[str, str] = {name: f"everlearn.families.{_ROOMS.get(name, name)}:build" for name in _NAMES}
FAMILIES["registered"] = "everlearn.bridges.mlflow:build"  # begins as a model of a registry of MLflow

# The newest layout of each family: features, arrays, settings. 1 has the settings of release 0.1.0, some retired; up
# to 2 linear models have the optimiser "quick", since 3 "blend"; since 4 they forget bad stretches; since 5 forests
# have "twice_root" and mixes `patience`, since 6 trees `prior` and mixes `reach`. One number: a home may hold others.
LAYOUTS = dict.fromkeys(FAMILIES, 6)
UNNUMBERED = 2  # the layout of challengers of built-in families in homes of a user's family, where none is stored

PICKLED = frozenset({"foreign", "registered"})  # built-in families whose state, or source, can hold code
# What only these built-in families receive from a schema; a user's family receives it too, but for the clock.
FOR_FAMILY = {"pairs": "preference", "clock": "forecast"}
FOR_FAMILY |= dict.fromkeys(("actions", "action_features", "rewards"), "bandit")

NAMED = {"dense", "hashed", "classes", "outputs", "width", "shape"}  # what functions that make a network may ask for
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
LEARN = "learn/"  # prefix of the names of arrays that only learning needs
WIDEST_TRACE = 256  # numbers that a model may ask to be kept with each prediction
DEFAULT = "auto"  # the family of a spec that names none
INNER = "linear"  # that of specs within others, and of those that a home stores: the default of release 0.1.0


class Model(Protocol):
    """The protocol of every family, and the only part of a model that the loop uses.

    `spec` is complete: `build(spec)` gives an equal, untrained model. `arrays` is a dict of numpy arrays whose names,
    shapes and dtypes never change after `build`; assigning a dict with the same ones restores a model.

    Arrays whose names begin with "learn/" are needed only for learning (optimiser moments, replay memory, raw weights
    under an average). `predict` does not read them, and snapshots for serving leave them out. So a dict without all of
    them may be assigned as well, and the model keeps its own. If the arrays assigned are read-only, the model only
    predicts from then on, and may release its learning state.

    A family may expose the loss that it is trained for as an attribute `loss`: a name and a parameter, such as
    `("pinball", 0.95)` (see `records.Loss`). A loop then compares all its models by that loss.

    A family that cannot take every row of its shape also has a method `refused(batch)`, which maps such rows to
    reasons. The method must not depend on learned state; rejected rows are dropped before any model scores them.

    A family with large frozen parts has `__copy__`. The copy may share what never changes; once it is given other
    arrays, it must be independent of the original.
    """

    spec: Spec
    arrays: Arrays

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression."""
        ...

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Learn n labelled rows in order, and return what was predicted for each before it was learned."""
        ...


class TracedModel(Protocol):
    """A model that learns from a record of its predictions: its trace, `trace` numbers for each prediction.

    Between a prediction and its late label the model learns other rows. What it would predict now is then not what it
    predicted: the answers of a stacker's members, the propensity of a bandit's action, the prediction whose error is
    learned. The trace is made at the prediction, waits with it, and comes back to `learn` with the label. Each model of
    a loop gets the trace that it made itself.

    `trace` is from 1 to 256 and never changes. A model without a trace has no such attribute, or 0, and keeps the
    methods of `Model` as they are.
    """

    spec: Spec
    arrays: Arrays
    trace: int

    def predict(self, batch: Batch) -> Singles:
        """Score n rows, as `Model.predict` does."""
        ...

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows; return the scores with the bits of `predict`, and the trace: finite, float32 (n, trace).

        Like `predict`, it never writes, and does not read arrays that only learning needs.
        """
        ...

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Learn n labelled rows in order, each with the trace of its prediction, float32 (n, trace).

        A row of NaN means that no trace is known: the label came with the row, its prediction waited no longer, or
        another model made it. None means that for all rows, and gives the same bits as n rows of NaN.
        """
        ...


def traced(model: Model) -> int:
    """Return the number of values in a model's trace; 0 if it has none.

    >>> traced(build({"family": "linear", "task": "binary", "dense": 2}))
    0
    """
    return getattr(model, "trace", 0)


def predict_traced(model: Model, batch: Batch) -> tuple[Singles, Singles | None]:
    """Return the scores of n rows, and the trace, float32 (n, trace); None for a model that has none."""
    if not traced(model):
        return model.predict(batch), None
    return cast(TracedModel, model).predict_traced(batch)


def learn(model: Model, batch: Batch, y: Floats, weight: Singles, trace: Singles | None) -> Singles:
    """Let a model learn n rows with the trace of their predictions; without one, the call is that of `Model`."""
    if trace is None:
        return model.learn(batch, y, weight)
    return cast(TracedModel, model).learn(batch, y, weight, trace)


def refused(model: Model, batch: Batch) -> dict[int, str]:
    """Return the rows that a model cannot take, with the reasons; empty if its family accepts every row."""
    reasons = getattr(model, "refused", None)
    return dict(reasons(batch)) if reasons is not None else {}


def own_loss(model: Model) -> Loss | None:
    """Return the loss that a model is trained for; None if its family exposes none.

    Raises `ModelError` for an attribute `loss` that is no loss, or has a parameter out of range.
    """
    held = getattr(model, "loss", None)
    if held is None:
        return None
    found = (held,) if isinstance(held, str) else held
    if isinstance(found, tuple) and 1 <= len(found) <= 2 and found[0] in get_args(LossKind):
        loss = Loss(*found)
        most = {"pinball": 1.0, "huber": np.inf, "log_loss": 0.5}.get(loss.kind, 0.0)
        if 0.0 < loss.parameter < most or (loss.parameter == 0.0 and loss.kind not in ("pinball", "huber")):
            return Loss(loss.kind, float(loss.parameter))
    raise ModelError(
        f"loss: got {held!r}; expected a name among {', '.join(get_args(LossKind))}, with a quantile between 0 and 1 "
        'for "pinball", a distance above 0 for "huber", and a probability below 0.5 for "log_loss", such as '
        '("pinball", 0.95). Or leave the attribute out'
    )


def build(spec: Spec, schema: Mapping[str, Any] | None = None) -> Model:
    """Build an untrained model from a spec: `{"family": "linear", ...}` or `{"family": "your_module:build"}`.

    `schema` (see `everlearn.schema.shape`) supplies task, dense, hashed and classes where the spec leaves them out.
    Without either, the model takes its shape from its first stream (`bind`). A spec without a family is that of the
    automatic model.

    A family may also be a class of `torch.nn.Module`, or a function that returns one. Its parameters may be named
    dense, hashed, classes, outputs, width or shape (which are filled in), or be given as "arguments" in the spec. It
    then becomes the module of a "neural" model.

    Raises `ConfigError` for an unknown family or a rejected spec, `ModelError` for a result that breaks the contract.
    """
    whole = {**(schema or {}), **spec}
    _check_layout(whole)
    if _makes_network(whole):
        whole |= {"family": "neural", "module": whole["family"]}
    family = family_of(whole)
    if family in FAMILIES and not {"task", "dense"} & whole.keys():
        return Deferred(whole)
    for name in FOR_FAMILY.keys() - spec.keys():
        if family != FOR_FAMILY[name] and (family in FAMILIES or name == "clock"):
            whole.pop(name, None)
    maker = find(family)
    try:
        model = maker(whole)
    except Exception as error:
        if family in FAMILIES or isinstance(error, EverlearnError):
            raise
        raise ConfigError(
            f"{family!r} could not build a model from the spec: {type(error).__name__}: {error}; expected a function "
            "of one argument, the spec, that returns a model"
        ) from error
    if _is_network(type(model)):
        raise ModelError(
            f"{family!r} made a {type(model).__name__} from the whole spec; expected parameters among "
            'dense, hashed, classes, outputs, width, shape, or what you give as "arguments" in the spec'
        )
    missing = [part for part in ("spec", "arrays", "predict", "learn") if getattr(model, part, None) is None]
    if missing:
        raise ModelError(
            f"{whole.get('family')!r} built a {type(model).__name__} without {', '.join(missing)}; "
            "a model has spec, arrays, predict and learn (see everlearn.model.Model)"
        )
    _check_trace(model)
    return model


def _check_trace(model: Model) -> None:
    """Raise ModelError for a trace that is no width from 0 to 256, or a model whose methods cannot use it."""
    width = getattr(model, "trace", 0)
    if type(width) is not int or not 0 <= width <= WIDEST_TRACE:
        raise ModelError(
            f"trace: got {width!r}; expected a whole number from 0 to {WIDEST_TRACE}, the number of values that are "
            "kept with each prediction. Leave the attribute out if the model needs none"
        )
    if not width:
        return
    if not callable(getattr(model, "predict_traced", None)):
        raise ModelError(
            f"a {type(model).__name__} has a trace of {width} and no predict_traced; expected predict_traced(batch), "
            "which returns the scores and the trace (see everlearn.model.TracedModel)"
        )
    try:
        inspect.signature(model.learn).bind(None, None, None, None)
    except TypeError:
        raise ModelError(
            f"a {type(model).__name__} has a trace of {width}, and its learn takes none; expected "
            "learn(batch, y, weight, trace=None) (see everlearn.model.TracedModel)"
        ) from None
    except ValueError:  # a C function without a signature
        pass


def family_of(spec: Spec) -> str:
    """Return the name of a spec's family."""
    return str(spec.get("family", DEFAULT))


def newest_layout(spec: Spec) -> int:
    """Return the newest layout that this release knows of a spec's family; 0 for a user's family, which has none."""
    return LAYOUTS.get(family_of(spec), 0)


def _check_layout(spec: Spec) -> None:
    """Raise ConfigError for a layout that this release does not know."""
    newest, layout = newest_layout(spec), spec.get("layout")
    if newest and "layout" in spec and not (type(layout) is int and 1 <= layout <= newest):
        raise ConfigError(
            f"model.layout: got {layout!r}; family {family_of(spec)!r} has layouts 1 to {newest} in "
            "this release. If a newer release of Everlearn wrote it, upgrade"
        )


def _makes_network(spec: Spec) -> bool:
    """Return True if a family makes a network rather than a model.

    A function without required parameters is called to see. Raises `ConfigError` if its import or this call fails.
    """
    family = family_of(spec)
    if family in FAMILIES or ":" not in family:
        return False
    try:
        maker = find(family)
    except EverlearnError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(
            f"family {family!r}: importing {family.partition(':')[0]!r} failed: {type(error).__name__}: {error}"
        ) from error
    if "arguments" in spec:
        return True
    if inspect.isclass(maker):
        return _is_network(maker)
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):  # a C function without a signature makes no network
        return False
    required = {item.name for item in parameters if item.default is item.empty and item.kind not in _VARIADIC}
    if required:
        return required <= NAMED
    try:
        return _is_network(type(maker()))  # type: ignore[call-arg]
    except Exception as error:
        if any(item.kind not in (item.KEYWORD_ONLY, item.VAR_KEYWORD) for item in parameters):
            return False  # it needs a spec, so it makes models, not networks
        raise ConfigError(f"calling {family!r} failed: {type(error).__name__}: {error}") from error


def _is_network(kind: type) -> bool:
    """Return True for a class of modules, without importing PyTorch."""
    return any((part.__module__, part.__name__) == ("torch.nn.modules.module", "Module") for part in kind.__mro__)


class Deferred:
    """A model whose inputs are not known yet; `bind` builds it, and it then delegates to the built model."""

    def __init__(self, spec: Spec) -> None:
        self.spec: Spec = spec
        self.built: Model | None = None

    @property
    def arrays(self) -> Arrays:
        """Arrays of the built model; empty before it is built."""
        return self.built.arrays if self.built else {}

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        """Arrays of the built model. Raises `ModelError` before it is built."""
        self._known().arrays = arrays

    def predict(self, batch: Batch) -> Singles:
        """Score n rows. Raises `ModelError` before the model is built."""
        return self._known().predict(batch)

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Learn n rows. Raises `ModelError` before the model is built."""
        return learn(self._known(), batch, y, weight, trace)

    @property
    def trace(self) -> int:
        """The number of values in the trace of the built model; 0 before it is built."""
        return traced(self.built) if self.built else 0

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows and return their trace, of no values where the built model has none."""
        scores, trace = predict_traced(self._known(), batch)
        return scores, trace if trace is not None else np.zeros((len(batch), 0), np.float32)

    def _known(self) -> Model:
        if self.built is None:
            raise ModelError(
                "this model does not know its inputs yet; pass it to prequential(model, stream), or build it with "
                "task, dense, hashed and classes in its spec"
            )
        return self.built


def bind(model: Model, shape: Mapping[str, Any]) -> None:
    """Build a deferred model for the shape of a stream; any other model is left as it is.

    Raises `ConfigError` and `ModelError` as `build` does.
    """
    if isinstance(model, Deferred) and model.built is None:
        model.built = build(model.spec, shape)
        model.spec = model.built.spec


def find(family: str) -> Callable[[Spec], Model]:
    """Return the function that builds a family, given by its name or as the user's "module:function".

    Raises `ConfigError` for an unknown family, or a module or function that cannot be found.
    """
    target = FAMILIES.get(family, family)
    module_name, colon, name = target.partition(":")
    if not colon:
        raise ConfigError(
            f"unknown family {family!r}; expected one of {', '.join(sorted(FAMILIES))}, "
            f"or 'your_module:build' for your own model{did_you_mean(family, FAMILIES)}"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise ConfigError(f"family {family!r}: no module named {module_name!r} can be imported") from error
    except AttributeError as error:
        raise ConfigError(f"family {family!r}: module {module_name!r} has no {name!r}") from error
    if not callable(found):
        raise ConfigError(f"family {family!r}: {name!r} is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def copied(arrays: Mapping[str, Any]) -> Arrays:
    """Return copies of the arrays, which share no memory with them."""
    return {name: np.array(array, copy=True, order="C") for name, array in arrays.items()}


def row_slice(batch: Batch, start: int, stop: int) -> Batch:
    """Return rows start to stop - 1 of a batch; nothing is copied."""
    return Batch(batch.dense[start:stop], batch.indptr[start : stop + 1], batch.indices, batch.values)


def cut(examples: Examples, start: int, stop: int) -> Examples:
    """Return rows start to stop - 1 of examples; nothing is copied."""
    return Examples(
        row_slice(examples.batch, start, stop),
        examples.y[start:stop],
        examples.weight[start:stop],
        examples.position[start:stop],
        None if examples.segment is None else examples.segment[start:stop],
    )


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    """Return the arrays with `prefix` before each name."""
    return {prefix + name: array for name, array in arrays.items()}


def within(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    """Return the arrays whose names begin with `prefix`, without the prefix in their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def answering(arrays: Mapping[str, Any]) -> Arrays:
    """Return the arrays that `predict` needs: all but those that only learning needs.

    >>> sorted(answering({"weights": np.zeros(2), "learn/moments": np.zeros(2)}))
    ['weights']
    """
    return {name: array for name, array in arrays.items() if not name.startswith(LEARN)}


def described(model: Model) -> str:
    """Return the text that the `repr` of a model of a built-in family is: its settings, and the size of its arrays.

    >>> build({"family": "linear"}, {"task": "binary", "dense": 2, "hashed": 0, "classes": 2})
    <linear model: binary, dense 2, hashed 0, classes 2, 5 arrays, 352 bytes>
    """
    spec = dict(model.spec)
    family, task = spec.pop("family", type(model).__name__), spec.pop("task", "")
    shape = [f"{name} {spec[name]}" for name in ("dense", "hashed", "classes") if name in spec]
    size = sum(array.nbytes for array in model.arrays.values())
    return f"<{family} model: {', '.join([task, *shape])}, {len(model.arrays)} arrays, {size:,} bytes>"


def copy(model: Model) -> Model:
    """Return an independent model with the same content. Raises what `build` raises.

    A family with `__copy__` shares what never changes, such as frozen weights; any other model is built again.
    """
    own = getattr(type(model), "__copy__", None)
    twin: Model = build(model.spec) if own is None else own(model)
    twin.arrays = copied(model.arrays)
    return twin


def restore(model: Model, arrays: Mapping[str, Any]) -> None:
    """Assign a copy of `arrays` to `model`.

    Raises `ModelError`, with the differences, if names, shapes or dtypes differ.
    """
    differences = compare(model.arrays, arrays)
    if differences:
        raise ModelError("these arrays do not fit this model: " + "; ".join(differences))
    model.arrays = copied(arrays)


def compare(expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    """Describe the differences in names, shapes or dtypes of two sets of arrays; empty if they fit."""
    differences = [f"{name!r} is missing" for name in expected if name not in got]
    differences += [f"{name!r} was not expected" for name in got if name not in expected]
    for name in expected:
        if name in got:
            wanted, found = expected[name], got[name]
            if wanted.shape != found.shape:
                differences.append(f"{name!r} has shape {found.shape}, expected {wanted.shape}")
            if wanted.dtype != found.dtype:
                differences.append(f"{name!r} has dtype {found.dtype}, expected {wanted.dtype}")
    return differences


def select(examples: Examples, keep: NDArray[np.bool_]) -> Examples:
    """Return the rows for which `keep`, bool (n,), is true."""
    if keep.all():
        return examples
    batch, kept = examples.batch, np.flatnonzero(keep)
    return Examples(
        stack([row_slice(batch, int(row), int(row) + 1) for row in kept], batch.dense.shape[1]),
        examples.y[kept],
        examples.weight[kept],
        examples.position[kept],
        None if examples.segment is None else examples.segment[kept],
    )


def stack(rows: Sequence[Batch], columns: int = 0) -> Batch:
    """Return the batches concatenated into one; without any, an empty batch with `columns` dense columns."""
    if len(rows) == 1:
        return rows[0]
    if not rows:
        nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return Batch(np.zeros((0, columns), np.float32), np.zeros(1, np.int64), *nothing)
    entries = [batch.indices[batch.indptr[0] : batch.indptr[-1]] for batch in rows]
    values = [batch.values[batch.indptr[0] : batch.indptr[-1]] for batch in rows]
    indptr: Ints = np.zeros(sum(map(len, rows)) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(batch.indptr) for batch in rows]), out=indptr[1:])
    return Batch(
        np.concatenate([batch.dense for batch in rows]), indptr, np.concatenate(entries), np.concatenate(values)
    )
