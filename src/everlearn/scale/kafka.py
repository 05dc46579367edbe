"""A broker on Apache Kafka, or what speaks its protocol: one partition of a topic for each loop.

The sequence of a message is its offset plus 1. The producer is idempotent and waits for all replicas in sync. A
consumer is assigned its partition and seeks. Its place is in the index of the loop, never in the broker, and it never
jumps to an offset by itself. Kafka has no window of message ids: the index recognises an event that comes twice.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

from everlearn.errors import ConfigError, LogError
from everlearn.events.log import without_secrets
from everlearn.scale.broker import Message

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
except ImportError as missing:
    raise ConfigError("a log in Kafka needs confluent-kafka; pip install 'everlearn[kafka]'") from missing

log = logging.getLogger("everlearn.kafka")

PATIENCE = 30.0  # seconds until a message must be acknowledged, or an answer read
DESCRIBING = 5.0  # seconds for which the settings of a topic are waited for
READ_BYTES = 8 << 20  # of one answer
MOST_BYTES = 1_000_000  # of a message where the topic does not say
_FRONT = 1024  # bytes of a message that are not body
_WAIT = 2.0  # seconds that one read waits
_SEVERE = 2  # of librdkafka's messages: each attempt to connect again is not worth one
_PAUSE = 0.05  # seconds until something is tried again
_CHUNK = 64  # messages taken from the consumer at a time
_URL = re.compile(
    r"kafka://(?:(?P<login>[^/@]+)@)?(?P<hosts>[^/@,?]+(?:,[^/@,?]+)*)/(?P<topic>[A-Za-z0-9._-]{1,200})(?:\?(?P<query>.*))?"
)
_OWN = ("partition", "partitions", "replicas")
# What the guarantees of the log rest on; a URL cannot change it.
_FIXED: dict[str, dict[str, Any]] = {
    "producer": {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 0,
        "partitioner": "murmur2_random",  # that of the Java clients; librdkafka has another default
        "delivery.timeout.ms": int(PATIENCE * 1000),
    },
    "consumer": {
        "group.id": "everlearn",  # wanted by the library; nothing is committed to it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
        "allow.auto.create.topics": False,
    },
}
_TOPIC = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

_PASSING = (
    *(KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._UNKNOWN_PARTITION),
    *(KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART),
)
_AGAIN = (
    KafkaError._FATAL,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
)

Found = TypeVar("Found")


class Topic(NamedTuple):
    """A partition of a topic, and how the topic is created if it is not there."""

    name: str
    partition: int = 0
    partitions: int = 1
    replicas: int = 1


class KafkaBroker:
    """One partition of a topic as a `Broker`. Close it, or its thread lives on."""

    def __init__(self, servers: str, topic: Topic, properties: Mapping[str, str]) -> None:
        """Connect, and create the topic unless it is there.

        `properties` are those of librdkafka. Raises `LogError` if no server answers, or for a topic that drops events
        by key.
        """
        self.place = f"in partition {topic.partition} of the Kafka topic {topic.name}"
        self._topic = topic
        connected: dict[str, Any] = {"bootstrap.servers": servers, "log_level": _SEVERE, **properties}
        self._settings = connected | {"logger": log}
        self._closed = False
        admin = AdminClient(connected)  # which lives as long as its name
        self._explained(lambda: self._created(admin), "could not be opened")
        found = self._explained(lambda: self._described(admin), "could not be opened")
        self._in_sync = int(found.get("min.insync.replicas") or 1)
        longest = int(properties.get("message.max.bytes") or found.get("max.message.bytes") or MOST_BYTES)
        self.most_bytes = longest - _FRONT
        self._settings["message.max.bytes"] = longest
        self._tail = _Reader(self._consumer({"fetch.wait.max.ms": 50, "queued.max.messages.kbytes": 16_384}), topic)
        self._look_up = _Reader(self._consumer({"fetch.wait.max.ms": 10, "queued.max.messages.kbytes": 256}), topic)
        self._sender = _Sender(self._settings | _FIXED["producer"], topic)

    def _consumer(self, more: Mapping[str, Any]) -> Consumer:
        return Consumer({**self._settings, **_FIXED["consumer"], **more})

    def _created(self, admin: AdminClient) -> None:
        """Create the topic unless it is there, and check that it has the partition."""
        name, topic = self._topic.name, self._topic
        if name not in admin.list_topics(timeout=PATIENCE).topics:
            safe = {"min.insync.replicas": "2"} if topic.replicas > 2 else {}
            wanted = NewTopic(name, topic.partitions, topic.replicas, config=_TOPIC | safe)
            made = admin.create_topics([wanted], operation_timeout=_WAIT, request_timeout=PATIENCE)[name]
            try:
                made.result(PATIENCE)
            except KafkaException as error:  # another process was first
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        until = time.monotonic() + PATIENCE
        while (known := self._partitions(admin, _WAIT)) is None and time.monotonic() < until:
            time.sleep(_PAUSE)
        if known is None or topic.partition not in known:
            raise LogError(
                f"the log {self.place}: the topic has {len(known or ())} partitions; expected more than the number in "
                "log.url. Name one of them, or create a topic with more"
            )

    def _partitions(self, client: AdminClient | Producer, wait: float) -> dict[int, Any] | None:
        """Return what the cluster says of the partitions of the topic; None if it does not know them yet."""
        found = client.list_topics(self._topic.name, timeout=wait).topics[self._topic.name]
        return dict(found.partitions) if found.error is None and found.partitions else None

    def _described(self, admin: AdminClient) -> dict[str, str | None]:
        """Return the settings of the topic. Raises `LogError` for one that keeps only the last event of each key."""
        wanted = [ConfigResource(ResourceType.TOPIC, self._topic.name)]
        (answer,) = admin.describe_configs(wanted, request_timeout=DESCRIBING).values()
        try:
            found = {name: entry.value for name, entry in answer.result(DESCRIBING + _WAIT).items()}
        except (KafkaException, TimeoutError) as error:  # not allowed, or a broker that has no settings
            log.warning("the settings of the Kafka topic %s are not known: %s", self._topic.name, error or "no answer")
            return {}
        if "compact" in (found.get("cleanup.policy") or ""):
            raise LogError(
                f"the log {self.place}: cleanup.policy is {found['cleanup.policy']}, which drops events that are still "
                "to be replayed; expected delete. Change it, or name another topic"
            )
        return found

    # ---- writing -----------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> list[int]:
        """Write messages durably, as `Broker.publish` does. Kafka stores a message again that comes again."""
        try:
            return self._sender.send([message.body for message in messages])
        except (KafkaException, TimeoutError) as error:
            cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise self._failure("did not acknowledge an event", cause) from error

    def check(self, patience: float) -> None:
        """Raise `LogError` if the partition has no leader with enough replicas in sync within `patience` seconds."""
        found = self._explained(
            lambda: self._partitions(self._sender.producer, max(patience, _PAUSE)), "cannot be written"
        )
        mine = (found or {}).get(self._topic.partition)
        if mine is None or mine.leader < 0:
            raise self._failure("cannot be written", "the partition has no leader")
        if len(mine.isrs) < self._in_sync:
            raise self._failure("cannot be written", f"{len(mine.isrs)} of {self._in_sync} replicas are in sync")

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return messages after a sequence, as `Broker.read` does."""
        return self._explained(lambda: self._tail.read(after, limit), "could not be read")

    def get(self, sequence: int) -> bytes | None:
        """Return the body of a message; None if the partition has none."""
        found = self._explained(lambda: self._look_up.read(sequence - 1, 1, alone=True), "could not be read")
        return found[0][1] if found and found[0][0] == sequence else None

    def first(self) -> int:
        """Return the sequence of the oldest message that is still there; that of the next one if there is none."""
        return self._explained(self._tail.marks, "could not be read")[0] + 1

    def end(self) -> int:
        """Return the sequence of the newest message that all replicas in sync have."""
        return self._explained(self._tail.marks, "could not be read")[1]

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._sender.close()
            self._tail.close()
            self._look_up.close()

    def _explained(self, ask: Callable[[], Found], what: str) -> Found:
        """Ask until there is an answer, and explain why there is none."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except KafkaException as error:
                cause = error.args[0]
                if not (cause.retriable() or cause.code() in _PASSING) or time.monotonic() > until:
                    raise self._failure(what, cause.str()) from error
            except TimeoutError as error:
                raise self._failure(what, str(error) or "no answer") from error
            time.sleep(_PAUSE)

    def _failure(self, what: str, cause: str) -> LogError:
        return LogError(
            f"the log {self.place} {what}: {cause}; check that the servers of log.url run, and that enough replicas "
            "are in sync. What was acknowledged is kept"
        )


class _Sender:
    """A producer, and a thread that lets it report; one that failed for good is replaced by another."""

    def __init__(self, settings: dict[str, Any], topic: Topic) -> None:
        self._settings, self._topic = settings | {"error_cb": self._noted}, topic
        self._closed, self._failed = threading.Event(), threading.Event()
        self.producer = self._made()
        self._polling = threading.Thread(target=self._poll, name="everlearn-kafka", daemon=True)
        self._polling.start()

    def send(self, bodies: Sequence[bytes]) -> list[int]:
        """Send messages until all are acknowledged, and return their sequences.

        Raises `KafkaException` or `TimeoutError` if they are not in time.
        """
        until = time.monotonic() + PATIENCE
        while True:
            waiting = _Acknowledgements(len(bodies))
            for place, body in enumerate(bodies):
                self._produce(body, waiting, place, until)
            if not waiting.done.wait(max(until - time.monotonic(), 0.0) + _WAIT):
                raise TimeoutError("no answer")
            if waiting.error is None:
                return waiting.sequences
            if waiting.error.code() not in _AGAIN or time.monotonic() > until:
                raise KafkaException(waiting.error)
            time.sleep(_PAUSE)

    def _produce(self, body: bytes, waiting: _Acknowledgements, place: int, until: float) -> None:
        """Queue a message, and wait while the queue is full or the producer is replaced."""
        name, partition = self._topic.name, self._topic.partition

        def note(error: KafkaError | None, message: Any) -> None:
            waiting.note(place, error, message)

        while True:
            try:
                self.producer.produce(name, body, partition=partition, on_delivery=note)
                return
            except BufferError:
                if time.monotonic() > until:
                    raise TimeoutError("the queue of the producer is full") from None
            except KafkaException as error:
                if error.args[0].code() not in _AGAIN or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE)

    def _made(self) -> Producer:
        """Return a producer that is connected, so that its first message does not wait for its number."""
        producer = Producer(self._settings)
        with suppress(KafkaException):
            producer.list_topics(self._topic.name, timeout=_WAIT)
        return producer

    def _noted(self, error: KafkaError) -> None:
        if error.fatal():
            self._failed.set()

    def _poll(self) -> None:
        """Let the producer report what was acknowledged."""
        while not self._closed.is_set():
            self._reported(0.1)
            if self._failed.is_set():
                self._replace()

    def _replace(self) -> None:
        """Go on with another producer. The messages of the one that failed are reported as purged, and sent again."""
        self._failed.clear()
        failed, self.producer = self.producer, self._made()
        failed.purge()
        with suppress(KafkaException, SystemError):
            failed.flush(_WAIT)

    def _reported(self, seconds: float) -> None:
        # A fatal error comes out of `poll` as a SystemError too (confluent-kafka 2.16).
        with suppress(KafkaException, SystemError):
            self.producer.poll(seconds)

    def close(self) -> None:
        """End the thread, and drop what was not sent."""
        self._closed.set()
        self._polling.join()
        self.producer.purge()
        self._reported(0.0)


class _Acknowledgements:
    """What became of the messages of one call."""

    def __init__(self, count: int) -> None:
        self.sequences = [0] * count
        self.error: KafkaError | None = None
        self.done = threading.Event()
        self._left = count
        if not count:
            self.done.set()

    def note(self, place: int, error: KafkaError | None, message: Any) -> None:
        """Note the outcome of the message at a place; called by the thread that polls."""
        if error is None:
            self.sequences[place] = message.offset() + 1
        else:
            self.error = error
        self._left -= 1
        if not self._left:
            self.done.set()


class _Reader:
    """A consumer of one partition, which goes on where it ended or seeks; one thread reads at a time."""

    def __init__(self, consumer: Consumer, topic: Topic) -> None:
        self._consumer, self._topic = consumer, topic
        self._next = -1  # the offset that the consumer gives next; -1: it must seek
        self._reading = threading.Lock()

    def marks(self) -> tuple[int, int]:
        """Return the offset of the oldest message, and that after the newest one."""
        found = self._consumer.get_watermark_offsets(self._at(0), timeout=_WAIT, cached=False)
        if found is None:
            raise TimeoutError("no answer")
        return found[0], found[1]

    def read(self, after: int, limit: int, alone: bool = False) -> list[tuple[int, bytes]]:
        """Return the sequence and body of messages after a sequence; none at the end.

        With `alone`, the next read begins elsewhere. Raises `TimeoutError` where the broker does not send what it has.
        """
        with self._reading:
            until = time.monotonic() + PATIENCE
            while True:
                low, high = self.marks()
                start = max(after, low)
                if start >= high or (alone and start != after):
                    return []
                found = self._consumed(start, min(limit, high - start))
                if alone:
                    self._consumer.unassign()
                    self._next = -1
                if found:
                    return found
                if time.monotonic() > until:
                    raise TimeoutError(f"message {start + 1} did not come")

    def _consumed(self, start: int, count: int) -> list[tuple[int, bytes]]:
        """Return up to `count` messages from an offset on."""
        if self._next != start:
            self._consumer.assign([self._at(start)])
        self._next = -1
        found: list[tuple[int, bytes]] = []
        size = 0
        while len(found) < count and size < READ_BYTES:
            part = self._consumer.consume(min(_CHUNK, count - len(found)), _WAIT)
            for message in part:
                if (error := message.error()) is not None:
                    if error.code() in _LOST:  # dropped since the marks were read
                        return found
                    raise KafkaException(error)
                body = message.value() or b""
                found.append(((message.offset() or 0) + 1, body))
                size += len(body)
            if not part:
                break
        if found:
            self._next = found[-1][0]
        return found

    def _at(self, offset: int) -> TopicPartition:
        return TopicPartition(self._topic.name, self._topic.partition, offset)

    def close(self) -> None:
        """Close the consumer."""
        with self._reading:
            self._consumer.close()


def connect(url: str) -> KafkaBroker:
    """Open a topic at `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/TOPIC[?partition=N&partitions=N&replicas=N]`.

    It is created with so many partitions and replicas unless it is there. Other parameters are properties of
    librdkafka, such as `security.protocol=SASL_SSL`. Raises `ConfigError` for another form, and `LogError` if no server
    answers.

    >>> connect("kafka://broker.example:9092/loop?acks=1")
    Traceback (most recent call last):
    everlearn.errors.ConfigError: log.url: acks: got '1'; expected none, since the log needs its own. Leave it out
    """
    match = _URL.fullmatch(url)
    given = dict(parse_qsl(match["query"] or "", keep_blank_values=True)) if match is not None else {}
    if match is None or not all(given.get(name, "1").isdecimal() for name in _OWN):
        raise ConfigError(
            f"log.url: got {without_secrets(url)!r}; expected kafka://HOST:PORT/TOPIC or "
            "kafka://HOST:PORT,HOST:PORT/TOPIC?replicas=3, where TOPIC has letters, digits, ., - and _, and partition, "
            "partitions and replicas are whole numbers"
        )
    for name in given.keys() & {name for properties in _FIXED.values() for name in properties}:
        raise ConfigError(
            f"log.url: {name}: got {given[name]!r}; expected none, since the log needs its own. Leave it out"
        )
    partition = int(given.get("partition", 0))
    count = max(int(given.get("partitions", 1)), partition + 1)
    properties = {name: value for name, value in given.items() if name not in _OWN}
    if match["login"]:
        user, _, password = match["login"].partition(":")
        login = {"sasl.username": unquote(user), "sasl.password": unquote(password)}
        properties = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", **login, **properties}
    topic = Topic(match["topic"], partition, count, int(given.get("replicas", 1)))
    return KafkaBroker(match["hosts"], topic, properties)
