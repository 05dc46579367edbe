"""Run the steps in the order of the log, and keep their state durable.

Predictions, feedback, examples, rows of files and commands come in; decisions, versions and checkpoints go out. `loop`
is the object that users hold, `fold` turns events into commits, `join` labels predictions, `transitions` changes the
roster, `rebuild` and `erase` learn a log again without some of its events. The steps themselves live in the rooms that
this one calls: `events/`, `feedback/`, `learn/`, `gate/`, `version/` and `serve/`.
"""
