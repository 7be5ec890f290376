"""The example of a service: what it answers, and that its memory has a bound."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import seqbench
from tests.kit import ROOT, Bench

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def serve() -> Iterator[ModuleType]:
    import sys

    spec = importlib.util.spec_from_file_location("serve", ROOT / "examples" / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["serve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve"]


def test_users_take_items_and_are_recommended_others(home: Path, tmp_path: Path, serve: ModuleType) -> None:
    from fastapi.testclient import TestClient

    bench = Bench(home, tmp_path)
    words = ("--set", "sasrec.hidden_size=8", "--epochs", "1", "--no-latency")
    assert bench.run("--models", "sasrec", *words).code == 0
    model = seqbench.load(bench.folder("sasrec"))
    service = serve.Service(model, bound=2)
    client = TestClient(serve.application(service))
    for item in ("4", "17", "5"):
        assert client.post("/users/ann/events", json={"item": item}).status_code == 204
    expected = [each.item for each in model.recommend(["4", "17", "5"], k=3, exclude_seen=False)]
    assert client.get("/users/ann/recommendations?k=3").json() == expected
    assert client.post("/users/ann/events", json={"item": "B00"}).status_code == 422
    for _ in range(25):  # beyond the 20 items at which the model's histories end
        assert client.post("/users/bob/events", json={"item": "9"}).status_code == 204
    client.post("/users/cleo/events", json={"item": "9"})
    assert list(service.states) == ["bob", "cleo"]
    assert client.get("/users/ann/recommendations").status_code == 404
