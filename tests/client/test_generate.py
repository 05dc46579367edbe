"""The synchronous client is generated from the asynchronous one."""

from __future__ import annotations

import inspect

from everlearn.client import AsyncClient, Client, _generate


def test_the_synchronous_client_is_up_to_date():
    made = _generate.generated(_generate.SOURCE.read_text(encoding="utf-8"))
    assert made == _generate.TARGET.read_text(encoding="utf-8"), "run `python -m everlearn.client._generate`"
    assert "async" not in made.partition("\n")[2]
    assert "await" not in made


def test_both_clients_have_the_same_methods():
    def face(kind: type) -> dict[str, str]:
        public = {name: one for name, one in vars(kind).items() if not name.startswith("_")}
        return {name.removeprefix("a"): str(inspect.signature(one)) for name, one in public.items() if callable(one)}

    assert face(Client) == face(AsyncClient)
    assert {"predict", "predict_many", "feedback", "feedback_many", "learn", "versions", "promote", "rollback"} <= {
        *face(Client)
    }
