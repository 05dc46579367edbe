"""Check what comes from outside, and join labels to the predictions that they judge.

Raw records, labels, rewards and preferences come in; checked records for the log, and predictions together with their
labels, go out. `admission` checks each outside value once, `pending` keeps predictions without a label and labels
that came before their prediction, `correction` weighs default labels that turned out to be wrong. A duplicate label
is recognised by the log, in `events/deduplication.py`; the models that learn from the labels live in `serve/`, their
teaching in `learn/`.
"""
