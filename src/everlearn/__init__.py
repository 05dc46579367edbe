"""Everlearn keeps a deployed model learning from its own traffic, and never lets it get quietly worse.

    events -> predict -> feedback -> learn -> gate -> version -> serve
      ^                                                           |
      +-----------------------------------------------------------+

Traffic and labels come in; predictions, versions of a model and decisions go out. Each step has a room of the same name
here, `loop/` runs the steps, and the models live in `families/`. Names are loaded on first use, so that
`import everlearn` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from everlearn import (
        advise,
        checks,
        config,
        drift,
        errors,
        export,
        gate,
        merge,
        metrics,
        model,
        records,
        replay,
        schema,
        spec,
    )
    from everlearn.client import AsyncClient, Client
    from everlearn.evaluate import continual
    from everlearn.evaluate.anomalies import alerts
    from everlearn.evaluate.bandits import bandit_run
    from everlearn.evaluate.clustering import cluster
    from everlearn.evaluate.comparing import compare
    from everlearn.evaluate.folds import folds
    from everlearn.evaluate.forecasting import forecasts
    from everlearn.evaluate.prequential import prequential
    from everlearn.evaluate.ranking import rank, recommend
    from everlearn.families.neural import Neural
    from everlearn.loop.explaining import explain
    from everlearn.loop.loop import Loop
    from everlearn.loop.opening import open
    from everlearn.model import build
    from everlearn.stream import Stream, read
    from everlearn.stream.generated import generate

__all__ = [
    "AsyncClient",
    "Client",
    "Loop",
    "Neural",
    "Stream",
    "advise",
    "alerts",
    "bandit_run",
    "build",
    "checks",
    "cluster",
    "compare",
    "config",
    "continual",
    "drift",
    "errors",
    "explain",
    "export",
    "folds",
    "forecasts",
    "gate",
    "generate",
    "merge",
    "metrics",
    "model",
    "open",
    "prequential",
    "rank",
    "read",
    "recommend",
    "records",
    "replay",
    "schema",
    "spec",
]

_ATTRIBUTES = {
    "AsyncClient": "everlearn.client",
    "Client": "everlearn.client",
    "Loop": "everlearn.loop.loop",
    "Neural": "everlearn.families.neural",
    "Stream": "everlearn.stream",
    "bandit_run": "everlearn.evaluate.bandits",
    "alerts": "everlearn.evaluate.anomalies",
    "build": "everlearn.model",
    "cluster": "everlearn.evaluate.clustering",
    "compare": "everlearn.evaluate.comparing",
    "explain": "everlearn.loop.explaining",
    "folds": "everlearn.evaluate.folds",
    "forecasts": "everlearn.evaluate.forecasting",
    "generate": "everlearn.stream.generated",
    "open": "everlearn.loop.opening",
    "prequential": "everlearn.evaluate.prequential",
    "rank": "everlearn.evaluate.ranking",
    "read": "everlearn.stream",
    "recommend": "everlearn.evaluate.ranking",
}

_MODULES = {
    "continual": "everlearn.evaluate.continual",
    **{
        name: f"everlearn.{name}"
        for name in (
            "advise",
            "checks",
            "config",
            "drift",
            "errors",
            "export",
            "gate",
            "merge",
            "metrics",
            "model",
            "records",
            "replay",
            "schema",
            "spec",
        )
    },
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    raise AttributeError(f"module 'everlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
