"""Draw `docs/images/architecture.svg` and list the walks in `docs/why/architecture.md`, both from the code itself.

    python docs/why/draw_architecture.py            write both
    python docs/why/draw_architecture.py --check    exit with 1 if one of them differs from the code

The picture shows each module and package of `everlearn` at its rank: a box imports only boxes below it. The walks are
traced: the script runs a small loop, and records each function that is called from another room. It fails if a room is
entered while it waits for another one, which only `loop/` may be.
"""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE / "architecture.md"
PICTURE = HERE.parent / "images" / "architecture.svg"

STEPS = ("events", "predict", "feedback", "learn", "gate", "version", "serve")
DOORS = ("app", "cli", "client", "erase")
ROOMS = (*STEPS, "loop")  # what a walk leads through; the parts that they use are left out

BOX, ROW, LEFT = 106, 68, 80
COLOURS = {"step": "#0b6e99", "loop": "#8a3b12", "door": "#5a4a78", "part": "#5f6b76"}


# ---- the picture -----------------------------------------------------------------------------------------------------


def package() -> Path:
    import everlearn

    return Path(everlearn.__file__).parent


def name_of(path: Path, root: Path) -> str:
    """Return the module or package right below everlearn that a file belongs to; "" for the package's own files."""
    first = path.relative_to(root).parts[0].removesuffix(".py")
    return "" if first.startswith("__") else first


def imports(root: Path) -> dict[str, set[str]]:
    """Return which modules and packages each one imports, anywhere in its files."""
    found: dict[str, set[str]] = {name_of(path, root): set() for path in root.rglob("*.py")}
    del found[""]
    for path in root.rglob("*.py"):
        name = name_of(path, root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if name and isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".")
                if parts[0] == "everlearn":
                    others = parts[1:2] or [alias.name for alias in node.names]
                    found[name] |= {other for other in others if other in found and other != name}
    return found


def ranks(known: dict[str, set[str]]) -> list[list[str]]:
    """Return the names by rank: each one stands right above the highest that it imports."""
    rank: dict[str, int] = {}

    def visit(name: str) -> int:
        if name not in rank:
            rank[name] = max((visit(other) + 1 for other in sorted(known[name])), default=0)
        return rank[name]

    for name in sorted(known):
        visit(name)
    order = {name: place for place, name in enumerate((*STEPS, "loop", *DOORS))}
    rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for name in sorted(rank, key=lambda name: (order.get(name, -1), name)):
        rows[rank[name]].append(name)
    return rows


def box(name: str, x: int, y: int, root: Path) -> list[str]:
    """Draw one module or package, with its number of files."""
    folder = root / name
    files = len(list(folder.rglob("*.py"))) if folder.is_dir() else 1
    kind = "step" if name in STEPS else "loop" if name == "loop" else "door" if name in DOORS else "part"
    number = f"{STEPS.index(name) + 1}  " if name in STEPS else ""
    return [
        f'<rect x="{x}" y="{y}" width="{BOX}" height="46" rx="6" fill="white" stroke="{COLOURS[kind]}" '
        f'stroke-width="{1 if kind == "part" else 2}"/>',
        f'<text x="{x + BOX // 2}" y="{y + 20}" class="name" fill="{COLOURS[kind]}">{number}{escape(name)}</text>',
        f'<text x="{x + BOX // 2}" y="{y + 36}" class="size">{f"{files} files" if files > 1 else "1 file"}</text>',
    ]


def ring(width: int) -> list[str]:
    """Draw the seven steps as the closed loop that they are."""
    gap = (width - LEFT - 16 - BOX) // (len(STEPS) - 1)
    out = [
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{COLOURS["step"]}"/></marker></defs>'
    ]
    for number, name in enumerate(STEPS):
        x = LEFT + number * gap
        out.append(f'<rect x="{x}" y="50" width="{BOX}" height="30" rx="15" fill="{COLOURS["step"]}"/>')
        out.append(f'<text x="{x + BOX // 2}" y="70" class="name" fill="white">{number + 1}  {name}</text>')
        if number:
            out.append(f'<path d="M{x - gap + BOX + 2},65 H{x - 3}" class="arrow" marker-end="url(#tip)"/>')
    first, last = LEFT + BOX // 2, LEFT + 6 * gap + BOX // 2
    out.append(f'<path d="M{last},80 V104 H{first} V83" class="arrow" marker-end="url(#tip)"/>')
    out.append(f'<text x="{(first + last) // 2}" y="99" fill="{COLOURS["loop"]}">loop calls the steps in turn</text>')
    return out


def picture() -> str:
    """Return the whole picture as SVG text."""
    root = package()
    rows = ranks(imports(root))
    width = LEFT + 16 + (BOX + 8) * max(len(names) for names in rows)
    height = ROW * len(rows) + 142
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="The seven steps of the loop, and the modules of everlearn by rank">',
        "<style>text{font-family:system-ui,sans-serif;font-size:11px;text-anchor:middle}"
        ".name{font-size:13px;font-weight:600}.size{fill:#5f6b76;font-size:10px}"
        ".rank{fill:#5f6b76;text-anchor:start}.note{fill:#333;text-anchor:start;font-size:12px}"
        f".arrow{{fill:none;stroke:{COLOURS['step']};stroke-width:1.5}}</style>",
        f'<rect width="{width}" height="{height}" fill="#fbfbf9"/>',
        f'<text x="16" y="28" class="note"><tspan fill="{COLOURS["step"]}">The seven steps</tspan> form a closed '
        f'<tspan fill="{COLOURS["loop"]}">loop</tspan>. <tspan fill="{COLOURS["door"]}">Doors</tspan> let people and '
        "programs in; the rest are parts. Below, a box imports only boxes of lower ranks.</text>",
        *ring(width),
    ]
    for rank, names in enumerate(rows):
        y = 126 + ROW * (len(rows) - 1 - rank)
        out.append(f'<line x1="16" x2="{width - 16}" y1="{y - 11}" y2="{y - 11}" stroke="#e3e3de"/>')
        out.append(f'<text x="16" y="{y + 27}" class="rank">rank {rank}</text>')
        for place, name in enumerate(names):
            out += box(name, LEFT + place * (BOX + 8), y, root)
    return "\n".join([*out, "</svg>", ""])


# ---- the walks -------------------------------------------------------------------------------------------------------


def room(frame: FrameType, root: str) -> str:
    """Return the room that a frame runs in; "" outside of the rooms."""
    file = frame.f_code.co_filename
    first = file.removeprefix(root).lstrip("/").partition("/")[0].removesuffix(".py") if file.startswith(root) else ""
    return first if first in ROOMS else ""


def callers(frame: FrameType, root: str) -> list[FrameType]:
    """Return the frames in rooms that a frame was called from, the nearest first."""
    found, caller = list[FrameType](), frame.f_back
    while caller is not None:
        if room(caller, root):
            found.append(caller)
        caller = caller.f_back
    return found


def is_detail(module: str, function: str) -> bool:
    """Return True for properties and kernels, which the lists leave out."""
    owner, _, name = function.rpartition(".")
    kind = getattr(sys.modules.get(f"everlearn.{module}"), owner, None) if owner else None
    return module.endswith("kernels") or isinstance(vars(kind).get(name) if kind else None, property)


@contextmanager
def traced() -> Iterator[list[str]]:
    """Record each function that is called from another room, or from another file of the loop, in order."""
    root, calls = str(package()), list[str]()

    def look(frame: FrameType, event: str, _: Any) -> None:
        here = room(frame, root) if event == "call" else ""
        function = frame.f_code.co_qualname
        if not here or "<" in function or "__" in function:
            return
        above = callers(frame, root)
        if above and above[0].f_code.co_filename == frame.f_code.co_filename:
            return
        rooms = [room(caller, root) for caller in above]
        if here != "loop" and rooms and rooms[0] == here:
            return
        path = Path(frame.f_code.co_filename).relative_to(root).with_suffix("")
        module = ".".join(path.parts).removesuffix(".__init__")
        if here != "loop" and here in rooms:
            raise SystemExit(f"{module}.{function} is called from {rooms[0]}, while {here} waits for {rooms[0]}")
        call = f"{module}.{function}"
        if call not in calls and not is_detail(module, function):
            calls.append(call)

    sys.setprofile(look)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def walks() -> dict[str, list[str]]:
    """Run a small loop, and return the walk of one row, of one late label and of one promotion."""
    followed(lambda act: ([], act()))  # compiles the kernels, which takes minutes while functions are traced
    return followed(trace)


def followed(trace: Callable[[Callable[[], Any]], tuple[list[str], Any]]) -> dict[str, list[str]]:
    """Run the loop up to its first promotion; `trace` calls a function, and returns its walk and its result."""
    import everlearn as el

    random.seed(1)
    spec = {
        "schema": {"label": "y", "task": "binary", "classes": [0, 1], "fields": {"x": "numeric"}},
        "mode": "gated",
        "tick": 10,
        "gate": {"minimum": 30, "alpha": 0.3},
    }
    found: dict[str, list[str]] = {}
    with TemporaryDirectory() as home, el.open(spec, home=home) as loop:
        for row in range(1000):
            x = random.gauss(0, 1)
            found["row"], answer = trace(lambda x=x: loop.predict({"x": x}))
            before = len(loop.decisions())
            calls, _ = trace(lambda id=answer.id, x=x: loop.feedback(id, label=int(x > 0)))
            if len(loop.decisions()) == before and row % 10 == 9:
                found["label"] = calls
            if any(decision.action == "promote" for decision in loop.decisions()[before:]):
                found["promotion"] = calls
                break
    return found


def trace(act: Callable[[], Any]) -> tuple[list[str], Any]:
    """Return the calls between rooms that `act` makes, and its result."""
    with traced() as calls:
        result = act()
    return calls, result


def listed(calls: list[str]) -> str:
    """Return calls as a numbered list, with the room of each."""
    return "\n".join(f"{number}. `{call}`" for number, call in enumerate(calls, 1))


def page(text: str) -> str:
    """Return the page with the walks of today's code between its markers."""
    for name, calls in walks().items():
        begin, end = f"<!-- walk: {name} -->\n", f"<!-- end: {name} -->"
        head, _, rest = text.partition(begin)
        text = head + begin + listed(calls) + "\n" + end + rest.partition(end)[2]
    return text


def main() -> None:
    drawn, text = picture(), page(PAGE.read_text(encoding="utf-8"))
    if "--check" in sys.argv:
        stale = [path.name for path, new in ((PICTURE, drawn), (PAGE, text)) if path.read_text(encoding="utf-8") != new]
        sys.exit(f"{', '.join(stale)}: run `python docs/why/draw_architecture.py`" if stale else 0)
    PICTURE.write_text(drawn, encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
