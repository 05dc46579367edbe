"""Families of models behind the contract of `everlearn.model`; each is named by a string in a spec.

A spec and batches of encoded rows come in; predictions and named arrays go out. `linear/`, `trees/`, `mondrian/` and
`neural/` learn from rows, `preference/` from pairs of answers, `last` from the last label alone. `mix/` combines models
of any families, and `gated` puts one behind a gate. `explain` splits scores into contributions, `specs` reads settings,
`batches` checks rows, and `kernel_parts` holds what compiled families share. The contract and the names of families are
in `model.py`; the checks that every family passes are in `checks.py`.
"""
