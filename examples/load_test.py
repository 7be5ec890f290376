"""Requests to examples/serve.py at different lengths of history: random weights, one client, in bounded time.

    python examples/load_test.py --lengths 50,1000,10000

Prints a table in Markdown: an event and the recommendations after it, from a state that is kept; and the same list from
the whole history, without HTTP, as a service without states would compute it.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import torch
import uvicorn

sys.path.insert(0, str(Path(__file__).parent))
from serve import Service, application

from seqbench.inference.items import ItemIds
from seqbench.inference.trained import TrainedModel
from seqbench.models import load_model
from seqbench.results import Record

ITEMS = 12_000


def random_model(name: str, length: int) -> TrainedModel:
    """Return a model with random weights at D = 64 and two layers, that can take histories of this length."""
    cls = load_model(name)
    model = cls(ITEMS, length, cls.Config(hidden_size=64, layers=2)).eval()  # type: ignore[call-arg]
    trained = TrainedModel(model, cast(Record, None), Path())
    trained.ids, trained.weights = ItemIds([f"item {at}" for at in range(1, ITEMS + 1)]), "random"
    return trained


def quantiles(seconds: list[float]) -> str:
    """Return p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    return f"{p50:.2f} | {p99:.2f}"


def measure(name: str, length: int, requests: int, seconds: float) -> str:
    """Return a row of the table."""
    trained = random_model(name, length + requests + 2)
    service = Service(trained, bound=10)
    history = [f"item {at}" for at in np.random.default_rng(0).integers(1, ITEMS + 1, length)]
    began = time.perf_counter()
    service.begin("ann", history)
    prefill = time.perf_counter() - began
    service.take("ann", history[0])  # the first compiles the step
    service.recommend("ann", 10)
    server = uvicorn.Server(uvicorn.Config(application(service), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    times: list[float] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        deadline = time.perf_counter() + seconds
        while len(times) < requests and time.perf_counter() < deadline:
            began = time.perf_counter()
            client.post("/users/ann/events", json={"item": history[len(times) % length]}).raise_for_status()
            client.get("/users/ann/recommendations").raise_for_status()
            times.append(time.perf_counter() - began)
    server.should_exit = True
    thread.join()
    whole: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(whole) < requests and (len(whole) < 3 or time.perf_counter() < deadline):
        began = time.perf_counter()
        trained.recommend(history)
        whole.append(time.perf_counter() - began)
    state = sum(each.nbytes for each in service.states["ann"].tensors) / 1024
    return f"| `{name}` | {length:,} | {quantiles(times)} | {quantiles(whole)} | {prefill * 1000:.0f} | {state:,.0f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="lrurec,gru4rec,sasrec")
    parser.add_argument("--lengths", default="50,1000,10000")
    parser.add_argument("--requests", type=int, default=200, help="at most, of each kind")
    parser.add_argument("--seconds", type=float, default=10, help="at most, of each kind")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(
        "| model | history | event + list, p50 ms | p99 ms | whole history, p50 ms | p99 ms | prefill ms | state KiB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for model in given.models.split(","):
        for length in map(int, given.lengths.split(",")):
            print(measure(model, length, given.requests, given.seconds), flush=True)
