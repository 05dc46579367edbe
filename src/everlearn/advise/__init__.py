"""Advise which model and which settings fit a situation.

Answers about a use case come in (how often the model is updated, how much data arrives, what must not be forgotten); a
runnable spec goes out, with reasons and dangers. `situation` holds the questions, `rules` the rules as data, `advice`
applies them, and `table` prints them. The settings themselves live in `spec.py`, the dialogue with a user in `cli/`.
"""

from everlearn.advise.advice import Advice, Alternative, Reason, describe_model, describe_serving, of, questions
from everlearn.advise.situation import AdviceQuestion, Situation, look, read, wide
from everlearn.advise.table import table, written

__all__ = [
    "Advice",
    "AdviceQuestion",
    "Alternative",
    "Reason",
    "Situation",
    "describe_model",
    "describe_serving",
    "look",
    "of",
    "questions",
    "read",
    "table",
    "wide",
    "written",
]
