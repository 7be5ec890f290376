"""Official weights into our models, and our gradients back under the official names.

One function per model yields pairs (official name, tensor of ours in the official layout) as views or functions
of our parameters, so that the same mapping serves loading, gradients and intermediate checks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqbench.models.glintru import GLINTRU, GLINTRUConfig
from seqbench.models.gru4rec import GRU4Rec, GRU4RecConfig
from seqbench.models.linear_attention import LinearAttention
from seqbench.models.linrec import LinRec, LinRecConfig
from seqbench.models.lrurec import LRURec, LRURecConfig
from seqbench.models.mamba import Mamba
from seqbench.models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from seqbench.models.recblr import RecBLR, RecBLRConfig
from seqbench.models.sasrec import SASRec, SASRecConfig
from seqbench.models.sigma import SIGMA, SIGMAConfig
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


def gru4rec(golden: Golden) -> tuple[GRU4Rec, dict[str, list[Entry]]]:
    config = golden.config
    model = GRU4Rec(
        config["n_items"],
        config["max_len"],
        GRU4RecConfig(
            embedding_size=config["embedding_size"],
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            dropout=0.0,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "dense.weight": [Entry(model.output.weight, same, same)],
        "dense.bias": [Entry(model.output.bias, same, same)],
    }
    for name, parameter in model.gru.named_parameters():
        names[f"gru_layers.{name}"] = [Entry(parameter, same, same)]
    return model, names


def convolution(weight: nn.Parameter, bias: nn.Parameter) -> dict[str, list[Entry]]:
    """A depthwise convolution: weight (D, 1, K) there, (K, D) here."""
    return {
        "conv1d.weight": [Entry(weight, lambda v: v.squeeze(1).t(), lambda g: g.t().unsqueeze(1))],
        "conv1d.bias": [Entry(bias, same, same)],
    }


def mamba(block: Mamba) -> dict[str, list[Entry]]:
    return {
        "in_proj.weight": [Entry(block.in_projection.weight, same, same)],
        **convolution(block.convolution_weight, block.convolution_bias),
        "x_proj.weight": [Entry(block.parameters_projection.weight, same, same)],
        "dt_proj.weight": [Entry(block.step_projection.weight, same, same)],
        "dt_proj.bias": [Entry(block.step_projection.bias, same, same)],
        "A_log": [Entry(block.decay_log, same, same)],
        "D": [Entry(block.skip, same, same)],
        "out_proj.weight": [Entry(block.out_projection.weight, same, same)],
    }


def mamba4rec(golden: Golden) -> tuple[Mamba4Rec, dict[str, list[Entry]]]:
    config = golden.config
    model = Mamba4Rec(
        config["n_items"],
        config["max_len"],
        Mamba4RecConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            d_state=config["d_state"],
            d_conv=config["d_conv"],
            expand=config["expand"],
            dropout=0.0,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "LayerNorm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "LayerNorm.bias": [Entry(model.embedding_norm.bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        prefix = f"mamba_layers.{index}"
        names |= {f"{prefix}.mamba.{name}": entries for name, entries in mamba(block.mamba).items()}
        for kind in ("weight", "bias"):
            names[f"{prefix}.LayerNorm.{kind}"] = [Entry(getattr(block.mamba_norm, kind), same, same)]
            names[f"{prefix}.ffn.w_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{prefix}.ffn.w_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{prefix}.ffn.LayerNorm.{kind}"] = [Entry(getattr(block.feed_forward_norm, kind), same, same)]
    return model, names


def recblr(golden: Golden) -> tuple[RecBLR, dict[str, list[Entry]]]:
    config = golden.config
    model = RecBLR(
        config["n_items"],
        config["max_len"],
        RecBLRConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            d_conv=config["d_conv"],
            expand=config["expand"],
            dropout=0.0,
            official_quirks=True,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "layer_norm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "layer_norm.bias": [Entry(model.embedding_norm.bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        prefix = f"recurrent_layers.{index}"
        mixer = f"{prefix}.behavior_modeling"
        names[f"{mixer}.input.weight"] = [Entry(block.in_projection.weight, same, same)]
        for name, entries in convolution(block.convolution_weight, block.convolution_bias).items():
            names[f"{mixer}.{name}"] = entries
        names[f"{mixer}.gates.weight"] = [Entry(block.gates.weight, same, same)]
        names[f"{mixer}.gates.bias"] = [Entry(block.gates.bias, same, same)]
        names[f"{mixer}.Lambda"] = [Entry(block.decay, same, same)]
        names[f"{mixer}.output.weight"] = [Entry(block.out_projection.weight, same, same)]
        for kind in ("weight", "bias"):
            names[f"{prefix}.layer_norm.{kind}"] = [Entry(getattr(block.recurrence_norm, kind), same, same)]
            names[f"{prefix}.ffn.w_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{prefix}.ffn.w_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{prefix}.ffn.layer_norm.{kind}"] = [Entry(getattr(block.feed_forward_norm, kind), same, same)]
    return model, names


def linear_attention(attention: LinearAttention) -> dict[str, list[Entry]]:
    names: dict[str, list[Entry]] = {}
    for kind in ("weight", "bias"):
        joined = getattr(attention.key_value, kind)
        D = len(joined) // 2
        names[f"query.{kind}"] = [Entry(getattr(attention.query, kind), same, same)]
        for row, which in enumerate(("key", "value")):
            rows = slice(row * D, (row + 1) * D)
            names[f"{which}.{kind}"] = [Entry(joined, same, lambda g, rows=rows: g[rows], part=rows)]
        names[f"dense.{kind}"] = [Entry(getattr(attention.out, kind), same, same)]
        names[f"LayerNorm.{kind}"] = [Entry(getattr(attention.norm, kind), same, same)]
    return names


def linrec(golden: Golden) -> tuple[LinRec, dict[str, list[Entry]]]:
    config = golden.config
    model = LinRec(
        config["n_items"],
        config["max_len"],
        LinRecConfig(
            hidden_size=config["hidden_size"],
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
        prefix = f"trm_encoder.layer.{index}"
        for name, entries in linear_attention(block.attention).items():
            names[f"{prefix}.multi_head_attention.{name}"] = entries
        for kind in ("weight", "bias"):
            names[f"{prefix}.feed_forward.dense_1.{kind}"] = [Entry(getattr(block.feed_forward_in, kind), same, same)]
            names[f"{prefix}.feed_forward.dense_2.{kind}"] = [Entry(getattr(block.feed_forward_out, kind), same, same)]
            names[f"{prefix}.feed_forward.LayerNorm.{kind}"] = [
                Entry(getattr(block.feed_forward_norm, kind), same, same)
            ]
    return model, names


def glint_ru(golden: Golden) -> tuple[GLINTRU, dict[str, list[Entry]]]:
    config = golden.config
    D = config["hidden_size"]
    model = GLINTRU(
        config["n_items"],
        config["max_len"],
        GLINTRUConfig(
            hidden_size=D,
            layers=config["num_layers"],
            heads=config["n_heads"],
            dropout=0.0,
            inner_dropout=0.0,
            official_quirks=True,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "weights": [Entry(model.mixing, same, same)],
        **{f"linearattention.{name}": entries for name, entries in linear_attention(model.attention).items()},
        **{f"gru_layers.{name}": [Entry(parameter, same, same)] for name, parameter in model.gru.named_parameters()},
    }
    modules = {
        "dense1": model.recurrent_in,
        "conv1d": model.convolution_in,
        "selective_gate.0": model.gate_in,
        "selective_gate.2": model.gate_out,
        "projection": model.recurrent_out,
        "conv1dforgru": model.convolution_out,
        "dense2": model.mix_gate,
        "dense": model.mix_out,
        "denseout": model.filter_out,
        "LayerNorm": model.norm,
    }
    for kind in ("weight", "bias"):
        for name, module in modules.items():
            names[f"{name}.{kind}"] = [Entry(getattr(module, kind), same, same)]
        for row, name in enumerate(("dense3", "dense4")):
            rows = slice(row * D, (row + 1) * D)
            names[f"{name}.{kind}"] = [
                Entry(getattr(model.filter_in, kind), same, lambda g, rows=rows: g[rows], part=rows)
            ]
    return model, names


def sigma(golden: Golden) -> tuple[SIGMA, dict[str, list[Entry]]]:
    config = golden.config
    model = SIGMA(
        config["n_items"],
        config["max_len"],
        SIGMAConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            d_state=config["d_state"],
            d_conv=config["d_conv"],
            expand=config["expand"],
            dropout=0.0,
            gate_dropout=0.0,
            official_quirks=True,
        ),
    ).double()
    names: dict[str, list[Entry]] = {
        "item_embedding.weight": [Entry(model.embedding.weight, same, same)],
        "LayerNorm.weight": [Entry(model.embedding_norm.weight, same, same)],
        "LayerNorm.bias": [Entry(model.embedding_norm.bias, same, same)],
    }
    for index, block in enumerate(model.blocks):
        prefix = f"mamba_layers.{index}"
        mixer = f"{prefix}.gmamba"
        names |= {f"{mixer}.mamba.{name}": entries for name, entries in mamba(block.mamba).items()}
        names |= {f"{mixer}.gru.{name}": [Entry(value, same, same)] for name, value in block.gru.named_parameters()}
        names[f"{mixer}.combining_weights"] = [Entry(block.shares, same, same)]
        modules = {
            f"{mixer}.dense1": block.gate_input,
            f"{mixer}.dense2": block.flipped_gate_input,
            f"{mixer}.selective_gate_si.1": block.gate_silu,
            f"{mixer}.selective_gate_sig.1": block.gate_sigmoid,
            f"{mixer}.conv1d": block.convolution,
            f"{mixer}.projection": block.projection,
            f"{prefix}.LayerNorm": block.mixer_norm,
            f"{prefix}.ffn.w_1": block.feed_forward_in,
            f"{prefix}.ffn.w_2": block.feed_forward_out,
            f"{prefix}.ffn.LayerNorm": block.feed_forward_norm,
        }
        for name, module in modules.items():
            for kind in ("weight", "bias"):
                names[f"{name}.{kind}"] = [Entry(getattr(module, kind), same, same)]
    return model, names


OFFICIAL = {
    "lrurec": lrurec,
    "recblr": recblr,
    "linrec": linrec,
    "glint_ru": glint_ru,
    "sigma": sigma,
    "sasrec": sasrec,
    "gru4rec": gru4rec,
    "mamba4rec": mamba4rec,
}


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
