"""The contract of a log, against each place that can hold one: the tests of `tests/events` that name no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.events import Log, connect
from tests.events import test_rows as of_rows
from tests.events import test_sqlite as of_sqlite

_CONTRACT = {
    of_rows: (
        "test_bottomless_features_are_refused",
        "test_missing_values_and_the_word_null_are_fine",
        "test_numpy_values_are_kept_as_the_numbers_they_hold",
        "test_what_could_not_be_read_back_is_refused",
    ),
    of_sqlite: (
        "test_a_contradiction_is_refused_by_name_with_its_whole_group",
        "test_a_forked_child_is_told_to_open_the_log_again",
        "test_a_payload_of_megabytes",
        "test_all_about_one_id",
        "test_groups_of_every_size_are_written_in_order_and_whole",
        "test_rows_and_payloads_are_written_alike",
        "test_the_order_of_features_is_no_contradiction",
        "test_threads_append_and_read_at_once",
        "test_times_come_back_exactly_and_default_to_now",
        "test_unknown_kinds_are_refused",
    ),
}
globals().update({name: getattr(module, name) for module, names in _CONTRACT.items() for name in names})


@pytest.fixture(params=["sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    place = str(tmp_path / "log.db") if request.param == "sqlite" else request.getfixturevalue("url")
    opened = connect(place)
    yield opened
    opened.close()
