"""Choose one of several actions for a record, and learn from the reward of the chosen action alone.

Rows with the context, the features of each action, the served action and its propensity come in; expected rewards and
the probability of each action go out. `settings` reads a spec, `model` holds the arrays, `rows` is the reward model,
`explore` turns expected rewards into probabilities, and `kernels` compiles the row loops. `dueling` is a family for
preferences between two rows of features. The value of a policy from
logged rows lives in `everlearn.metrics.policy`, the loop that serves actions in `everlearn.loop`.
"""

from everlearn.families.bandit.model import Bandit, build

__all__ = ["Bandit", "build"]
