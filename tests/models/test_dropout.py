"""Where dropout acts in each model, at which rate, and that it acts in training only.

The official fixtures have it off, so they cannot tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import ModelConfig, SequenceModel
from seqbench.models.feed_forward import FeedForward
from seqbench.ops import attention
from seqbench.ops.dropout import Dropout
from tests.models.forms import FORMS, plain_name, times_for

ITEMS, MAX_LEN = 30, 8
NEURAL = [form for form, (cls, _) in FORMS.items() if issubclass(cls, SequenceModel)]


def rates(config: ModelConfig) -> list[str]:
    """The fields of a config that are rates of dropout."""
    named = [field.name for field in fields(config) if "dropout" in field.name]
    return [name for name in named if config.uses_times or not name.startswith("time")]


RATES = [(form, rate) for form in NEURAL for rate in rates(FORMS[form][1])]


def make(form: str, **changes: Any) -> SequenceModel:
    """A model with one layer, always the same weights, and no dropout but what is given."""
    cls, config = FORMS[form]
    off = dict.fromkeys(rates(config), 0.0)
    torch.manual_seed(0)
    model = cls(ITEMS, MAX_LEN, replace(config, **{"layers": 1, **off, **changes}))
    assert isinstance(model, SequenceModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def histories(model: SequenceModel) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([MAX_LEN, 5, MAX_LEN, 3])
    items = torch.randint(1, ITEMS + 1, (4, MAX_LEN), generator=generator)
    items = items * (torch.arange(MAX_LEN) < lengths.unsqueeze(1))
    return items, lengths, *times_for(model, items)


@pytest.mark.parametrize(("form", "rate"), RATES)
@pytest.mark.parametrize("path", ["forward", "last_states"])
def test_each_rate_alone_changes_what_training_computes_and_nothing_else(form: str, rate: str, path: str) -> None:
    model = make(form, **{rate: 0.5})
    inputs = histories(model)
    expected = getattr(make(form).eval(), path)(*inputs)
    assert torch.equal(getattr(model.eval(), path)(*inputs), expected)
    model.train()
    one, other = (getattr(model, path)(*inputs) for _ in range(2))
    assert not torch.allclose(one, other, rtol=1e-4)


@contextmanager
def traced(model: nn.Module, dropped: str = "") -> Iterator[list[tuple[str, Tensor]]]:
    """Yield a list to which every dropout and LayerNorm adds its name and its input.

    Args:
        dropped: name of the dropout that lets nothing through; all others let everything through.
    """
    trace: list[tuple[str, Tensor]] = []
    names = {module: name for name, module in model.named_modules()}

    def drop(module: Dropout, x: Tensor) -> Tensor:
        trace.append((f"{names[module]} {module.probability}", x))
        return torch.zeros_like(x) if names[module] == dropped else x

    def drop_probabilities(x: Tensor, probability: float, training: bool) -> Tensor:
        assert training
        trace.append((f"attention {probability}", x))
        return x

    def watch(module: nn.Module, inputs: tuple[Tensor]) -> None:
        trace.append((names[module], inputs[0]))

    handles = [each.register_forward_pre_hook(watch) for each in names if isinstance(each, nn.LayerNorm)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dropout, "forward", drop)
        patch.setattr(attention, "apply_dropout", drop_probabilities)
        yield trace
    for handle in handles:
        handle.remove()


FEED_FORWARD = ["feed_forward.inner_dropout dropout", "feed_forward.dropout dropout", "+ feed_forward.norm"]
TRANSFORMER = [FEED_FORWARD[0].replace("dropout dropout", "dropout 0.0"), *FEED_FORWARD[1:]]  # none between its maps
# Names of dropouts, each with the field that is its rate, and of LayerNorms, in the order in which they act in one
# layer; "+" before a LayerNorm that takes what was just dropped and a residual that was not.
PLACES = {
    "lrurec": ["dropout dropout", "embedding_norm", "dropout dropout", "+ recurrence_norm", *FEED_FORWARD],
    "recblr": ["dropout dropout", "embedding_norm", "dropout dropout", "+ recurrence_norm", *FEED_FORWARD],
    "mamba4rec": ["dropout dropout", "embedding_norm", "dropout dropout", "mamba_norm", *FEED_FORWARD],
    "sigma": [
        *("dropout dropout", "embedding_norm", "gate_dropout gate_dropout", "gate_dropout gate_dropout"),
        *("dropout dropout", "mixer_norm", *FEED_FORWARD),
    ],
    "glintru": [
        *("dropout dropout", "attention.dropout dropout", "+ attention.norm", "inner_dropout inner_dropout"),
        *("inner_dropout inner_dropout", "+ norm", "inner_dropout inner_dropout", "+ norm"),
    ],
    "linrec": ["embedding_norm", "dropout dropout", "attention.dropout dropout", "+ attention.norm", *TRANSFORMER],
    "sasrec": [
        *("embedding_norm", "dropout dropout", "attention attention_dropout", "dropout dropout", "+ attention_norm"),
        *TRANSFORMER,
    ],
    "esasrec": [
        *("dropout dropout", "attention_norm", "attention dropout", "attention_out_dropout dropout"),
        *("+ feed_forward_norm", "inner_dropout dropout", "dropout dropout"),
    ],
    "hstu": ["dropout dropout", "input_norm", "attended_norm", "dropout dropout"],
    "gru4rec": ["dropout dropout"],
    "tim4rec": [
        *("dropout dropout", "embedding_norm", "gap_dropout dropout", "gap_norm", "times.0.scale_dropout time_dropout"),
        *("dropout dropout", "ssd_norm", *FEED_FORWARD),
    ],
    "tim4rec-timeless": ["dropout dropout", "embedding_norm", "dropout dropout", "ssd_norm", *FEED_FORWARD],
    "retnet": [
        *("dropout dropout", "retention_norm", "retention_dropout dropout", "+ feed_forward_norm"),
        *("inner_dropout dropout", "dropout dropout", "+ out_norm"),
    ],
}


@pytest.mark.parametrize("form", NEURAL)
@pytest.mark.parametrize("path", ["forward", "last_states"])
def test_dropout_acts_at_the_places_and_rates_of_the_official_code(form: str, path: str) -> None:
    chosen = {rate: 0.1 * number for number, rate in enumerate(rates(FORMS[form][1]), start=1)}
    model = make(form, **chosen).train()
    with traced(model) as trace:
        getattr(model, path)(*histories(model))
    expected = [place.removeprefix("+ ") for place in PLACES.get(form) or PLACES[plain_name(form)]]
    for rate, value in chosen.items():
        expected = [place.replace(f" {rate}", f" {value}") for place in expected]
    assert [name.removeprefix("blocks.0.") for name, _ in trace] == expected


@pytest.mark.parametrize("form", NEURAL)
def test_residuals_are_added_after_dropout(form: str) -> None:
    model = make(form, **dict.fromkeys(rates(FORMS[form][1]), 0.1)).train()
    with torch.no_grad(), traced(model) as whole:
        model(*histories(model))
    places = PLACES.get(form) or PLACES[plain_name(form)]
    for index in range(1, len(places)):
        name, before = whole[index][0], whole[index - 1][0].partition(" ")[0]
        if name.partition(" ")[2] or not whole[index - 1][0].partition(" ")[2]:
            continue  # no LayerNorm just behind a dropout
        with torch.no_grad(), traced(model, dropped=before) as without:
            model(*histories(model))
        residual = without[[name for name, _ in without].index(name)][1]
        assert (float(residual.abs().max()) > 1e-3) == places[index].startswith("+ "), name


@pytest.mark.parametrize("activation", [F.gelu, F.silu])
def test_the_inner_dropout_of_a_feed_forward_layer_acts_behind_the_activation(activation: Any) -> None:
    layer = FeedForward(8, 64, activation, dropout=0.1, inner_dropout=0.1, norm_eps=1e-5)
    x = torch.randn(5, 8)
    with traced(layer) as trace:
        layer(x)
    assert torch.equal(trace[0][1], activation(layer.inner(x)))


def test_the_gate_of_glintru_is_dropped_behind_its_last_map() -> None:
    model = make("glintru", inner_dropout=0.1).train()
    given: list[Tensor] = []
    model.get_submodule("gate_out").register_forward_hook(lambda module, inputs, output: given.append(output))
    with traced(model) as trace:
        model(*histories(model))
    assert any(torch.equal(given[0], x) for name, x in trace if name.startswith("inner_dropout"))


def test_padding_stays_hidden_when_dropout_acts_on_attention() -> None:
    query, key, value = (torch.randn(2, 1, length, 4) for length in (1, 5, 5))
    lengths = torch.tensor([5, 2])
    expected = attention.causal_attention(query, key, value, dropout=0.0, training=False, lengths=lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "apply_dropout", lambda probabilities, *_: probabilities)
        found = attention.causal_attention(query, key, value, dropout=0.1, training=True, lengths=lengths)
    torch.testing.assert_close(found, expected)
