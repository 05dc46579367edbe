"""Errors over HTTP: the right status, all that helps, nothing that leaks; faults are found again in the log."""

from __future__ import annotations

import logging

import msgspec
import pytest
from msgspec import Struct
from starlette.requests import ClientDisconnect

from everlearn import errors
from everlearn.app import problems
from everlearn.app.problems import Refused, headers, problem


class Body(Struct, forbid_unknown_fields=True):
    id: str
    weights: list[float] = []


def decoded(body: bytes, instance: str = "") -> tuple[int, dict]:
    try:
        msgspec.json.decode(body, type=Body)
    except (msgspec.DecodeError, RecursionError) as error:
        status, text = problem(error, instance)
        return status, msgspec.json.decode(text)
    raise AssertionError("the body was accepted")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.UnknownId("no prediction with id 'a'"), 404, "unknown-id"),
        (errors.InputError("no"), 422, "input"),
        (errors.ConfigError("no"), 422, "config"),
        (errors.BlobError("gone"), 503, "blob"),
        (errors.MissingExtra("traces", "otel"), 501, "missing-extra"),
        (errors.LogError("disk full"), 503, "log"),
        (errors.ModelError("arrays differ"), 500, "model"),
        (errors.EverlearnError("odd"), 500, "fault"),
        (ZeroDivisionError("division by zero"), 500, "fault"),
        (Refused(429, "", "too fast"), 429, "too-many-requests"),
    ],
)
def test_each_error_has_its_status_and_type(error, status, kind):
    got, body = problem(error, "/predict")
    told = msgspec.json.decode(body)
    assert (got, told["status"], told["type"]) == (status, status, f"urn:everlearn:problem:{kind}")
    assert told["title"]
    assert told["detail"]
    assert told["instance"] == "/predict"
    assert (b"content-type", b"application/problem+json") in headers(error)


def test_a_wrong_type_says_where_and_what():
    status, told = decoded(b'{"id": "a", "weights": [1, "x"]}')
    assert status == 422
    assert (told["where"], told["got"], told["expected"]) == ("weights[1]", "str", "float")
    assert told["detail"] == "weights[1]: expected `float`, got `str`"


def test_a_missing_and_an_unknown_field_are_named():
    _, missing = decoded(b"{}")
    assert "id" in missing["detail"]
    assert missing["where"] == "the body"
    _, unknown = decoded(b'{"id": "a", "wieghts": []}')
    assert "wieghts" in unknown["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"id": "\xff"}', b"[" * 100_000], ids=["empty", "half", "bytes", "deep"])
def test_what_is_not_json_is_a_bad_request(body):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as caught:
        msgspec.json.decode(body)
    assert problem(caught.value)[0] == 400


def test_a_message_of_our_own_is_taken_apart():
    _, body = problem(errors.InputError("weight: got -1, expected a number from 0 to 1e30; send no weight to mean 1"))
    told = msgspec.json.decode(body)
    assert (told["where"], told["got"], told["expected"]) == ("weight", "-1", "a number from 0 to 1e30")
    assert told["fix"] == "send no weight to mean 1"


def test_a_fault_shows_nothing_but_an_id_that_is_in_the_log(caplog):
    try:
        raise RuntimeError("password=hunter2 in /home/someone/secret.py")
    except RuntimeError as error:
        with caplog.at_level(logging.ERROR, logger="everlearn"):
            status, body = problem(error)
    told = msgspec.json.decode(body)
    assert status == 500
    assert b"hunter2" not in body
    assert b"secret.py" not in body
    assert b"Traceback" not in body
    (record,) = caplog.records
    assert record.fields["id"] == told["id"]
    assert told["id"] in told["detail"]
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", [errors.LogError, errors.BlobError])
def test_files_that_fail_do_not_tell_their_paths(caplog, kind):
    _, body = problem(kind("/srv/fraud/log.sqlite: the disk is full"))
    assert b"/srv" not in body
    assert "/srv" in caplog.text
    assert (b"retry-after", b"1") in headers(kind("x"))


def test_a_fault_that_comes_with_every_request_is_written_once_a_moment(caplog, monkeypatch):
    def fault(number):
        try:
            raise RuntimeError(f"number {number}")
        except RuntimeError as error:
            return msgspec.json.decode(problem(error)[1])["id"]

    with caplog.at_level(logging.ERROR, logger="everlearn"):
        ids = {fault(number) for number in range(5)}
        monkeypatch.setattr(problems, "_QUIET", 0.0)
        later = fault(5)
    first, second = caplog.records
    assert ids == {first.fields["id"]}
    assert "left_out" not in first.fields
    assert (second.fields["id"], second.fields["left_out"]) == (later, 4)


def test_a_client_that_is_gone_is_no_fault(caplog):
    status, _ = problem(ClientDisconnect())
    assert status == 400
    assert not caplog.records


def test_members_that_are_not_known_are_left_out_and_any_value_can_be_told():
    _, body = problem(Refused(409, "", "no", {"got": {1, 2}, "fix": None}))
    told = msgspec.json.decode(body)
    assert "fix" not in told
    assert sorted(told["got"]) == [1, 2]
