"""A mix of models of any families, combined by online stacking of their answers.

Specs of members come in, and every member learns every row; one answer for each row goes out, with the members' own
answers as the trace from which late labels are learned. `stacking` has the arithmetic for classes and `numbers` that
for numbers, `settings` checks the members, `model` holds their arrays. What members are is in the other families; why
models are stacked, in `docs/why/mix.md`.
"""

from everlearn.families.mix.model import Mix, build

__all__ = ["Mix", "build"]
