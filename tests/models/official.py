"""Official weights into our models, and our gradients back under the official names.

One function per model yields pairs (official name, tensor of ours in the official layout) as views or functions
of our parameters, so that the same mapping serves loading, gradients and intermediate checks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqbench.models.linrec import LinRec, LinRecConfig
from seqbench.models.lrurec import LRURec, LRURecConfig
from seqbench.models.sasrec import SASRec, SASRecConfig
from tests.conftest import Golden


@dataclass(frozen=True)
class Entry:
    """How one official array relates to one of our parameters."""

    parameter: nn.Parameter
    load: Callable[[Tensor], Tensor]  # official array → (part of) our parameter
    gradient: Callable[[Tensor], Tensor]  # gradient of our parameter → official layout
    part: slice | int | None = None  # rows of our parameter


def same(value: Tensor) -> Tensor:
    return value


def alternate(value: Tensor, dim: int, sign: int = 1) -> Tensor:
    """Complex → real with real and imaginary parts alternating along `dim`."""
    parts = torch.stack([value.real, sign * value.imag], dim=value.dim() if dim == -1 else dim + 1)
    return parts.flatten(*((-2, -1) if dim == -1 else (dim, dim + 1)))


def join(value: Tensor, dim: int, sign: int = 1) -> Tensor:
    """The inverse of `alternate`, for gradients."""
    real, imaginary = value.unflatten(dim, (-1, 2)).unbind(dim if dim == -1 else dim + 1)
    return torch.complex(real, sign * imaginary)


def lrurec(golden: Golden) -> tuple[LRURec, dict[str, list[Entry]]]:
    config = golden.config
    model = LRURec(
        config["n_items"],
        config["max_len"],
        LRURecConfig(hidden_size=config["hidden_size"], layers=config["num_layers"], dropout=0.0),
    ).double()
    names: dict[str, list[Entry]] = {
        "embedding.token.weight": [Entry(model.embedding.weight, same, same)],
        "embedding.layer_norm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "embedding.layer_norm.bias": [Entry(model.embedding_norm.bias, same, same)],
        "model.bias": [Entry(model.scores_bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        prefix = f"model.lru_blocks.{index}"
        lru = f"{prefix}.lru_layer"
        names[f"{lru}.params_log"] = [
            Entry(parameter, lambda v, row=row: v[row], same)
            for row, parameter in enumerate((block.nu_log, block.theta_log, block.gamma_log))
        ]
        for kind in ("weight", "bias"):
            inner = getattr(block.in_projection, kind)
            names[f"{lru}.in_proj.{kind}"] = [Entry(inner, lambda v: alternate(v, 0), lambda g: join(g, 0))]
        names[f"{lru}.out_proj.weight"] = [
            Entry(block.out_projection.weight, lambda v: alternate(v, -1, -1), lambda g: join(g, -1, -1))
        ]
        names[f"{lru}.out_proj.bias"] = [
            Entry(block.out_projection.bias, lambda v: v.real, lambda g: g.to(torch.complex128))
        ]
        for kind in ("weight", "bias"):
            names[f"{lru}.layer_norm.{kind}"] = [Entry(getattr(block.recurrence_norm, kind), same, same)]
            feed = f"{prefix}.feed_forward"
            names[f"{feed}.w_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{feed}.w_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{feed}.layer_norm.{kind}"] = [Entry(getattr(block.feed_forward_norm, kind), same, same)]
    return model, names


def sasrec(golden: Golden) -> tuple[SASRec, dict[str, list[Entry]]]:
    config = golden.config
    D = config["hidden_size"]
    model = SASRec(
        config["n_items"],
        config["max_len"],
        SASRecConfig(
            hidden_size=D,
            layers=config["n_layers"],
            heads=config["n_heads"],
            inner_size=config["inner_size"],
            dropout=0.0,
            attention_dropout=0.0,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "position_embedding.weight": [Entry(model.positions.weight, same, same)],
        "LayerNorm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "LayerNorm.bias": [Entry(model.embedding_norm.bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        attention = f"trm_encoder.layer.{index}.multi_head_attention"
        feed = f"trm_encoder.layer.{index}.feed_forward"
        for kind in ("weight", "bias"):
            joined = getattr(block.qkv, kind)
            for row, which in enumerate(("query", "key", "value")):
                rows = slice(row * D, (row + 1) * D)
                names[f"{attention}.{which}.{kind}"] = [Entry(joined, same, lambda g, rows=rows: g[rows], part=rows)]
            names[f"{attention}.dense.{kind}"] = [Entry(getattr(block.attention_out, kind), same, same)]
            names[f"{attention}.LayerNorm.{kind}"] = [Entry(getattr(block.attention_norm, kind), same, same)]
            names[f"{feed}.dense_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{feed}.dense_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{feed}.LayerNorm.{kind}"] = [Entry(getattr(block.feed_forward_norm, kind), same, same)]
    return model, names


def linrec(golden: Golden) -> tuple[LinRec, dict[str, list[Entry]]]:
    config = golden.config
    D = config["hidden_size"]
    model = LinRec(
        config["n_items"],
        config["max_len"],
        LinRecConfig(
            hidden_size=D,
            layers=config["n_layers"],
            heads=config["n_heads"],
            inner_size=config["inner_size"],
            dropout=0.0,
            official_quirks=True,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "position_embedding.weight": [Entry(model.positions.weight, same, same)],
        "LayerNorm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "LayerNorm.bias": [Entry(model.embedding_norm.bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        attention = f"trm_encoder.layer.{index}.multi_head_attention"
        feed = f"trm_encoder.layer.{index}.feed_forward"
        for kind in ("weight", "bias"):
            joined = getattr(block.key_value, kind)
            names[f"{attention}.query.{kind}"] = [Entry(getattr(block.query, kind), same, same)]
            for row, which in enumerate(("key", "value")):
                rows = slice(row * D, (row + 1) * D)
                names[f"{attention}.{which}.{kind}"] = [Entry(joined, same, lambda g, rows=rows: g[rows], part=rows)]
            names[f"{attention}.dense.{kind}"] = [Entry(getattr(block.attention_out, kind), same, same)]
            names[f"{attention}.LayerNorm.{kind}"] = [Entry(getattr(block.attention_norm, kind), same, same)]
            names[f"{feed}.dense_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{feed}.dense_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{feed}.LayerNorm.{kind}"] = [Entry(getattr(block.feed_forward_norm, kind), same, same)]
    return model, names


OFFICIAL = {"lrurec": lrurec, "sasrec": sasrec, "linrec": linrec}


def load_official_state(names: dict[str, list[Entry]], arrays: dict[str, Tensor]) -> None:
    """Copy official arrays into our parameters; every array must have a place, every place an array."""
    assert set(names) == set(arrays)
    with torch.no_grad():
        for name, entries in names.items():
            for entry in entries:
                target = entry.parameter if entry.part is None else entry.parameter[entry.part]
                target.copy_(entry.load(arrays[name]))


def official_gradients(names: dict[str, list[Entry]]) -> dict[str, Tensor]:
    """Gradients of our parameters in the official layout."""
    found = {}
    for name, entries in names.items():
        parts = []
        for entry in entries:
            assert entry.parameter.grad is not None, name
            parts.append(entry.gradient(entry.parameter.grad))
        found[name] = parts[0] if len(parts) == 1 else torch.stack(parts)
    return found
