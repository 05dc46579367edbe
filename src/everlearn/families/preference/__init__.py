"""Language models that learn from preferences: policy, reward model, and the choice of questions.

Judged pairs of answers come in; predictions of judgements, answers and questions go out. `model` is the family, a model
like any other; `policy` and `improve` are the language model and its rounds of steps by `methods` and `losses`;
`reward`, `annotators` and `groups` learn from labels; `asking` and `choose` make questions; `judge`, `endpoint`,
`rubric` and `implicit` are sources of judgements. The process that answers requests lives in `app/generator/`.
"""

from everlearn.families.preference.building import build
from everlearn.families.preference.model import PreferenceModel

__all__ = ["PreferenceModel", "build"]
