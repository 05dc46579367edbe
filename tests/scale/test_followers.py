"""A server that learns and a server that follows, in two homes, over a real database and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from everlearn.app import mirror
from everlearn.app.process import Setup
from everlearn.app.supervisor import Server
from everlearn.errors import BlobError, ConfigError
from everlearn.scale import objects
from everlearn.serve import snapshot
from everlearn.spec import FeedbackSpec, GateSpec, LogSpec, Schema, ServeSpec, Spec
from tests.support.postgres import Server as Database
from tests.support.servers import until

FIELDS = {"a": "numeric", "b": "numeric"}


def settings(database: Database, place: str) -> Spec:
    return Spec(
        schema=Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS),
        model={"family": "linear"},
        gate=GateSpec(minimum=50),
        serve=ServeSpec(port=0),
        log=LogSpec(url=database.url, blobs=place),
    )


def taught(client: Any, rows: int, seed: int) -> None:
    """Predict rows and label them at once, by the rule a > 0."""
    draw = np.random.default_rng(seed)
    for a, b in draw.normal(size=(rows, 2)).tolist():
        client.feedback(client.predict({"a": a, "b": b}).id, label=int(a > 0))


def test_a_follower_answers_with_what_was_learned_elsewhere(server: Database, place: str, tmp_path: Path) -> None:
    spec = settings(server, place)
    with Server(spec, tmp_path / "one" / "loop") as learning, learning.client() as here:
        taught(here, 300, 1)
        with Server(spec, tmp_path / "two" / "loop", follow=True) as following, following.client() as there:
            assert "learner" not in following.processes
            until(lambda: there.predict({"a": 3.0, "b": 0.0}).proba[1] > 0.9, "the follower serves nothing trained")
            asked = {"a": 0.3, "b": -0.4}
            until(lambda: here.predict(asked).proba == there.predict(asked).proba, "the answers differ")
            taught(there, 200, 2)  # labels that come in at the follower are learned by the learner
            # The log holds questions beside the labels, so its length does not show that the last label is folded.
            until(lambda: there.status()["metrics"]["champion"]["examples"] >= 500, "a label is not learned")
            assert there.status()["metrics"]["champion"]["examples"] == 500
            until(lambda: here.status()["position"] == there.status()["position"] >= 1000, "the log is not folded")
            until(lambda: there.health().staleness < 5.0, "the staleness is not measured")
            assert there.predict(asked, id="known").version == here.predict(asked, id="known").version
            until(lambda: httpx.get(f"{following.url}/readyz").status_code == 200, "the follower is not ready")
            there.pause("by way of the follower")
            until(lambda: here.status()["paused"], "the learner does not follow an order")


@pytest.mark.slow
def test_a_follower_goes_on_when_the_learner_moves(server: Database, place: str, tmp_path: Path) -> None:
    spec = settings(server, place)
    with Server(spec, tmp_path / "one" / "moves") as learning, learning.client() as here:
        taught(here, 100, 1)
        following = Server(spec, tmp_path / "two" / "moves", follow=True)
    with following, following.client() as there:
        assert there.predict({"a": 2.0, "b": 0.0}).value == 1  # no learner runs
        with Server(spec, tmp_path / "three" / "moves") as next_one, next_one.client() as here:
            taught(here, 100, 3)
            until(lambda: there.status()["metrics"]["champion"]["examples"] == 200, "the follower stays behind")


def test_a_loop_in_a_folder_has_no_followers(tmp_path: Path, place: str) -> None:
    spec = Spec(
        schema=Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS),
        model={"family": "linear"},
        serve=ServeSpec(port=0),
    )
    with pytest.raises(ConfigError, match=r"log.blobs: got none; expected an object store"):
        Server(spec, tmp_path / "loop", follow=True)
    with pytest.raises(ConfigError, match=r"log.url: got none; expected the log of the loop"):
        Server(msgspec.structs.replace(spec, log=LogSpec(blobs=place)), tmp_path / "loop", follow=True)
    bookless = LogSpec(url="nats://h/s", blobs=place)
    with pytest.raises(ConfigError, match=r"log.book: got none; expected the book of the loop"):
        Server(msgspec.structs.replace(spec, log=bookless), tmp_path / "loop", follow=True)
    early = msgspec.structs.replace(
        spec, log=LogSpec(url="postgresql://h/d", blobs=place), feedback=FeedbackSpec(early=9.0)
    )
    with pytest.raises(ConfigError, match=r"feedback.early: got it; a server that follows does not support that yet"):
        Server(early, tmp_path / "loop", follow=True)


# ---- the head ------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(place: str, tmp_path: Path) -> Iterator[Any]:
    """Makes an upload of a learner with an epoch, whose folder has one snapshot."""

    def make(epoch: int) -> tuple[mirror.Upload, snapshot.Publisher]:
        folder = tmp_path / f"serving-{epoch}"
        folder.mkdir(mode=0o700)
        publisher = snapshot.Publisher(folder)
        publisher.begin(epoch)
        spec = Spec(
            schema=Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS),
            model={"family": "linear"},
            log=LogSpec(blobs=place),
        )
        setup = Setup(spec=spec, home=str(tmp_path / "loop"), serving=str(folder))
        setup.status.write_bytes(b'{"epoch": %d}' % epoch)
        publisher.adopt(b"snapshot of epoch %d" % epoch, publisher.sequence + 1, 7)
        return mirror.Upload(setup, objects.shared(f"{place}/loop/serving")), publisher

    return make


def test_the_head_is_of_the_latest_epoch(uploads: Any, place: str) -> None:
    (old, old_publisher), (new, _) = uploads(1), uploads(2)
    assert old.step()
    assert not old.step()  # nothing changed
    assert new.step()
    old_publisher.adopt(b"of a learner that lives on", old_publisher.sequence + 1, 8)
    with pytest.raises(BlobError, match="another learner has written the head"):
        old.step()
    with pytest.raises(BlobError, match="the learner of epoch 2 publishes now, and this one has 1"):
        old.step()
    assert old.superseded
    found = objects.shared(f"{place}/loop/serving").get(mirror.HEAD)
    assert found is not None
    assert msgspec.json.decode(found[0], type=mirror.Head).epoch == 2


def test_old_snapshots_are_removed(uploads: Any, place: str) -> None:
    for epoch in (1, 2):  # the second uploader removes what the first one left
        upload, publisher = uploads(epoch)
        for number in range(6):
            publisher.adopt(b"snapshot %d of %d" % (number, epoch), publisher.sequence + 1, number)
            assert upload.step()
    import obstore

    left = [one["path"] for page in obstore.list(objects._opened(f"{place}/loop/serving")) for one in page]
    assert len(left) == mirror.KEPT + 1
    assert mirror.HEAD in left
