"""From the rows of the loop to what a module takes: hashed features padded, columns scaled, gaps filled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._torch import Tensor, tensor, torch
from everlearn.errors import ConfigError, InputError
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.settings import Settings
from everlearn.records import Batch, Floats, Ints, Singles

LARGEST = 1e6  # what is fed to a network is cut here
WIDEST = 10.0  # and here, in deviations, where columns are standardised
FURTHEST = 1e18  # a number to predict beyond this is no label: its square is not a float32
SETTLED, CLIP = 100.0, 100.0  # after so many values one more counts as so many deviations at most
BAD_INDEX, BAD_ROWS, FAULTS = 1, 2, 3


class Raw(NamedTuple):
    """n rows as they come and as they are remembered: dense float32 (n, dense); indices int32 and values float32
    (n, width), padded with zeros, or (n, 0) where there are no hashed features."""

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
    """Write each row's first entries, at most as many as there is room for; why that cannot be, or 0."""
    n, width = to_indices.shape
    if indptr[0] < 0 or indptr[n] > min(len(indices), len(values)):
        return BAD_ROWS
    for row in range(n):
        begin, many = indptr[row], indptr[row + 1] - indptr[row]
        if many < 0:
            return row * FAULTS + BAD_ROWS
        for k in range(many):
            index, value = indices[begin + k], values[begin + k]
            if index < 0 or index >= hashed:
                return row * FAULTS + BAD_INDEX
            if k < width:
                to_indices[row, k] = index
                to_values[row, k] = min(LARGEST, max(-LARGEST, value)) if value == value else 0.0
    return 0


@exact_kernel
def _count(rows: Singles, y: Floats, moments: Floats) -> None:
    """Add rows to count, mean and sum of squared deviations of each column (Welford 1962); the last is y's, if any.

    Missing values count nowhere. One absurd value counts as `CLIP` deviations, once there are enough to tell.
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


class Reading:
    """How rows of one spec are read, and with which deviations. `normalizes`: whether columns, and numbers to predict,
    are standardised."""

    def __init__(self, chosen: Settings, device: torch.device) -> None:
        self._dense, self._hashed, self._classes = chosen.dense, chosen.hashed, chosen.classes
        self._width = chosen.width if chosen.hashed else 0
        self._shape, self._shaped = chosen.shape or (chosen.dense,), bool(chosen.shape)
        self._scale, self._tokens = chosen.scale, chosen.dtype == "int64"
        self._device = device
        plain = not chosen.shape and chosen.scale == 1.0 and not self._tokens
        self.normalizes = plain if chosen.normalize is None else chosen.normalize
        self._target = self.normalizes and chosen.task == "regression"
        self.columns = chosen.dense + self._target if self.normalizes else 0
        if self.normalizes and self._tokens:
            raise ConfigError("neural model: normalize is true and dtype is 'int64', expected one of them")
        if chosen.shape and int(np.prod(chosen.shape)) != chosen.dense:
            raise ConfigError(
                f"neural model: shape is {chosen.shape} and dense is {chosen.dense}, expected "
                f"{int(np.prod(chosen.shape))}: a column for each number of a row"
            )
        self.look(np.zeros((3, self.columns)))

    def raw(self, batch: Batch) -> Raw:
        """Rows as they are kept. Raises `InputError` if the batch does not fit the model."""
        dense = np.ascontiguousarray(batch.dense, np.float32)
        n = len(batch.indptr) - 1
        if dense.shape != (n, self._dense):
            raise InputError(
                f"dense features have shape {dense.shape}, expected ({n}, {self._dense}): "
                "a row for each of indptr's, a column for each of the model's"
            )
        indices, values = np.zeros((n, self._width), np.int32), np.zeros((n, self._width), np.float32)
        if self._width or len(batch.indices):
            refused = _pad(
                self._hashed,
                np.ascontiguousarray(batch.indptr, np.int64),
                np.ascontiguousarray(batch.indices, np.int32),
                np.ascontiguousarray(batch.values, np.float32),
                indices,
                values,
            )
            if refused:
                raise self._refusal(refused, len(batch.indices))
        return Raw(dense, indices, values)

    def odd(self, raw: Raw) -> dict[int, str]:
        """The rows with a token that is none, and why; a missing one is token 0."""
        if not self._tokens:
            return {}
        with np.errstate(invalid="ignore"):
            odd = (raw.dense < 0) | (raw.dense >= 2**31) | (raw.dense % 1 != 0)
        odd &= ~np.isnan(raw.dense)
        columns = {int(row): int(np.argmax(odd[row])) for row in np.flatnonzero(odd.any(1))}
        return {
            row: f"column {column} is {float(raw.dense[row, column])!r}, expected a token: a whole number from 0"
            for row, column in columns.items()
        }

    def count(self, rows: Singles, y: Floats, moments: Floats) -> None:
        """Let rows (n, dense) and numbers to predict (n,) count in `moments` (3, columns), and standardise by them."""
        if self.normalizes:
            _count(rows, y, moments)
            self.look(moments)

    def look(self, moments: Floats) -> None:
        """Standardise by these moments from now on."""
        self._center, self._spread = 0.0, 1.0
        self.fill: Singles = np.zeros(self._dense, np.float32)  # for what is missing, in rows that are remembered
        if not self.normalizes:
            return
        known = (moments[0] >= 2) & (moments[2] > 1e-12 * moments[0] * moments[1] ** 2)
        spread = np.sqrt(np.divide(moments[2], moments[0], out=np.zeros_like(moments[0]), where=known))
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        shift = moments[1].astype(np.float32)
        with np.errstate(over="ignore"):
            whole = np.minimum(factor, 1e30).astype(np.float32)
        columns = self._dense
        self.fill = shift[:columns]
        self._shift = tensor(shift[:columns]).to(self._device).view(self._shape)
        self._factor = tensor(whole[:columns]).to(self._device).view(self._shape)
        if self._target:
            self._center, self._spread = float(moments[1, -1]), float(spread[-1]) or 1.0

    def filled(self, dense: Tensor) -> Tensor:
        """Dense rows, float32 (n, dense), with finite numbers only: `fill` for what is missing."""
        if self.normalizes:
            dense = torch.where(dense.isnan(), tensor(self.fill).to(dense.device), dense)
        return torch.nan_to_num(dense, nan=0.0)

    def inputs(self, dense: Tensor, indices: Tensor, values: Tensor) -> Inputs:
        """The arguments of the module, for rows as they are kept (of any dtype)."""
        x = dense if self._device.type == "cpu" else dense.to(self._device)
        if self._shaped:
            x = x.view(x.shape[0], *self._shape)
        if self._tokens:
            x = torch.nan_to_num(x, nan=0.0).clamp_(0, 2.0**31).long() if x.dtype.is_floating_point else x.long()
        elif self.normalizes:
            x = torch.nan_to_num_((x.float() - self._shift) * self._factor, nan=0.0).clamp_(-WIDEST, WIDEST)
        elif x.dtype.is_floating_point:
            x = torch.nan_to_num_(x.float() * self._scale, nan=0.0).clamp_(-LARGEST, LARGEST)
        else:
            x = x * self._scale  # float32, and finite already
        if self._width:
            return x, indices.to(self._device).long(), values.to(self._device)
        return (x,)

    def labels(self, y: Tensor) -> Tensor:
        """y float64 (n,) as the loss takes it: int64 classes, or float32 numbers, standardised where columns are."""
        if self._classes:
            return y.to(self._device).long()
        if self._target:
            return ((y - self._center) / self._spread).clamp_(-WIDEST, WIDEST).float().to(self._device)
        return y.to(self._device).float()

    def in_units(self, said: Tensor) -> Tensor:
        """What a network said (n, outputs), as it can be kept while the numbers it is standardised by move on."""
        return said * self._spread + self._center if self._target else said

    def standardised(self, said: Tensor) -> Tensor:
        """What was kept `in_units`, as the network would have to say it now."""
        return (said - self._center) / self._spread if self._target else said

    def numbers(self, outputs: Singles) -> Singles:
        """Outputs (n, 1) of a regression in the unit of the labels."""
        whole = outputs.astype(np.float64) * self._spread + self._center if self._target else outputs
        limit = np.finfo(np.float32).max
        return np.nan_to_num(whole, nan=0.0).clip(-limit, limit).astype(np.float32)

    def _refusal(self, refused: int, entries: int) -> InputError:
        row, why = divmod(refused, FAULTS)
        if why == BAD_ROWS:
            return InputError(
                f"indptr is wrong at row {row} of the batch; expected numbers that do not fall, within the {entries} "
                "entries"
            )
        return InputError(
            f"row {row} of the batch has a hashed index outside the hash space; expected 0 to {self._hashed - 1}: "
            "encode with the same number of bits as the model was built with"
        )
