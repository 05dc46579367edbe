"""Hold the models of a loop, ask each of them, and publish the one that answers.

Models and encoded rows come in; predictions of every contestant, and immutable snapshots for the processes that answer
requests, go out. Which model takes which place is decided in `gate/policy.py`, and HTTP lives in `app/`.
"""
