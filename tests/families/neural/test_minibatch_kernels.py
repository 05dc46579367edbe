"""Kernels of a step: classes are counted, and their frequencies become logs."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.neural import minibatch_kernels


def test_classes_are_counted_and_the_prior_moves_by_its_share() -> None:
    classes, prior = np.array([3, 0, 0]), np.full(3, 1 / 3)
    assert minibatch_kernels.count_classes(np.array([0.0, 1.0, 1.0, 0.0]), classes, prior, 0.25)
    assert classes.tolist() == [5, 2, 0]
    np.testing.assert_allclose(prior, [0.75 / 3 + 0.125, 0.75 / 3 + 0.125, 0.75 / 3])
    assert not minibatch_kernels.count_classes(np.array([1.0]), classes, prior[:0], 0.25)


def test_frequencies_of_learned_rows_move_by_their_share() -> None:
    frequent, logs = np.array([0.5, 0.5], np.float32), np.zeros(2, np.float32)
    minibatch_kernels.log_frequencies(np.array([0, 0, 0, 1]), frequent, 0.1, 1e-8, logs)
    np.testing.assert_allclose(frequent, [0.525, 0.475], rtol=1e-6)
    np.testing.assert_allclose(logs, np.log(frequent), rtol=1e-6)


@pytest.mark.parametrize(("known", "binary"), [(False, False), (True, False), (False, True)])
def test_a_class_without_rows_is_expected_only_if_known_or_one_of_two(known: bool, binary: bool) -> None:
    classes, logs = np.array([3, 0]), np.zeros(2, np.float32)
    assert minibatch_kernels.log_priors(classes, np.zeros(0), known, binary, True, logs)
    np.testing.assert_allclose(logs, [np.log(0.8), np.log(0.2) if known or binary else -np.inf], rtol=1e-6)
    assert minibatch_kernels.log_priors(classes, np.array([0.2, 0.8]), known, binary, True, logs)
    np.testing.assert_allclose(np.exp(logs), [0.5, 0.5 if known or binary else 0.0], rtol=1e-6)
    assert minibatch_kernels.log_priors(classes * 0, np.zeros(0), known, binary, False, logs) == known
