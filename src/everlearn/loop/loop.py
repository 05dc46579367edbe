"""The loop as users hold it, and the steps wired to the log. `everlearn.loop.opening` opens one.

Each call that changes a loop is appended to its log first and folded afterwards. Nothing changes in another way.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from everlearn import config, merge
from everlearn.errors import InputError
from everlearn.events import Log
from everlearn.feedback import admission
from everlearn.feedback.admission import Admission
from everlearn.feedback.early_room import EarlyRoom, FoldedUse
from everlearn.loop import commands, frames, questions, status
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.ingest import Ingest
from everlearn.loop.journal import READ, Journal
from everlearn.loop.late_rows import LateRows, check_taken_late, label_delay
from everlearn.loop.questions import Questions
from everlearn.predict import Instance, alone, answer, given_before, new_id
from everlearn.records import Decision, Feedback, Outcome, Prediction, Rejected, Scalar, Version
from everlearn.report import Watch
from everlearn.schema.question import Asked
from everlearn.serve.snapshot import Answering
from everlearn.spec import Spec
from everlearn.stream import Stream, plain, read
from everlearn.version import codec

if TYPE_CHECKING:
    from everlearn.client.running import Running

Progress = Callable[[int, "Loop"], None]

_PAUSE = 0.02  # seconds between two reads of a log without new events


class Loop:
    """A model that keeps learning from its own traffic. Open one with `everlearn.open`.

    A loop belongs to one thread and one process at a time: `home` is locked while it is open.
    """

    def __init__(self, spec: Spec, home: Path, behind: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Open the loop in `home`; `behind` leaves the events after the last checkpoint to `catch_up`.

        Raises `ModelError` for a model's spec with values that the log cannot hold, and `ConfigError` for a spec that
        no model can be built from.
        """
        spec = msgspec.structs.replace(spec, model=codec.plain(spec.model, "the model's spec"))
        self._clock = clock
        self._open(config.settled(spec), home, behind)

    def _open(self, spec: Spec, home: Path, behind: bool = False) -> None:
        self._journal = Journal(spec, home, behind, self._clock)
        self._questions = Questions(self.spec.prompts)
        self._marks = status.Marks()
        room = EarlyRoom(self.spec.feedback, FoldedUse(lambda: (self.fold.early, self.position)))
        self._admission = Admission(
            self.spec, self.fold.encoder, self.log, plain, self.intake.names, room, self._journal.waits
        )

    # ---- parts ------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """The settings of this loop."""
        return self._journal.spec

    @property
    def home(self) -> Home:
        """The folder that the loop lives in, with its versions."""
        return self._journal.home

    @property
    def log(self) -> Log:
        """The log of all events."""
        return self._journal.log

    @property
    def fold(self) -> Fold:
        """The state: what all events together have made of the loop."""
        return self._journal.fold

    @property
    def intake(self) -> Ingest:
        """How far the files were read that are their own log."""
        return self._journal.intake

    @property
    def served(self) -> Answering | None:
        """The model that answers; None before the start."""
        return self._journal.served

    @property
    def position(self) -> int:
        """The last position that was read: all events up to it are folded."""
        return self._journal.seen

    # ---- for users --------------------------------------------------------------------------------------------

    def predict(
        self, features: Mapping[str, Any], id: str | None = None, *, actions: Sequence[Any] | None = None
    ) -> Prediction:
        """Predict one record: `.value`, `.proba` (in class order), `.version`, `.id`, and `.propensity` of a bandit.

        The answer is in the log first. `id` may be yours: the same record gets its answer again, another IdTaken.
        `actions` lists those on offer, as names or dicts (default: all). Raises InputError for one that does not fit.
        """
        champion, features = self.ready(), frames.record(features, actions)
        record = admission.features(self._admission, features, encodes=True)
        if id is not None and (before := given_before(self.log, id, record)) is not None:
            return before
        instance = Instance(id or new_id(), record, admission.subject(self._admission, features))
        serving = alone(champion, self.position, self.fold.clip_next(record), self.spec)
        (given,) = answer(serving, self._admission.fields, [instance])
        self._journal.take([given])
        return given

    def record(
        self, question: Asked, features: Mapping[str, Any], id: str | None = None, proba: Sequence[float] = ()
    ) -> Prediction:
        """Record a question, before it is judged: a pair of answers (or one, on the arm "chat") to a prompt.

        `features` has the fields of the schema. `proba` is what a model predicted for the second and for the first
        answer, if one did. Raises IdTaken for another question under the same id, InputError for one that cannot be.
        """
        champion = self.ready()
        made = admission.pair(self._admission, question, features, proba, refused=self.fold.refused)
        if id is not None and (before := given_before(self.log, id, made.features, made.payload)) is not None:
            return before
        given = msgspec.structs.replace(made, id=id or new_id(), version=champion.version, position=self.position)
        self._journal.take([given])
        return given

    def ask(self, prompt: questions.Words, *, group: str = "") -> Prediction:
        """Let the champion answer a prompt, text or chat messages, and record a pair of its answers to be judged.

        `payload` holds the answers and the pair (see `everlearn.schema.question.decode`), `proba` what the reward model
        predicts; `group` names what drifts together. Answers are drawn from (seed, position). Raises InputError for a
        prompt that is too long, and for a model that writes no answers.
        """
        champion, key = self.ready(), (self.spec.seed, self.position)
        pair, proba = questions.ask(champion, self.fold.encoder, prompt, key, group, questions.rival(self.fold))
        return self.record(pair, {"prompt": questions.text(prompt)}, proba=proba)

    def next_pair(self, annotator: str = "", prompts: Sequence[questions.Words] = ()) -> Prediction:
        """Return the oldest pair that waits for a judgement and was not shown to this annotator, else a new one.

        A new pair is about one of the `prompts`, by default those of the file `prompts` in the settings, in random
        order. Raises InputError where there are none, and as `ask` does.
        """
        self.ready()
        if (found := self._questions.waiting(self.fold.pending, self.log, annotator)) is None:
            found = self.ask(self._questions.drawn(prompts, (self.spec.seed, self.position)))
        return self._questions.shown(found, annotator)

    def judge(
        self,
        id: str,
        chosen: int | None = None,
        *,
        verdict: Outcome = "choice",
        weight: float = 1.0,
        source: str = "",
        seconds: float = 0.0,
        why: str = "",
    ) -> None:
        """Judge the pair `id`: the place of the preferred answer in it (0 or 1; -1: none), or a tie, or a skip.

        `source` names the annotator: "people/NAME", "judge/NAME@DIGEST". `seconds` and the rationale `why` are kept,
        and not learned. Raises as `feedback` does.
        """
        judged = weight, source, verdict, seconds, why
        self._take_feedback([admission.feedback(self._admission, id, None, None, chosen, *judged)])

    def feedback(
        self,
        id: str,
        label: Scalar | None = None,
        *,
        reward: float | None = None,
        chosen: int | None = None,
        weight: float = 1.0,
        source: str = "",
    ) -> None:
        """Give feedback on the answer `id`: its true `label`, its `reward`, or the index of the `chosen` answer.

        The same feedback sent twice counts once; different feedback is a correction. Raises UnknownId for an id that
        is not in the log, NoRoom for early feedback that cannot be kept, and InputError for feedback that the task
        cannot use; the log then stays as it was.
        """
        self._take_feedback([admission.feedback(self._admission, id, label, reward, chosen, weight, source)])

    def learn(
        self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None, source: str = ""
    ) -> None:
        """Predict and learn a record whose label is known. Raises InputError, and IdTaken if `id` names another one."""
        row = frames.record(features), label, weight, id, source
        given = admission.example(
            self._admission, *row, refused=self.fold.refused, new_id=lambda: f"example-{self.log.count('example') + 1}"
        )
        self._journal.take([given])

    def predict_many(self, frame: Any, id: str = "") -> Any:
        """Predict each row of a data frame; return a frame of the same library, with its index.

        Its columns are `id`, `value`, `version`, and `proba_CLASS` for each class. `frame` is of pandas, polars, Arrow
        or another library that narwhals knows, or a dict of columns; `id` names the column of your own ids. All rows
        are predicted by the same champion. Raises as `predict` does, naming the row; then none is in the log.
        """
        champion = self.ready()
        rows = frames.instances(self._admission, frame, id)
        known = [given_before(self.log, one.id, one.features) for one in rows] if id else [None] * len(rows)
        serving = alone(champion, self.position, self.fold.clip, self.spec)
        new = [one for one, before in zip(rows, known, strict=True) if before is None]
        given = answer(serving, self._admission.fields, new)
        self._journal.take(given)
        following = iter(given)
        whole = [before if before is not None else next(following) for before in known]
        return frames.answers(frame, whole, self.spec.schema)

    def feedback_many(self, frame: Any, id: str = "id", label: str = "", weight: str = "", source: str = "") -> Any:
        """Give the labels in a data frame; return a frame of the same library with `id` and `known`.

        `id` names the column of the ids of predictions, `label` that of the labels (by default the schema's), `weight`
        that of the weights, if there is one. `known` is true where the log held this label before. Raises as `feedback`
        does, naming the row; then none is in the log.
        """
        judged = frames.judgements(self._admission, frame, id, label, weight, source)
        end = self.log.end()
        known = [position <= end for position in self._take_feedback(judged)]
        return frames.like(frame, {"id": [one.id for one in judged], "known": known})

    def learn_many(self, frame: Any, weight: str = "", source: str = "") -> Any:
        """Predict and learn each row of a data frame; return a frame of the same library with the `id` of each.

        The label stands in the schema's column; `weight` names the column of weights, if there is one. Raises as
        `learn` does, naming the row; then none is in the log.
        """
        self.ready()
        refused, first = self.fold.refused, self.log.count("example") + 1
        made = frames.examples(self._admission, frame, weight, source, refused, first)
        self._journal.take(made)
        return frames.like(frame, {"id": [one.id for one in made]})

    def run(
        self,
        stream: Stream | str | Path,
        progress: Progress | None = None,
        *,
        delay: int | None = None,
        label_time: str = "",
        row_time: str = "",
    ) -> dict[str, Any]:
        """Take a stream through the loop from where it stopped last, and return the report.

        The rows are the log themselves, unless the loop has a `subject` or the stream cannot be read twice; then each
        row is appended to the log first. The files of a folder or a glob are streams, each taken from where it stopped.
        `progress(rows, loop)` is called now and then with the rows taken. Raises InputError for a changed file.

        With `delay`, each row is predicted, and its label comes that many rows later. With `label_time`, the label
        comes when a row reaches the time in that column, by the column `row_time` or the first datetime field. No label
        comes early, or later than a tenth of its delay. Raises ConfigError for a `label_time` that is a field.
        """
        if not isinstance(stream, Stream):
            stream = read(stream, schema=self.spec.schema)
        late = label_delay(self.spec.schema, delay, label_time, row_time)
        began = clock = time.perf_counter()
        taken = counted = 0  # rows of this run, and of them before the clock of the rate was set
        warming = not self.fold.monitor.scored
        as_log = late is None and self.intake.is_log(stream)
        if (settled := self.intake.settle_warm_start(stream, as_log)) is not None:
            self._journal.take([settled])
        parts = self.intake.parts(stream, late.times if late else ())
        steps = LateRows(self._journal, self._admission, late).steps(parts) if late else self._taken(parts, as_log)
        for taken in steps:
            if warming:  # the first use of a kernel compiles or loads it: measure the rest
                clock, counted = time.perf_counter(), taken
                warming = not self.fold.monitor.scored
            if progress is not None:
                progress(taken, self)
        self.ready()
        self._journal.save()
        now = time.perf_counter()
        rate = (taken - counted) / (now - clock) if taken > counted else taken / (now - began)
        return self.report() | {"seconds": now - began, "rows": taken, "events_per_second": rate}

    def _taken(self, parts: Sequence[Stream], as_log: bool) -> Iterator[int]:
        """Take rows with their labels; yield the number of rows taken so far."""
        taken = 0
        for part in parts:
            check_taken_late(self.log, part, self.intake.before(part))
            before = taken
            for rows in self._journal.take_rows(part) if as_log else self._journal.append_rows(part):
                taken = before + rows
                yield taken

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        return self.home.versions.list()

    def aliases(self) -> dict[str, list[str]]:
        """Return the aliases ("champion", "challenger", "previous") of each version id that has any."""
        return self.home.versions.aliases()

    def decisions(self) -> list[Decision]:
        """Return all changes and refusals, in order, with their reasons."""
        return [payload for payload in self.home.read("decision") if isinstance(payload, Decision)]

    def rejected(self) -> Iterator[Rejected]:
        """Return the rejected rows, with their line numbers and reasons."""
        return (payload for payload in self.home.read("rejected") if isinstance(payload, Rejected))

    def promote(self, version: str, reason: str = "asked for by the user") -> Version:
        """Make a version (its id, a unique beginning of it, or an alias) the champion."""
        self.ready()
        return self._carry_out(commands.promote(self.home.versions, version, reason))

    def rollback(
        self,
        reason: str = "asked for by the user",
        *,
        without: Mapping[str, Any] | None = None,
        to: str = "previous",
    ) -> Version:
        """Make the previous champion, or the version `to`, the champion again.

        `without` selects labels: {"source": "key-7"}, {"first": 1200, "last": 1300} (log positions), or both. All
        learning models then start again from the last champion that had learned none of these labels, and learn all
        later events without them. Raises InputError where that cannot be done; `decisions()` lists what was left out.
        """
        self.ready()
        named = commands.without(without) if without is not None else None
        return self._carry_out(commands.rollback(self.home.versions, reason, named, to))

    def challenge(
        self, challenger: Mapping[str, Any] | str, reason: str = "asked for by the user", *, warm: bool = True
    ) -> Version:
        """Start a challenger: a new model of any family that learns in shadow, or a version that stays as it is.

        `challenger` is a spec such as `{"family": "linear"}`, or the name of a version. The gate compares it with the
        champion. A new model first learns the replay memory, unless `warm` is False. Raises InputError while as many
        models contend as `challengers` allows, and ConfigError for an unknown family or setting.
        """
        self.ready()
        if isinstance(challenger, str):
            return self._carry_out(commands.shadow(self.home.versions, challenger, reason))
        return self._carry_out(commands.challenge(self.spec, challenger, reason, None, warm))

    def merge(
        self,
        a: str,
        b: str,
        method: str = "linear",
        *,
        weights: Sequence[float] = (),
        ancestor: str = "",
        density: float = 0.0,
        scale: float = 1.0,
        seed: int = 0,
        reason: str = "asked for by the user",
    ) -> Version:
        """Merge two versions (ids, their beginnings, aliases) into a new one with two parents, and put it in shadow.

        `method` and its settings are those of `everlearn.merge.merge`; "champion" and "challenger" stand for these
        models as they are now. Raises InputError for versions that cannot be merged, ConfigError for settings.
        """
        self.ready()
        how = merge.How(method=method, weights=tuple(weights), density=density, scale=scale, seed=seed)
        return self._carry_out(commands.merge(self.spec, self.home.versions, (a, b), how, reason, ancestor))

    def pause(self, reason: str = "asked for by the user") -> None:
        """Pause learning: labels that come from now on are scored, and no model learns them, until `resume`.

        What serves goes on answering, and the gate goes on comparing. Labels of the pause are not learned later. Raises
        InputError if learning is paused already.
        """
        self.ready()
        self._carried_out(commands.pause(reason))

    def resume(self, reason: str = "asked for by the user") -> None:
        """Learn on, from the next label. Raises InputError if learning is not paused."""
        self.ready()
        self._carried_out(commands.resume(reason))

    def name(self, version: str, name: str = "", *, note: str = "", reason: str = "asked for by the user") -> Version:
        """Give a version a name by which it can be found from now on, a note, or both; return it.

        A name that another version has moves to this one. Raises InputError for a name that cannot be one.
        """
        self.ready()
        return self._carry_out(commands.name(self.home.versions, version, name, note, reason))

    def withdraw(self, version: str, reason: str = "asked for by the user") -> Version:
        """Withdraw a challenger that was started, or a version in shadow."""
        self.ready()
        return self._carry_out(commands.withdraw(self.home.versions, version, reason))

    def report(self) -> dict[str, Any]:
        """Return counts, and the metrics of champion, challenger and baselines."""
        return status.report(self.fold, self.home, self.decisions(), self.intake.rows) | self.intake.named()

    def picture(self, path: str | Path | None = None, title: str = "") -> Any:
        """Draw the metric over time of champion, challenger and baselines, with drifts and decisions marked.

        It is the headline metric if that has a curve, else the log loss or the mean absolute error. Returns a
        matplotlib Figure, and writes it to `path` (the ending names the format) if one is given.
        """
        return status.picture(self.fold, self.decisions(), path, title or f"{self.spec.schema.label}: {self.spec.mode}")

    def status(self) -> dict[str, Any]:
        """Return the state of the loop as plain values: counts, lag, metrics, curves, drift, replay, gate, marks.

        `watch` draws it, and a server's page shows it; see `everlearn.loop.status.of`.
        """
        return status.of(self.fold, self.home, self._marks, self.position, self.intake.rows) | self.intake.named()

    def watch(self, seconds: float | None = None) -> Watch:
        """Show the status in a terminal or a notebook's cell; with `seconds`, follow the log for that long.

        The returned object updates the same place: `loop.run("data.csv", progress=loop.watch())`.
        """
        watch = Watch(self.status)
        until = time.monotonic() + (seconds or 0.0)
        while time.monotonic() < until:
            if not self.catch_up():
                time.sleep(_PAUSE)
            watch()
        return watch

    def ready(self) -> Answering:
        """Return the model that answers; start the loop, untrained, if it has not started yet."""
        return self._journal.ready()

    def catch_up(self, limit: int = READ) -> int:
        """Fold at most `limit` events of the log that are not folded yet; return their number."""
        return self._journal.catch_up(limit)

    def save(self) -> None:
        """Write a checkpoint now: the next opening goes on from here."""
        self._journal.checkpoint()

    def serve(self, host: str | None = None, port: int | None = None, workers: int | None = None) -> Running:
        """Serve this loop over HTTP in separate processes; return the running server, a context manager.

        Until the server stops, this loop is closed: use `server.client()` or `server.url`. Afterwards the loop is open
        here again, with all that the server learned. Arguments that are None are taken from the settings.
        """
        given = {"host": host, "port": port, "workers": workers}
        named = {name: value for name, value in given.items() if value is not None}
        settings = msgspec.structs.replace(self.spec.serve, **named)
        kept, folder = self.spec, self.home.folder
        spec = msgspec.structs.replace(kept, serve=settings)
        self.close()
        server: Running = importlib.import_module("everlearn.app.supervisor").Server(
            spec, folder, ended=lambda: self._open(kept, folder)
        )
        return server

    def close(self) -> None:
        """Save all that was learned since the last checkpoint, and release the home."""
        self._journal.close()

    def __repr__(self) -> str:
        """Name the home, the mode, how many labels were scored, and what serves."""
        if self.home.closed:
            return f"<Loop in {self.home.folder}: closed>"
        return f"<Loop in {self.home.folder}: {self.spec.mode}, {status.in_words(self.fold)}>"

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_feedback(self, given: Sequence[Feedback]) -> list[int]:
        with admission.early_room(self._admission, given, lambda: self.position):
            return self._journal.take(given)

    def _carry_out(self, command: Decision) -> Version:
        """Carry out a command; return the version that it is about. Raises InputError if it was rejected."""
        return self.home.versions.find(self._carried_out(command).version)

    def _carried_out(self, command: Decision) -> Decision:
        """Append a command and fold it; return what was decided. Raises InputError if it was rejected."""
        before = self.log.end()
        self._journal.take([command])
        done = commands.outcome(self.log, command, before)
        if done is None or done.action == "reject":
            raise InputError(done.reason if done is not None else "the order was not carried out; see decisions()")
        return done
