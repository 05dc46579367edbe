"""Servers that `bench/serve.py` compares Everlearn with: python bench/peers.py NAME PORT FOLDER.

Each answers 10 numbers with the class and probability of one logistic model, an id and a version, and logs nothing.
They follow their documentation, and run on the same server with the same options where possible.
"""

from __future__ import annotations

import math
import os
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = [f"f{i}" for i in range(10)]
WEIGHTS, INTERCEPT = np.linspace(-1.0, 1.0, 10), 0.25


def probability(row: list[float]) -> float:
    """Return the probability of class 1 for a row of 10 numbers."""
    return 1.0 / (1.0 + math.exp(-float(np.array(row) @ WEIGHTS + INTERCEPT)))


def starlette() -> Any:
    """Return a bare Starlette application: no models, no middleware, a fast JSON library."""
    import msgspec
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode

    async def predict(request: Request) -> Response:
        features = decode(await request.body())["features"]
        p = probability([features[name] for name in FIELDS])
        reply = {"id": uuid.uuid4().hex, "value": p > 0.5, "proba": [1.0 - p, p], "version": "v1"}
        return Response(encode(reply), media_type="application/json")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


def fastapi() -> Any:
    """Return a FastAPI application with models of requests and responses."""
    from fastapi import FastAPI
    from pydantic import BaseModel, create_model

    fields: Any = dict.fromkeys(FIELDS, (float, ...))
    features = create_model("Features", **fields)

    class PredictRequest(BaseModel):
        features: features  # type: ignore[valid-type]

    class PredictResponse(BaseModel):
        id: str
        value: bool
        proba: list[float]
        version: str

    PredictRequest.model_rebuild(_types_namespace={"features": features})
    app = FastAPI()

    async def predict(request: Any) -> Any:
        p = probability(list(request.features.model_dump().values()))
        return PredictResponse(id=uuid.uuid4().hex, value=p > 0.5, proba=[1.0 - p, p], version="v1")

    predict.__annotations__ = {"request": PredictRequest, "return": PredictResponse}
    app.post("/predict")(predict)
    return app


def mlflow(port: str, folder: Path) -> None:
    """Run MLflow's model server, one worker, on a model saved in its format."""
    import mlflow as package

    class Logistic(package.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            p = 1.0 / (1.0 + np.exp(-(np.asarray(model_input, float) @ WEIGHTS + INTERCEPT)))
            return {"value": (p > 0.5).tolist(), "proba": np.stack([1.0 - p, p], axis=1).tolist()}

    path = folder / "mlflow-model"
    package.pyfunc.save_model(str(path), python_model=Logistic(), pip_requirements=[])
    # MLflow runs uvicorn from the PATH
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["-m", "mlflow", "models", "serve", "-m", str(path), "-p", port, "--env-manager", "local", "-w", "1"]
    os.execv(sys.executable, [sys.executable, *command])


def bentoml(port: str, folder: Path) -> None:
    """Run a BentoML service, one worker."""
    service = """
        import bentoml
        import sys
        sys.path.insert(0, {here!r})
        from peers import probability
        import uuid

        @bentoml.service(workers=1, traffic={{"timeout": 10}})
        class Logistic:
            @bentoml.api
            async def predict(self, features: dict[str, float]) -> dict:
                p = probability(list(features.values()))
                return {{"id": uuid.uuid4().hex, "value": p > 0.5, "proba": [1.0 - p, p], "version": "v1"}}
    """
    (folder / "logistic.py").write_text(textwrap.dedent(service).format(here=str(Path(__file__).parent)))
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.chdir(folder)
    command = ["-m", "bentoml", "serve", "logistic:Logistic", "--port", port, "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, *command])


def main() -> None:
    name, port, folder = sys.argv[1:]
    if name in ("mlflow", "bentoml"):
        return {"mlflow": mlflow, "bentoml": bentoml}[name](port, Path(folder))
    import uvicorn

    app = {"starlette": starlette, "fastapi": fastapi}[name]()
    options: Any = {"loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "off", "proxy_headers": False}
    uvicorn.run(app, port=int(port), access_log=False, server_header=False, log_level="warning", **options)
    return None


if __name__ == "__main__":
    main()
