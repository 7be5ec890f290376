"""Official weights into our models, and our gradients back under the official names.

One function per model yields pairs (official name, tensor of ours in the official layout) as views or functions
of our parameters, so that the same mapping serves loading, gradients and intermediate checks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.esasrec import ESASRec, ESASRecConfig
from seqbench.models.feed_forward import FeedForward
from seqbench.models.glintru import GLINTRU, GLINTRUConfig
from seqbench.models.gru4rec import GRU4Rec, GRU4RecConfig
from seqbench.models.hstu import HSTU, HSTUConfig
from seqbench.models.linear_attention import LinearAttention
from seqbench.models.linrec import LinRec, LinRecConfig
from seqbench.models.lrurec import LRURec, LRURecConfig
from seqbench.models.mamba import Mamba
from seqbench.models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from seqbench.models.recblr import RecBLR, RecBLRConfig
from seqbench.models.sasrec import SASRec, SASRecConfig
from seqbench.models.sigma import SIGMA, SIGMAConfig
from seqbench.models.tim4rec import TiM4Rec, TiM4RecConfig
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


def plain(owners: dict[str, nn.Module | nn.Parameter]) -> dict[str, list[Entry]]:
    """What is stored as it is there: parameters, or all parameters of modules, by their official names."""
    names: dict[str, list[Entry]] = {}
    for name, owner in owners.items():
        if isinstance(owner, nn.Parameter):
            names[name] = [Entry(owner, same, same)]
        else:
            names |= plain({f"{name}.{kind}": parameter for kind, parameter in owner.named_parameters()})
    return names


def rows(joined: nn.Linear, parts: Sequence[str]) -> dict[str, list[Entry]]:
    """A linear map whose rows are those of several, in equal parts."""
    size = joined.out_features // len(parts)
    names: dict[str, list[Entry]] = {}
    for index, part in enumerate(parts):
        own = slice(index * size, (index + 1) * size)
        for kind, parameter in joined.named_parameters():
            names[f"{part}.{kind}"] = [Entry(parameter, same, lambda g, own=own: g[own], part=own)]
    return names


def below(prefix: str, names: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    return {f"{prefix}.{name}": entries for name, entries in names.items()}


def feed_forward(layer: FeedForward, inner: str, outer: str, norm: str) -> dict[str, list[Entry]]:
    return plain({inner: layer.inner, outer: layer.outer, norm: layer.norm})


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
    names = plain(
        {
            "embedding.token": model.embedding,
            "embedding.layer_norm": model.embedding_norm,
            "model.bias": model.scores_bias,
        }
    )
    for index, block in enumerate(model.blocks):
        prefix = f"model.lru_blocks.{index}"
        lru = f"{prefix}.lru_layer"
        names[f"{lru}.params_log"] = [
            Entry(parameter, lambda v, row=row: v[row], same)
            for row, parameter in enumerate((block.nu_log, block.theta_log, block.gamma_log))
        ]
        for kind, parameter in block.in_projection.named_parameters():
            names[f"{lru}.in_proj.{kind}"] = [Entry(parameter, lambda v: alternate(v, 0), lambda g: join(g, 0))]
        names[f"{lru}.out_proj.weight"] = [
            Entry(block.out_projection.weight, lambda v: alternate(v, -1, -1), lambda g: join(g, -1, -1))
        ]
        names[f"{lru}.out_proj.bias"] = [
            Entry(block.out_projection.bias, lambda v: v.real, lambda g: g.to(torch.complex128))
        ]
        names |= plain({f"{lru}.layer_norm": block.recurrence_norm})
        names |= below(f"{prefix}.feed_forward", feed_forward(block.feed_forward, "w_1", "w_2", "layer_norm"))
    return model, names


def sasrec(golden: Golden) -> tuple[SASRec, dict[str, list[Entry]]]:
    config = golden.config
    model = SASRec(
        config["n_items"],
        config["max_len"],
        SASRecConfig(
            hidden_size=config["hidden_size"],
            layers=config["n_layers"],
            heads=config["n_heads"],
            inner_size=config["inner_size"],
            dropout=0.0,
            attention_dropout=0.0,
        ),
    ).double()
    names = plain(
        {"item_embedding": model.embedding, "position_embedding": model.positions, "LayerNorm": model.embedding_norm}
    )
    for index, block in enumerate(model.blocks):
        prefix = f"trm_encoder.layer.{index}"
        attention = rows(block.qkv, ("query", "key", "value"))
        attention |= plain({"dense": block.attention_out, "LayerNorm": block.attention_norm})
        names |= below(f"{prefix}.multi_head_attention", attention)
        names |= below(f"{prefix}.feed_forward", feed_forward(block.feed_forward, "dense_1", "dense_2", "LayerNorm"))
    return model, names


def esasrec(golden: Golden) -> tuple[ESASRec, dict[str, list[Entry]]]:
    config = golden.config
    model = ESASRec(
        config["n_items"],
        config["max_len"],
        ESASRecConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            heads=config["n_heads"],
            inner_factor=config["ff_factors_multiplier"],
            dropout=0.0,
        ),
    ).double()
    names = plain(
        {
            "item_model.item_net_blocks.0.ids_emb": model.embedding,
            "pos_encoding_layer.pos_emb": model.positions,
        }
    )
    for index, block in enumerate(model.blocks):
        layer = {
            "multi_head_attn.out_proj": block.attention_out,
            "layer_norm_1": block.attention_norm,
            "layer_norm_2": block.feed_forward_norm,
            "gating_linear_1": block.attention_gate,
            "gating_linear_2": block.feed_forward_gate,
            "feed_forward.ff_linear_1": block.activated,
            "feed_forward.ff_linear_2": block.outer,
            "feed_forward.ff_linear_3": block.multiplied,
            "multi_head_attn.in_proj_weight": block.qkv.weight,
            "multi_head_attn.in_proj_bias": block.qkv.bias,
        }
        names |= below(f"transformer_layers.transformer_blocks.{index}", plain(layer))
    return model, names


def hstu(golden: Golden) -> tuple[HSTU, dict[str, list[Entry]]]:
    config = golden.config
    model = HSTU(
        config["n_items"],
        config["max_len"],
        HSTUConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            heads=config["n_heads"],
            temperature=config["logits_t"],
            time_bias=config["relative_time_attention"],
            dropout=0.0,
        ),
    ).double()
    names = plain(
        {
            "item_model.item_net_blocks.0.ids_emb": model.embedding,
            "pos_encoding_layer.pos_emb": model.positions,
        }
    )
    L = model.max_len
    for index, block in enumerate(model.blocks):
        layer = {"norm_input": block.input_norm, "norm_attn_output": block.attended_norm, "output_mlp": block.out}
        owned = plain(layer)
        owned["uvqk_proj"] = [Entry(block.projection.weight, Tensor.t, Tensor.t)]
        # There by j - p, from 1 - L to L - 1; here by p - j, and none for what is later.
        owned["rel_attn.pos_weights"] = [
            Entry(block.position_bias, lambda v: v[:L].flip(0), lambda g: F.pad(g.flip(0), (0, L - 1)))
        ]
        if block.time_bias is not None:
            owned |= plain({"rel_attn.time_weights": block.time_bias})
        names |= below(f"transformer_layers.stu_blocks.{index}", owned)
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
    return model, plain({"item_embedding": model.embedding, "dense": model.output, "gru_layers": model.gru})


def convolution(weight: nn.Parameter, bias: nn.Parameter) -> dict[str, list[Entry]]:
    """A depthwise convolution: weight (D, 1, K) there, (K, D) here."""
    return {
        "conv1d.weight": [Entry(weight, lambda v: v.squeeze(1).t(), lambda g: g.t().unsqueeze(1))],
        **plain({"conv1d.bias": bias}),
    }


def mamba(block: Mamba) -> dict[str, list[Entry]]:
    return convolution(block.convolution_weight, block.convolution_bias) | plain(
        {
            "in_proj": block.in_projection,
            "x_proj": block.parameters_projection,
            "dt_proj": block.step_projection,
            "A_log": block.decay_log,
            "D": block.skip,
            "out_proj": block.out_projection,
        }
    )


def tim4rec(golden: Golden) -> tuple[TiM4Rec, dict[str, list[Entry]]]:
    config = golden.config
    model = TiM4Rec(
        config["n_items"],
        config["max_len"],
        TiM4RecConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            dropout=0.0,
            time_dropout=0.0,
            d_state=config["d_state"],
            d_conv=config["d_conv"],
            expand=config["expand"],
            heads=config["expand"] * config["hidden_size"] // config["head_dim"],
            time_aware=config["is_time"],
            official_quirks=True,
        ),
    ).double()
    names = plain({"item_embedding": model.embedding, "in_layer_norm": model.embedding_norm})
    for index, layer in enumerate(model.blocks):
        owned = feed_forward(layer.feed_forward, "ffn.fc1", "ffn.fc2", "ffn.layer_norm")
        owned |= plain({"layer_norm": layer.ssd_norm})
        owned |= below("ssd", convolution(layer.ssd.convolution_weight, layer.ssd.convolution_bias))
        block = {"in_proj": layer.ssd.in_projection, "out_proj": layer.ssd.out_projection}
        block |= {"dt_bias": layer.ssd.step_bias, "A_log": layer.ssd.decay_log, "D": layer.ssd.skip}
        owned |= below("ssd", plain(block | {"norm.weight": layer.ssd.norm_weight}))
        if config["is_time"]:
            times = model.times[index]
            maps = {"mlp4time_scale.1": times.scale_inner, "mlp4time_scale.3": times.scale_outer}
            if times.gate is not None:
                maps |= {"time_gate_residual.1": times.gate, "time_layer_norm": times.norm}
            owned |= below("ssd", plain(maps))
            for there, here in (("1", "first"), ("2", "second")):
                weight = times.get_parameter(f"{here}_convolution_weight")
                bias = times.get_parameter(f"{here}_convolution_bias")
                owned |= {
                    name.replace("conv1d", f"ssd.conv1d4time_{there}"): entries
                    for name, entries in convolution(weight, bias).items()
                }
        names |= below(f"ssd_layers.{index}", owned)
    if config["is_time"]:
        names |= plain({"layer_norm_time": model.gap_norm})
    return model, names


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
    names = plain({"item_embedding": model.embedding, "LayerNorm": model.embedding_norm})
    for index, block in enumerate(model.blocks):
        layer = below("mamba", mamba(block.mamba)) | plain({"LayerNorm": block.mamba_norm})
        layer |= below("ffn", feed_forward(block.feed_forward, "w_1", "w_2", "LayerNorm"))
        names |= below(f"mamba_layers.{index}", layer)
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
    names = plain({"item_embedding": model.embedding, "layer_norm": model.embedding_norm})
    for index, block in enumerate(model.blocks):
        mixer = convolution(block.convolution_weight, block.convolution_bias)
        mixer |= plain(
            {"input": block.in_projection, "gates": block.gates, "Lambda": block.decay, "output": block.out_projection}
        )
        layer = below("behavior_modeling", mixer) | plain({"layer_norm": block.recurrence_norm})
        layer |= below("ffn", feed_forward(block.feed_forward, "w_1", "w_2", "layer_norm"))
        names |= below(f"recurrent_layers.{index}", layer)
    return model, names


def linear_attention(attention: LinearAttention) -> dict[str, list[Entry]]:
    names = plain({"query": attention.query, "dense": attention.out, "LayerNorm": attention.norm})
    return names | rows(attention.key_value, ("key", "value"))


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
    names = plain(
        {"item_embedding": model.embedding, "position_embedding": model.positions, "LayerNorm": model.embedding_norm}
    )
    for index, block in enumerate(model.blocks):
        prefix = f"trm_encoder.layer.{index}"
        names |= below(f"{prefix}.multi_head_attention", linear_attention(block.attention))
        names |= below(f"{prefix}.feed_forward", feed_forward(block.feed_forward, "dense_1", "dense_2", "LayerNorm"))
    return model, names


def glint_ru(golden: Golden) -> tuple[GLINTRU, dict[str, list[Entry]]]:
    config = golden.config
    model = GLINTRU(
        config["n_items"],
        config["max_len"],
        GLINTRUConfig(
            hidden_size=config["hidden_size"],
            layers=config["num_layers"],
            heads=config["n_heads"],
            dropout=0.0,
            inner_dropout=0.0,
            official_quirks=True,
        ),
    ).double()
    names = plain(
        {
            "item_embedding": model.embedding,
            "dense1": model.recurrent_in,
            "conv1d": model.convolution_in,
            "gru_layers": model.gru,
            "selective_gate.0": model.gate_in,
            "selective_gate.2": model.gate_out,
            "projection": model.recurrent_out,
            "conv1dforgru": model.convolution_out,
            "weights": model.mixing,
            "dense2": model.mix_gate,
            "dense": model.mix_out,
            "denseout": model.filter_out,
            "LayerNorm": model.norm,
        }
    )
    names |= rows(model.filter_in, ("dense3", "dense4"))
    names |= below("linearattention", linear_attention(model.attention))
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
    names = plain({"item_embedding": model.embedding, "LayerNorm": model.embedding_norm})
    for index, block in enumerate(model.blocks):
        mixer = {
            "gru": block.gru,
            "combining_weights": block.shares,
            "dense1": block.gate_input,
            "dense2": block.flipped_gate_input,
            "selective_gate_si.1": block.gate_silu,
            "selective_gate_sig.1": block.gate_sigmoid,
            "conv1d": block.convolution,
            "projection": block.projection,
        }
        layer = below("gmamba", plain(mixer) | below("mamba", mamba(block.mamba)))
        layer |= plain({"LayerNorm": block.mixer_norm})
        layer |= below("ffn", feed_forward(block.feed_forward, "w_1", "w_2", "LayerNorm"))
        names |= below(f"mamba_layers.{index}", layer)
    return model, names


OFFICIAL = {
    "lrurec": lrurec,
    "recblr": recblr,
    "linrec": linrec,
    "glint_ru": glint_ru,
    "sigma": sigma,
    "sasrec": sasrec,
    "esasrec": esasrec,
    "hstu": hstu,
    "gru4rec": gru4rec,
    "mamba4rec": mamba4rec,
    "tim4rec": tim4rec,
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
