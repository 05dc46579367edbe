"""Convert rows of the loop to the arguments of a module: pad hashed features, scale columns, fill gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._torch import Tensor, tensor, torch
from everlearn.errors import ConfigError, InputError
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.settings import Settings
from everlearn.records import Batch, Floats, Ints, Singles

LARGEST = 1e6  # bound of inputs
WIDEST = 10.0  # bound of standardised inputs and labels, in deviations
FURTHEST = 1e18  # bound of numbers to predict: the square of a larger one is not a float32
SETTLED, CLIP = 100.0, 100.0  # after SETTLED values, one more counts as at most CLIP deviations
BAD_INDEX, BAD_ROWS, FAULTS = 1, 2, 3


class RawRows(NamedTuple):
    """n rows in the form in which they are kept.

    Dense float32 (n, dense); indices int32 and values float32 (n, width), padded with zeros, or (n, 0) without hashed
    features.
    """

    dense: Singles
    indices: NDArray[np.int32]
    values: Singles


@exact_kernel
def _pad(
    hashed: int,
    indptr: Ints,
    indices: NDArray[np.int32],
    values: Singles,
    to_indices: NDArray[np.int32],
    to_values: Singles,
) -> int:
    """Write the first `width` entries of each row; return 0, or the fault as row * FAULTS + BAD_INDEX or BAD_ROWS."""
    n, width = to_indices.shape
    if indptr[0] < 0 or indptr[n] > min(len(indices), len(values)):
        return BAD_ROWS
    for row in range(n):
        begin, entries = indptr[row], indptr[row + 1] - indptr[row]
        if entries < 0:
            return row * FAULTS + BAD_ROWS
        for k in range(entries):
            index, value = indices[begin + k], values[begin + k]
            if index < 0 or index >= hashed:
                return row * FAULTS + BAD_INDEX
            if k < width:
                to_indices[row, k] = index
                to_values[row, k] = min(LARGEST, max(-LARGEST, value)) if value == value else 0.0
    return 0


@exact_kernel
def _count(rows: Singles, y: Floats, moments: Floats) -> None:
    """Add rows to count, mean and sum of squared deviations of each column (Welford 1962).

    y is the column after those of `rows`, if `moments` has it. Missing values do not count. After SETTLED values, an
    outlier counts as at most CLIP deviations.
    """
    for row in range(rows.shape[0]):
        for j in range(moments.shape[1]):
            value: float = np.float64(rows[row, j]) if j < rows.shape[1] else y[row]
            if not np.isfinite(value):
                continue
            n, mean, m2 = moments[0, j], moments[1, j], moments[2, j]
            if n >= SETTLED and m2 > 0.0:
                reach = CLIP * np.sqrt(m2 / n)
                value = min(mean + reach, max(mean - reach, value))
            delta = value - mean
            mean += delta / (n + 1.0)
            moments[0, j] = n + 1.0
            moments[1, j] = mean
            moments[2, j] = m2 + delta * (value - mean)


@dataclass(frozen=True, slots=True)
class InputLayout:
    """The form of rows in one spec: columns in, arguments of the module out.

    `width` is the number of hashed features of a row, 0 without any. `shape` is that of one row, `shaped` True if the
    spec gives it. `normalizes`: columns are standardised; `scales_labels`: numbers to predict are, too. `columns` is
    the number of standardised columns, the label included.
    """

    dense: int
    hashed: int
    width: int
    classes: int
    shape: tuple[int, ...]
    shaped: bool
    scale: float
    tokens: bool
    normalizes: bool
    scales_labels: bool
    columns: int
    device: torch.device


class Scaling(NamedTuple):
    """The mean and deviation by which columns and labels are standardised.

    `fill` float32 (dense,) replaces missing values in remembered rows. Inputs are (x - `shift`) * `factor`, labels
    (y - `center`) / `spread`.
    """

    fill: Singles
    shift: Tensor
    factor: Tensor
    center: float
    spread: float


def layout(settings: Settings, device: torch.device) -> InputLayout:
    """Return the form of rows of a spec. Raises `ConfigError` for `shape` or `normalize` that do not fit the rest."""
    tokens = settings.dtype == "int64"
    plain = not settings.shape and settings.scale == 1.0 and not tokens
    normalizes = plain if settings.normalize is None else settings.normalize
    scales_labels = normalizes and settings.task == "regression"
    if normalizes and tokens:
        raise ConfigError("neural model: normalize is true and dtype is 'int64', expected one of them")
    if settings.shape and int(np.prod(settings.shape)) != settings.dense:
        raise ConfigError(
            f"neural model: shape is {settings.shape} and dense is {settings.dense}, expected "
            f"{int(np.prod(settings.shape))}: a column for each number of a row"
        )
    return InputLayout(
        dense=settings.dense,
        hashed=settings.hashed,
        width=settings.width if settings.hashed else 0,
        classes=settings.classes,
        shape=settings.shape or (settings.dense,),
        shaped=bool(settings.shape),
        scale=settings.scale,
        tokens=tokens,
        normalizes=normalizes,
        scales_labels=scales_labels,
        columns=settings.dense + scales_labels if normalizes else 0,
        device=device,
    )


def scaling(layout: InputLayout, moments: Floats) -> Scaling:
    """Return the scaling by these moments, float64 (3, columns): count, mean, sum of squared deviations."""
    if not layout.normalizes:
        return Scaling(np.zeros(layout.dense, np.float32), torch.zeros(0), torch.zeros(0), 0.0, 1.0)
    known = (moments[0] >= 2) & (moments[2] > 1e-12 * moments[0] * moments[1] ** 2)
    spread = np.sqrt(np.divide(moments[2], moments[0], out=np.zeros_like(moments[0]), where=known))
    factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    shift = moments[1].astype(np.float32)
    with np.errstate(over="ignore"):
        bounded = np.minimum(factor, 1e30).astype(np.float32)
    columns, device = layout.dense, layout.device
    return Scaling(
        fill=shift[:columns],
        shift=tensor(shift[:columns]).to(device).view(layout.shape),
        factor=tensor(bounded[:columns]).to(device).view(layout.shape),
        center=float(moments[1, -1]) if layout.scales_labels else 0.0,
        spread=(float(spread[-1]) or 1.0) if layout.scales_labels else 1.0,
    )


def reader(settings: Settings, device: torch.device) -> InputReader:
    """Return the reader of a spec before any row was counted. Raises `ConfigError` as `layout` does."""
    form = layout(settings, device)
    return InputReader(form, scaling(form, np.zeros((3, form.columns))))


@dataclass(frozen=True, slots=True)
class InputReader:
    """Conversion of rows and labels for one network, at one scaling."""

    layout: InputLayout
    scaling: Scaling

    def scaled_by(self, moments: Floats) -> InputReader:
        """Return the reader that standardises by these moments, float64 (3, columns)."""
        return InputReader(self.layout, scaling(self.layout, moments))

    def counted(self, rows: Singles, y: Floats, moments: Floats) -> InputReader:
        """Count rows (n, dense) and numbers to predict (n,) in `moments` in place; return the reader scaled by them."""
        _count(rows, y, moments)
        return self.scaled_by(moments)

    def raw(self, batch: Batch) -> RawRows:
        """Return rows in the form in which they are kept. Raises `InputError` if the batch does not fit the model."""
        form = self.layout
        dense = np.ascontiguousarray(batch.dense, np.float32)
        n = len(batch.indptr) - 1
        if dense.shape != (n, form.dense):
            raise InputError(
                f"dense features have shape {dense.shape}, expected ({n}, {form.dense}): "
                "a row for each of indptr's, a column for each of the model's"
            )
        indices, values = np.zeros((n, form.width), np.int32), np.zeros((n, form.width), np.float32)
        if form.width or len(batch.indices):
            fault = _pad(
                form.hashed,
                np.ascontiguousarray(batch.indptr, np.int64),
                np.ascontiguousarray(batch.indices, np.int32),
                np.ascontiguousarray(batch.values, np.float32),
                indices,
                values,
            )
            if fault:
                raise _refusal(fault, len(batch.indices), form.hashed)
        return RawRows(dense, indices, values)

    def bad_tokens(self, raw: RawRows) -> dict[int, str]:
        """Return the rows with a number that is no token, each with the reason; a missing one is token 0."""
        if not self.layout.tokens:
            return {}
        with np.errstate(invalid="ignore"):
            bad = (raw.dense < 0) | (raw.dense >= 2**31) | (raw.dense % 1 != 0)
        bad &= ~np.isnan(raw.dense)
        columns = {int(row): int(np.argmax(bad[row])) for row in np.flatnonzero(bad.any(1))}
        return {
            row: f"column {column} is {float(raw.dense[row, column])!r}, expected a token: a whole number from 0"
            for row, column in columns.items()
        }

    def filled(self, dense: Tensor) -> Tensor:
        """Return dense rows, float32 (n, dense), with finite numbers only: missing values become `Scaling.fill`."""
        if self.layout.normalizes:
            dense = torch.where(dense.isnan(), tensor(self.scaling.fill).to(dense.device), dense)
        return torch.nan_to_num(dense, nan=0.0)

    def inputs(self, dense: Tensor, indices: Tensor, values: Tensor) -> Inputs:
        """Return the arguments of the module, for rows in the form in which they are kept (`dense` of any dtype)."""
        form = self.layout
        x = dense if form.device.type == "cpu" else dense.to(form.device)
        if form.shaped:
            x = x.view(x.shape[0], *form.shape)
        if form.tokens:
            x = torch.nan_to_num(x, nan=0.0).clamp_(0, 2.0**31).long() if x.dtype.is_floating_point else x.long()
        elif form.normalizes:
            x = (x.float() - self.scaling.shift) * self.scaling.factor
            x = torch.nan_to_num_(x, nan=0.0).clamp_(-WIDEST, WIDEST)
        elif x.dtype.is_floating_point:
            x = torch.nan_to_num_(x.float() * form.scale, nan=0.0).clamp_(-LARGEST, LARGEST)
        else:
            x = x * form.scale  # float32, and finite already
        if form.width:
            return x, indices.to(form.device).long(), values.to(form.device)
        return (x,)

    def labels(self, y: Tensor) -> Tensor:
        """Return y float64 (n,) as the loss takes it: int64 classes, or float32 numbers, standardised like columns."""
        if self.layout.classes:
            return y.to(self.layout.device).long()
        if self.layout.scales_labels:
            scaled = ((y - self.scaling.center) / self.scaling.spread).clamp_(-WIDEST, WIDEST)
            return scaled.float().to(self.layout.device)
        return y.to(self.layout.device).float()

    def in_label_units(self, outputs: Tensor) -> Tensor:
        """Return raw outputs (n, outputs) in the unit of the labels, which stays the same while the scaling moves."""
        return outputs * self.scaling.spread + self.scaling.center if self.layout.scales_labels else outputs

    def standardised(self, outputs: Tensor) -> Tensor:
        """Return outputs `in_label_units` as raw outputs at the present scaling."""
        return (outputs - self.scaling.center) / self.scaling.spread if self.layout.scales_labels else outputs

    def predictions(self, outputs: Singles) -> Singles:
        """Return raw outputs (n, 1) of a regression in the unit of the labels, float32 and finite."""
        if self.layout.scales_labels:
            return _finite(outputs.astype(np.float64) * self.scaling.spread + self.scaling.center)
        return _finite(outputs)


def _finite(numbers: Floats | Singles) -> Singles:
    limit = np.finfo(np.float32).max
    return np.asarray(np.nan_to_num(numbers, nan=0.0).clip(-limit, limit), np.float32)


def _refusal(fault: int, entries: int, hashed: int) -> InputError:
    row, reason = divmod(fault, FAULTS)
    if reason == BAD_ROWS:
        return InputError(
            f"indptr is wrong at row {row} of the batch; expected numbers that do not fall, within the {entries} "
            "entries"
        )
    return InputError(
        f"row {row} of the batch has a hashed index outside the hash space; expected 0 to {hashed - 1}: "
        "encode with the same number of bits as the model was built with"
    )
