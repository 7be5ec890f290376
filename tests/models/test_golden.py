"""Our models with the official weights: outputs, scores, loss and every gradient as the official code gives them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.losses import uncorrected_softmax
from seqbench.models.base import SequenceModel
from seqbench.models.hstu import BUCKETS
from seqbench.models.times import Times
from seqbench.ops import linear_cross_entropy
from seqbench.ops.functions.silu_attention import time_buckets
from tests.conftest import Golden
from tests.models.official import OFFICIAL, Entry, load_official_state, official_gradients

FIXTURES = [f"{name}{suffix}" for name in OFFICIAL for suffix in ("", "_b")]
# float32 bound of the fixtures' makers; float64 leaves only rounding.
TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 1e-4, "atol": 5e-5}}


def right_padded(golden: Golden) -> tuple[Any, ...]:
    """Items, lengths, and times if the model uses them; fixtures of left-padded models are turned round."""
    items, lengths = golden["item_seq"], golden["item_seq_len"]
    if golden.config["padding"] == "left":
        turned = torch.zeros_like(items)
        for row, length in enumerate(lengths):
            turned[row, :length] = items[row, items.shape[1] - length :]
        items = turned
    if golden.config.get("relative_time_attention"):
        events = golden["timestamps"]
        requests = events.roll(-1, dims=1)
        requests[torch.arange(len(items)), lengths - 1] = golden["request_time"]
        return items, lengths, Times(events, requests)
    if golden.config.get("is_time"):
        return items, lengths, Times(golden["timestamps"], golden["timestamps"])
    return items, lengths


def valid_states(golden: Golden, states: Tensor, key: str) -> tuple[Tensor, Tensor]:
    """Ours and the official values of `key` at all real positions."""
    ours, theirs = [], []
    official = golden[key]
    if "cosine_eps" in golden.config:  # ours are those whose products are the logits
        official = F.normalize(official, dim=-1) / golden.config["logits_t"]
    for row, length in enumerate(golden["item_seq_len"]):
        ours.append(states[row, :length])
        left = golden.config["padding"] == "left"
        theirs.append(official[row, -length:] if left else official[row, :length])
    return torch.cat(ours), torch.cat(theirs)


def training_loss(golden: Golden, model: SequenceModel, states: Tensor) -> Tensor:
    """The official loss of the fixture."""
    targets, lengths = golden["targets"], golden["item_seq_len"]
    if "negatives" in golden.arrays:  # RecTools: a label at every position
        return linear_cross_entropy(states[targets > 0], model.item_weights(), None, targets[targets > 0])
    if golden.config["padding"] == "right":
        positions = states[torch.arange(len(lengths)), lengths - 1]
        return linear_cross_entropy(positions, model.item_weights(), model.item_bias(), targets)
    # Every position with a label counts, and the last padding position has the first item as its label. What the
    # official code computes there is the state after one padding token, since it lets no carry out of padding.
    padding = model(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))[0, 0]
    positions, labels = [], []
    L = targets.shape[1]
    for row, length in enumerate(lengths.tolist()):
        for t in range(L):
            if targets[row, t] != 0:
                first = L - length
                positions.append(states[row, t - first] if t >= first else padding)
                labels.append(targets[row, t])
    return linear_cross_entropy(torch.stack(positions), model.item_weights(), model.item_bias(), torch.stack(labels))


@pytest.fixture(params=FIXTURES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_equals_the_official_implementation(golden: Golden, dtype: torch.dtype, backend: str) -> None:
    model, names = OFFICIAL[golden.config["model"]](golden)
    load_official_state(names, golden.below("w/"))
    model.to(dtype).eval()
    inputs = right_padded(golden)
    states = model(*inputs)
    close = TOLERANCE[dtype]
    torch.testing.assert_close(*_cast(valid_states(golden, states, "out/states")), **close)
    scores = model.score(*inputs).double() * golden.config.get("logits_t", 1.0)
    torch.testing.assert_close(scores, golden["out/scores"], **close)

    loss = training_loss(golden, model, states)
    torch.testing.assert_close(loss.double(), golden["loss"], **close)
    loss.backward()
    assert_gradients(names, golden.below("g/"), dtype)


@pytest.mark.parametrize("name", [name for name in FIXTURES if "negatives" in Golden(name).arrays])
def test_equals_the_official_implementation_with_sampled_items(name: str) -> None:
    golden = Golden(name)
    model, names = OFFICIAL[golden.config["model"]](golden)
    load_official_state(names, golden.below("w/"))
    states = model.eval()(*right_padded(golden))
    targets = golden["targets"]
    trained = targets > 0
    loss = uncorrected_softmax(
        states[trained], model.item_weights(), model.item_bias(), targets[trained], golden["negatives"][trained]
    )
    torch.testing.assert_close(loss, golden["loss_sampled"], **TOLERANCE[torch.float64])
    loss.backward()
    assert_gradients(names, golden.below("g_sampled/"), torch.float64)


def assert_gradients(names: dict[str, list[Entry]], official: dict[str, Tensor], dtype: torch.dtype) -> None:
    close = TOLERANCE[dtype]
    for name, gradient in official_gradients(names).items():
        wide = torch.complex128 if gradient.is_complex() else torch.float64
        torch.testing.assert_close(
            gradient.to(wide), official[name], **close, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_buckets_of_time_are_the_official_ones() -> None:
    golden = Golden("hstu")
    _, lengths, (events, requests) = right_padded(golden)
    found = time_buckets(requests.unsqueeze(2) - events.unsqueeze(1), BUCKETS)
    seen = torch.arange(events.shape[1])
    seen = (seen <= seen.unsqueeze(1)) & (seen.unsqueeze(1) < lengths.view(-1, 1, 1))
    assert torch.equal(torch.where(seen, found, -1), golden["mid/time_buckets"])
    known = {0: 0, 1: 0, 2: 2, 60: 13, 3600: 27, 86_400: 37, 30 * 86_400: 49, 365 * 86_400: 57, -3600: 27}
    assert time_buckets(torch.tensor([*known]), BUCKETS).tolist() == [*known.values()]
    assert int(time_buckets(torch.tensor([2**62]), 100)) == 99


def test_every_parameter_is_compared(golden: Golden) -> None:
    model, names = OFFICIAL[golden.config["model"]](golden)
    compared = {id(entry.parameter) for entries in names.values() for entry in entries}
    assert compared == {id(parameter) for parameter in model.parameters()}


def _cast(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].double(), pair[1]
