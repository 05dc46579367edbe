"""The family of models of River, and of models of scikit-learn that have `partial_fit`.

    [model]
    family = "foreign"
    model = "river.tree:HoeffdingTreeClassifier"
    arguments = { grace_period = 100 }
    trusted = true

Such a model keeps its state in objects of Python, and the one form in which any of them can be stored is a pickle. A
pickle can run any code when it is read. So a spec must say `trusted = true`, and the home of a loop with such a model
must be as trusted as a program. The pickle lies in an array of a fixed size, `bytes`, since arrays never grow; a model
that no longer fits fails, and the message says how to go on.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError, ModelError
from everlearn.families import specs
from everlearn.families.batches import check_classes, check_rows, labels
from everlearn.families.foreign import pickles
from everlearn.families.foreign.rows import LARGEST, RiverRows, SklearnRows
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, RowTask, Singles

BYTES = 16 << 20
WEIGHED = 1000  # rows that are learned between two looks at the size
SEEDS = ("seed", "random_state")
UNTRUSTED = (
    "a model of another library is stored as a pickle, and reading a pickle can run any code: all who can write to the "
    "home of such a loop can run programs as you. Write trusted = true beside it if only you and those you trust can"
)


class ForeignSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a foreign model.

    `model` names a class, or a function that returns a model, as "module:name"; it is called with `arguments`. The
    pickle of the model may have `bytes` bytes. `standardize` gives a model of scikit-learn its columns of numbers less
    their running means, in units of their running deviations, and 0 where a value is missing; models of River take the
    rows as they are. `seed` becomes the argument "seed" or "random_state" of the model, if it has one.
    """

    model: str
    arguments: dict[str, Any] = {}
    trusted: bool = False
    bytes: int = BYTES
    standardize: bool = True
    family: str = "foreign"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    seed: int = 0


class ForeignModel:
    """A model of another library, whose state is a pickle.

    Arrays: `pickle` uint8 (bytes,), 0 after the end; `size` int64 (1,), the bytes used; `rows` int64 (1,), the rows
    learned; and the moments of the columns, `moments` float64 (3, dense), of a model that needs them. The pickle is
    made when the arrays are read after learning.
    """

    def __init__(self, spec: Mapping[str, Any], settings: ForeignSettings, made: Any) -> None:
        self.spec = spec
        self._settings = settings
        kind = RiverRows if _is_river(made) else SklearnRows
        self._kind: RiverRows | SklearnRows = kind(settings.dense, settings.hashed, settings.classes, spec)
        self._held: Arrays = {
            "pickle": np.zeros(settings.bytes, np.uint8),
            "size": np.zeros(1, np.int64),
            "rows": np.zeros(1, np.int64),
            "moments": np.zeros((3, settings.dense if self._kind.standardizes else 0)),
        }
        self._live: Any = made
        self._changed = True
        self._store()

    def __repr__(self) -> str:
        return described(self)

    @property
    def arrays(self) -> Arrays:
        """The arrays, with the model as it is now. Raises `ModelError` for a pickle that does not fit."""
        if self._changed:
            self._store()
        return self._held

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        self._held, self._live, self._changed = arrays, None, False

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` for rows that do not fit, and what the model raises.
        """
        check_rows(batch, self._settings.dense, self._settings.hashed)
        model, moments = self._loaded(), self._held["moments"]
        out = np.empty((len(batch), max(self._settings.classes, 1)), np.float32)
        for row in range(len(batch)):
            out[row] = self._kind.score(model, self._kind.row(batch, row, moments))
        return out

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is only predicted.
        Raises `InputError` as `predict` does or for a label that is not a class, and `ModelError` for a model that
        outgrew its array.
        """
        check_rows(batch, self._settings.dense, self._settings.hashed)
        y, weight = labels(y, weight, len(batch))
        if self._settings.classes:
            check_classes(y, self._settings.classes)
        model, moments, rows = self._loaded(), self._held["moments"], self._held["rows"]
        out = np.empty((len(batch), max(self._settings.classes, 1)), np.float32)
        for row in range(len(batch)):
            x = self._kind.row(batch, row, moments)
            out[row] = self._kind.score(model, x)
            if not (abs(y[row]) < LARGEST and 0.0 < weight[row] < LARGEST):
                continue
            self._kind.measure(batch, row, moments)
            self._kind.learn(model, self._kind.row(batch, row, moments), float(y[row]), float(weight[row]))
            self._changed = True
            rows[0] += 1
            if rows[0] % WEIGHED == 0:
                self._store()
        return out

    def _loaded(self) -> Any:
        """Return the model, from its pickle where only that is known."""
        if self._live is None:
            size = int(self._held["size"][0])
            self._live = pickles.loads(self._held["pickle"][:size].tobytes())
        return self._live

    def _store(self) -> None:
        """Write the pickle of the model to its array."""
        data = pickles.dumps(self._live)
        room, used = self._held["pickle"], int(self._held["size"][0])
        if len(data) > len(room):
            raise ModelError(
                f"the pickle of {self._settings.model} has {len(data):,} bytes after {int(self._held['rows'][0]):,} "
                f"rows; its array has {len(room):,}. Set bytes = {2 * len(data)} in [model], in a new home, or "
                "bound the model by its own settings, such as max_size or max_depth"
            )
        room[: len(data)] = np.frombuffer(data, np.uint8)
        room[len(data) : used] = 0
        self._held["size"][0] = len(data)
        self._changed = False


def build(spec: Mapping[str, Any]) -> ForeignModel:
    """Make an untrained model of another library.

    Raises `ConfigError` for a spec without `trusted = true`, for a wrong setting, and for a model that cannot be made.

    >>> spec = {"family": "foreign", "model": "river.tree:HoeffdingTreeClassifier", "task": "binary", "dense": 2}
    >>> build({**spec, "trusted": True})
    <foreign model: binary, dense 2, hashed 0, classes 2, 4 arrays, 16,777,232 bytes>
    """
    given = dict(spec)
    given.pop("layout", None)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    settings = specs.convert(given, ForeignSettings, "foreign", {})
    if settings.trusted is not True:
        raise ConfigError(f"foreign model: trusted: got {settings.trusted!r}; expected true: {UNTRUSTED}")
    if settings.bytes < 1:
        raise ConfigError(f"foreign model: bytes: got {settings.bytes}; expected the bytes of a pickle, at least 1")
    if settings.dense < 0 or (settings.classes < 2) is not (settings.task == "regression"):
        raise ConfigError(
            f"foreign model: got dense {settings.dense} and classes {settings.classes} for task {settings.task!r}; "
            "expected 0 columns or more, and at least 2 classes (none for a regression)"
        )
    return ForeignModel(specs.written(settings, {}), settings, _made(settings))


def _made(settings: ForeignSettings) -> Any:
    """Call the function that makes the model. Raises `ConfigError` if it fails, or makes something else."""
    maker = _maker(settings.model)
    arguments = dict(settings.arguments)
    for name in SEEDS:
        if name in _parameters(maker):
            arguments.setdefault(name, settings.seed)
    try:
        made = maker(**arguments)
    except Exception as error:  # the library may raise anything
        raise ConfigError(
            f"foreign model: calling {settings.model} with {arguments} failed: {type(error).__name__}: {error}"
        ) from error
    wanted = ("learn_one", "predict_one") if _is_river(made) else ("partial_fit", "predict")
    missing = [name for name in wanted if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigError(
            f"foreign model: {settings.model} made a {type(made).__name__} without {' and '.join(missing)}; expected a "
            "model of River (learn_one, predict_one), or one of scikit-learn with partial_fit"
        )
    _check_kind(made, settings)
    if _is_river(made) and settings.classes > 2 and not getattr(made, "_multiclass", True):
        made = importlib.import_module("river.multiclass").OneVsRestClassifier(made)
    return made


def _check_kind(made: Any, settings: ForeignSettings) -> None:
    """Raise `ConfigError` for a regressor where labels are classes, or a classifier where they are numbers."""
    if _is_river(made):
        kinds, pipeline = importlib.import_module("river.base"), importlib.import_module("river.compose").Pipeline
        last = list(made.steps.values())[-1] if isinstance(made, pipeline) else made
        regressor, classifier = isinstance(last, kinds.Regressor), isinstance(last, kinds.Classifier)
    elif type(made).__module__.startswith("sklearn."):
        kinds = importlib.import_module("sklearn.base")
        regressor, classifier = kinds.is_regressor(made), kinds.is_classifier(made)
    else:
        return
    if regressor if settings.classes else classifier:
        wrong, right = ("regressor", "classifier") if settings.classes else ("classifier", "regressor")
        raise ConfigError(
            f"foreign model: {settings.model} made a {wrong}; expected a {right} for the task {settings.task!r}. Name "
            "another model, or change the task of the schema"
        )


def _maker(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(
            f"foreign model: model: got {name!r}; expected 'module:name', such as 'river.tree:HoeffdingTreeClassifier'"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"foreign model: model: {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"foreign model: model: {name!r} is a {type(found).__name__}; expected a class or a function")
    return found  # type: ignore[no-any-return]


def _parameters(maker: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(maker).parameters
    except (TypeError, ValueError):  # C code without a signature
        return {}


def _is_river(made: Any) -> bool:
    return callable(getattr(made, "learn_one", None))
