"""Evaluate a model on a stream, without a loop.

A model and a stream of labelled rows come in; a report of metrics and curves goes out. `prequential` scores each row
before the model learns it, and `continual/` does so on streams of tasks and measures what the model forgets. The
metrics live in `metrics.py`, and the loop that serves a model lives in `loop/`.
"""
