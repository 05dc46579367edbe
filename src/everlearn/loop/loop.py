"""The loop as users hold it, and the steps wired to the log. `everlearn.loop.opening` opens one.

Each call that changes a loop is appended to its log first and folded afterwards. Nothing changes in another way.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from everlearn import config, merge
from everlearn.errors import InputError, LogError
from everlearn.feedback import admission
from everlearn.feedback.admission import Admission
from everlearn.loop import commands, questions, replay_log, status
from everlearn.loop.fold import Commit, Fold
from everlearn.loop.home import Home
from everlearn.loop.ingest import Ingest
from everlearn.loop.questions import Questions
from everlearn.predict import Instance, Serving, answer, given_before, new_id
from everlearn.records import Decision, Event, Outcome, Payload, Prediction, Rejected, Scalar, Version
from everlearn.report import Watch
from everlearn.schema.question import Asked
from everlearn.serve.isolation import FailureLog, ModelFailure
from everlearn.serve.snapshot import Answering
from everlearn.spec import Spec
from everlearn.stream import Stream, plain, read
from everlearn.version import codec

if TYPE_CHECKING:
    from everlearn.client.running import Running

Progress = Callable[[int, "Loop"], None]

_READ = 4096  # events read at a time
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
        self.spec = config.settled(msgspec.structs.replace(spec, model=codec.plain(spec.model, "the model's spec")))
        self._clock = clock
        self._open(home, behind)

    def _open(self, home: Path, behind: bool = False) -> None:
        self.served: Answering | None = None  # the model that answers; replaced whole
        self._saved = self._saved_row = 0  # labelled examples, and rows, folded at the last checkpoint
        self._seen = 0  # the last event read; the fold's cursor stays at the last event that changed it
        self._questions, self._marks = Questions(self.spec.prompts), status.Marks()
        self._faults = FailureLog()
        with ExitStack() as undo:
            self.home = Home(home, self.spec.log)
            undo.callback(self.home.close)
            self.log = self.home.log
            self._restore()
            if self.fold.started:
                self.spec, changes = replay_log.change(self.fold, self.home, self.spec)
                self.log.append(changes)
            else:
                self.fold.warm_up.model()  # refuses a model that cannot be built, before anything is written
            self.intake.settle_names(self.spec)
            self._admission = Admission(self.spec, self.fold.encoder, self.log, plain, self.intake.names)
            if not behind:
                self._catch_up_whole()
            undo.pop_all()

    # ---- for users --------------------------------------------------------------------------------------------

    def predict(self, features: Mapping[str, Any], id: str | None = None) -> Prediction:
        """Predict one record with the champion: `.value`, `.proba` (in class order), `.version`, `.id`.

        The answer is in the log before it is returned. `id` may be an id of your own. The same record under the same
        id gets its first answer again; another record raises IdTaken. Raises InputError for a record that the schema
        cannot take.
        """
        champion = self.ready()
        record = admission.features(self._admission, features)
        if id is not None and (before := given_before(self.log, id, record)) is not None:
            return before
        instance = Instance(id or new_id(), record, admission.subject(self._admission, features))
        serving = Serving(champion, None, 0.0, self._seen, self.fold.monitor.clip)
        (given,) = answer(serving, self._admission.fields, [instance])
        self._take([given])
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
        given = msgspec.structs.replace(made, id=id or new_id(), version=champion.version, position=self._seen)
        self._take([given])
        return given

    def ask(self, prompt: questions.Words, *, group: str = "") -> Prediction:
        """Let the champion answer a prompt, text or chat messages, and record a pair of its answers to be judged.

        `payload` holds the answers and the pair (see `everlearn.schema.question.decode`), `proba` what the reward model
        predicts; `group` names what drifts together. Answers are drawn from (seed, position). Raises InputError for a
        prompt that is too long, and for a model that writes no answers.
        """
        champion, key = self.ready(), (self.spec.seed, self._seen)
        pair, proba = questions.ask(champion, self.fold.encoder, prompt, key, group, questions.rival(self.fold))
        return self.record(pair, {"prompt": questions.text(prompt)}, proba=proba)

    def next_pair(self, annotator: str = "", prompts: Sequence[questions.Words] = ()) -> Prediction:
        """Return the oldest pair that waits for a judgement and was not shown to this annotator, else a new one.

        A new pair is about one of the `prompts`, by default those of the file `prompts` in the settings, in random
        order. Raises InputError where there are none, and as `ask` does.
        """
        self.ready()
        if (found := self._questions.waiting(self.fold.pending, self.log, annotator)) is None:
            found = self.ask(self._questions.drawn(prompts, (self.spec.seed, self._seen)))
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
        self._take([admission.feedback(self._admission, id, None, None, chosen, *judged)])

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
        is not in the log, and InputError for feedback that the task cannot use; the log then stays as it was.
        """
        self._take([admission.feedback(self._admission, id, label, reward, chosen, weight, source)])

    def learn(
        self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None, source: str = ""
    ) -> None:
        """Predict and learn a record whose label is known. Raises InputError, and IdTaken if `id` names another one."""
        row = features, label, weight, id, source
        given = admission.example(
            self._admission, *row, refused=self.fold.refused, new_id=lambda: f"example-{self.log.count('example') + 1}"
        )
        self._take([given])

    def run(self, stream: Stream | str | Path, progress: Progress | None = None) -> dict[str, Any]:
        """Take a stream through the loop from where it stopped last, and return the report.

        The rows are the log themselves, unless the loop has a `subject` or the stream cannot be read twice; then each
        row is appended to the log first. The files of a folder or a glob are streams, each taken from where it stopped.
        `progress(rows, loop)` is called now and then with the rows taken. A path is read by this loop's schema. Raises
        InputError for a file that was changed where it had been read already.
        """
        if not isinstance(stream, Stream):
            stream = read(stream, schema=self.spec.schema)
        began = clock = time.perf_counter()
        taken = counted = 0  # rows of this run, and of them before the clock of the rate was set
        warming = not self.fold.monitor.scored
        as_log = self.intake.is_log(stream)
        if (settled := self.intake.settle_warm_start(stream)) is not None:
            self._take([settled])
        for part in self.intake.parts(stream):
            before = taken
            for rows in self._take_rows(part) if as_log else self._append_rows(part):
                taken = before + rows
                if warming:  # the first use of a kernel compiles or loads it: measure the rest
                    clock, counted = time.perf_counter(), taken
                    warming = not self.fold.monitor.scored
                if progress is not None:
                    progress(taken, self)
        self.ready()
        self._save()
        now = time.perf_counter()
        rate = (taken - counted) / (now - clock) if taken > counted else taken / (now - began)
        return self.report() | {"seconds": now - began, "rows": taken, "events_per_second": rate}

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
        return status.of(self.fold, self.home, self._marks, self._seen, self.intake.rows) | self.intake.named()

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

    @property
    def position(self) -> int:
        """The last position that was read: all events up to it are folded."""
        return self._seen

    def ready(self) -> Answering:
        """Return the model that answers; start the loop, untrained, if it has not started yet."""
        if not self.fold.started:
            for commit in self.fold.start(sum(self.fold.cursor.values())):
                self._commit(commit)
        return self.served or self._publish()

    def catch_up(self, limit: int = _READ) -> int:
        """Fold at most `limit` events of the log that are not folded yet; return their number."""
        batch = self.log.read(self._seen, limit)
        if batch:
            self._seen = batch[-1].position
            self._fold(batch)
        return len(batch)

    def serve(self, host: str | None = None, port: int | None = None, workers: int | None = None) -> Running:
        """Serve this loop over HTTP in separate processes; return the running server, a context manager.

        Until the server stops, this loop is closed: use `server.client()` or `server.url`. Afterwards the loop is open
        here again, with all that the server learned. Arguments that are None are taken from the settings.
        """
        given = {"host": host, "port": port, "workers": workers}
        named = {name: value for name, value in given.items() if value is not None}
        settings = msgspec.structs.replace(self.spec.serve, **named)
        spec, folder = msgspec.structs.replace(self.spec, serve=settings), self.home.folder
        self.close()
        server: Running = importlib.import_module("everlearn.app.supervisor").Server(
            spec, folder, ended=lambda: self._open(folder)
        )
        return server

    def close(self) -> None:
        """Save all that was learned since the last checkpoint, and release the home."""
        if not self.home.closed:
            try:
                if self.fold.started and self._whole:
                    self._save()
            finally:
                self.home.close()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the log and checkpoints -------------------------------------------------------------------------------

    def _take_rows(self, stream: Stream) -> Iterator[int]:
        """Fold the rows of a stream that is its own log; yield the number of rows taken."""
        before, whole = self.intake.sources.get(stream.fingerprint, {}).get("rows", 0), False
        while not whole:  # else a model failed, and the stream is read again from the last checkpoint
            whole = True
            for taken, commits in self.intake.folded(stream):
                if not (whole := self._attempt(commits)):
                    self._catch_up_whole()
                    break
                if self.fold.started:
                    self._publish()
                yield taken - before

    def _append_rows(self, stream: Stream) -> Iterator[int]:
        """Append the rows of a stream to the log, and fold them; yield the number of rows taken."""
        for taken, payloads in self.intake.appended(stream):
            self._take(payloads)
            yield taken

    def _take(self, payloads: Sequence[Payload]) -> None:
        """Append events and fold them; they are read back only if another process wrote in between."""
        self._check_whole()
        if self.fold.cursor["row"] != self._saved_row:  # only checkpoints record the order of rows and events
            self._commit(Commit(sum(self.fold.cursor.values()), []))
        now, expected = self._clock(), self._seen + 1
        positions = self.log.append(payloads, now)
        if positions == list(range(expected, expected + len(payloads))):
            self._seen += len(payloads)
            self._fold([Event(position, now, payload) for position, payload in zip(positions, payloads, strict=True)])
        else:
            self._catch_up_whole()

    def _catch_up_whole(self) -> None:
        while self.catch_up():
            pass

    def _fold(self, batch: Sequence[Event]) -> None:
        upto = batch[-1].position
        self._attempt(self.fold.events(batch))
        while self._seen < upto:  # a model failed
            batch = [event for event in self.log.read(self._seen, _READ) if event.position <= upto]
            self._seen = batch[-1].position
            self._attempt(self.fold.events(batch))
        if self.fold.started:
            self._publish()

    def _attempt(self, commits: Iterator[Commit]) -> bool:
        """Fold, and make the commits durable; return False if a model failed and the last checkpoint was restored."""
        try:
            with self._folding():
                for commit in commits:
                    self._commit(commit)
        except ModelFailure as fault:
            self.fold.failed(fault)
            self.home.reread()
            self._restore()
            return False
        return True

    @contextmanager
    def _folding(self) -> Iterator[None]:
        """Mark a fold: state that is interrupted half-way (Ctrl-C, a full disk) must be neither used nor saved."""
        self._check_whole()
        self._whole = False
        yield
        self._whole = True

    def _check_whole(self) -> None:
        if not self._whole:
            raise LogError(
                "this loop was interrupted while it learned; close it and open it again: it goes on from its last "
                "checkpoint, as if nothing had happened"
            )

    def _publish(self) -> Answering:
        """Let the current champion answer from now on."""
        champion = self.fold.roster.champion
        self.served = Answering(champion.version, champion.model, self.fold.monitor.rules.rule(champion), champion.uid)
        return self.served

    def _save(self) -> None:
        if self.fold.monitor.scored != self._saved:
            self._commit(Commit(sum(self.fold.cursor.values()), []))

    def _commit(self, commit: Commit) -> None:
        """Make decisions durable, together with the state that they belong to."""
        arrays, fold = self.fold.state()
        header = {"fold": fold, "sources": self.intake.sources, "spec": config.stored(self.fold.spec)}
        needed = {contestant.version for contestant in self.fold.roster.contestants}
        positions = self.home.save(commit.payloads, commit.at, arrays, header, needed, self.spec.keep)
        if positions[0] == self._seen + 1:
            self._seen = positions[-1]  # the loop need not read back its decisions
        self._saved = self.fold.monitor.scored
        self._saved_row = self.fold.cursor["row"]
        self._faults.clear()

    def _restore(self) -> None:
        """Go on from the last checkpoint, with the settings that it was made with."""
        last = self.home.last()
        if last is None:
            self.spec = commands.with_own_loss(self.spec)
        spec = config.read_stored(last[2]["spec"], str(self.home.folder)) if last is not None else self.spec
        self.fold = Fold(spec, self.home.versions, self.log, self._faults)
        self.intake = Ingest(self.fold, self.log)
        self._saved = self._saved_row = self._seen = 0
        self._whole = True  # False during a fold, and for ever after a fold was interrupted
        if last is not None:
            self.fold.load(last[1], last[2]["fold"])
            self.intake.sources = last[2]["sources"]
            self._saved, self._saved_row = self.fold.monitor.scored, self.fold.cursor["row"]
            self._seen = self.fold.cursor["log"]

    def _carry_out(self, command: Decision) -> Version:
        """Append a command and fold it; return the version that it is about. Raises InputError if it was rejected."""
        before = self.log.end()
        self._take([command])
        done = commands.outcome(self.log, command, before)
        if done is None or done.action == "reject":
            raise InputError(done.reason if done is not None else "the order was not carried out; see decisions()")
        return self.home.versions.find(done.version)
