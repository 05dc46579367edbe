"""The page of the neural family's settings, compared with the code: each is there, with its default and its choices."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from everlearn.families.neural import settings
from everlearn.families.neural.terms import FUNCTIONS
from tests.support import ROOT

PAGE = (ROOT / "docs/reference/neural.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
PARTS = {
    "memory": settings.Memory,
    "schedule": settings.Schedule,
    "consolidate": settings.Consolidate,
    "drift": settings.Drift,
    "lora": settings.Lora,
}
KINDS = {str(kind.__struct_config__.tag): kind for kind in FUNCTIONS}  # type: ignore[attr-defined]


def described(title: str) -> dict[str, tuple[str, str]]:
    """Return default and meaning of each setting in the tables under a heading."""
    parts = re.split(r"^#{2,3} (.+)$", PAGE, flags=re.MULTILINE)
    found = [
        text for head, text in zip(parts[1::2], parts[2::2], strict=True) if head.split(":")[0].strip("`") == title
    ]
    assert len(found) == 1, f"docs/reference/neural.md has {len(found)} sections named {title!r}"
    return {name: (default, meaning) for name, default, meaning in ROW.findall(found[0])}


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[operator]


def compare(kind: type[msgspec.Struct], rows: dict[str, tuple[str, str]], prefix: str = "") -> None:
    """Compare the rows of a table with the settings of a record that are not retired: names, defaults and choices."""
    tag = kind.__struct_config__.tag
    retired = {*settings.RETIRED, *settings.CLASS_SETTINGS}
    path = f"terms.{tag}." if tag else prefix
    fields = {prefix + field.name: field for field in msgspec.structs.fields(kind) if path + field.name not in retired}
    assert rows.keys() == fields.keys()
    hints = get_type_hints(kind, include_extras=False)
    for name, field in fields.items():
        default, meaning = rows[name]
        if field.required:
            assert default == "needed", name
            continue
        value = default_of(field)
        if value is None:
            assert default == "none", name
        elif isinstance(value, tuple(PARTS.values())):
            assert default == "see below", name
        else:
            written = tomllib.loads(f"it = {default.strip('`')}")["it"]
            plain = msgspec.json.decode(msgspec.json.encode(value))  # lists, where there are tuples
            expected = [{"kind": one["kind"]} for one in plain] if name == "terms" else plain
            assert written == expected, f"{name}: the page has the default {default}"
        if get_origin(hints[field.name]) is Literal:
            for choice in get_args(hints[field.name]):
                assert f"`{choice}`" in meaning or default == f'`"{choice}"`', f"{name} may be {choice!r}"


def test_every_setting_of_a_network_is_described() -> None:
    compare(settings.Settings, described("The network and its rows") | described("How it learns"))


@pytest.mark.parametrize("part", PARTS)
def test_every_setting_of_a_part_is_described(part: str) -> None:
    compare(PARTS[part], described(part), f"{part}.")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_a_term_is_described(kind: str) -> None:
    compare(KINDS[kind], described(kind))


def test_every_term_has_a_section_and_no_other() -> None:
    assert {head.split(":")[0].strip("`") for head in re.findall(r"^### (.+)$", PAGE, re.MULTILINE)} == KINDS.keys()
