"""Take places and addresses in `everlearn.toml` from the environment, so that one file fits each machine.

`url = "postgresql://ml:${DATABASE_PASSWORD}@${DATABASE_HOST}/ml"` has the values of the two variables. Only settings
that say where something is may have variables: what a loop learns must not depend on the machine that it runs on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from everlearn.errors import ConfigError

PLACES = (
    *("source", "home", "log.url", "log.book", "log.blobs", "mlflow.uri", "judge.url"),
    *("serve.host", "serve.hosts", "serve.webhook", "serve.traces"),
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def filled(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a file with the variables in its places replaced.

    Raises `ConfigError`, naming the setting, for a variable that is not set.

    >>> import os
    >>> os.environ["EVERLEARN_EXAMPLE"] = "db.example"
    >>> filled({"log": {"url": "postgresql://${EVERLEARN_EXAMPLE}/ml"}}, "everlearn.toml")
    {'log': {'url': 'postgresql://db.example/ml'}}
    """
    made = dict(values)
    for name in PLACES:
        table, _, field = name.rpartition(".")
        held = made.get(table) if table else made
        if isinstance(held, Mapping) and field in held:
            changed = {**held, field: _with_values(held[field], name, where)}
            made = made | {table: changed} if table else changed
    return made


def _with_values(value: Any, name: str, where: str) -> Any:
    if isinstance(value, list):
        return [_with_values(one, name, where) for one in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"{where}: {name}: the environment has no variable {match[1]}; set it, or write a value")
        return found

    return _VARIABLE.sub(replaced, value)
