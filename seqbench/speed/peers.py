"""Other people's implementations of the same operators, used if they are installed.

None is a dependency. Each gets its tensors in the layout that it wants, converted outside the timed part; conversions
are differentiable, so that the check compares outputs and gradients in ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from seqbench.speed.workloads import Inputs, Shape

Run = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Peer:
    """One function of somebody's package."""

    name: str
    distribution: str
    package: str
    workloads: tuple[str, ...]
    load: Callable[[torch.device], Run]  # imports the package; takes inputs as `prepare` leaves them
    prepare: Callable[[Inputs], Inputs]
    finish: Callable[[Tensor], Tensor]
    devices: tuple[str, ...] = ("cuda",)
    refuses: Callable[[Shape], str | None] = lambda shape: None

    @property
    def installed(self) -> bool:
        """Tell whether its package can be found; importing it may still fail."""
        return find_spec(self.package) is not None

    @property
    def version(self) -> str | None:
        """The version of the installed distribution."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


def identity(value: Any) -> Any:
    """Return the value: the peer already uses our layout."""
    return value


def _channels_first(inputs: Inputs) -> Inputs:
    """Put time last: (B, T, D) as (B, D, T)."""
    return {name: _time_last(value) if value.dim() == 3 else value for name, value in inputs.items()}


def _time_last(value: Tensor) -> Tensor:
    return value.transpose(1, 2).contiguous()


def _for_mamba(inputs: Inputs) -> Inputs:
    """Put channels first; convert parameters to float32."""
    inputs = _channels_first(inputs)
    return inputs | {name: inputs[name].float() for name in ("decay", "skip")}


def _log_gates(inputs: Inputs) -> Inputs:
    return inputs | {"gates": inputs["gates"].log()}


def _accelerated_scan(module: str) -> Callable[[torch.device], Run]:
    def load(device: torch.device) -> Run:
        scan = import_module(f"accelerated_scan.{module}").scan
        return lambda inputs: scan(inputs["gates"], inputs["inputs"])

    return load


def _power_of_two(shape: Shape) -> str | None:
    T = shape[1]
    return None if T.bit_count() == 1 and 32 <= T <= 65536 else f"T = {T} is not a power of two from 32 to 65536"


def _mamba(function: str) -> Callable[[torch.device], Run]:
    def load(device: torch.device) -> Run:
        scan = getattr(import_module("mamba_ssm.ops.selective_scan_interface"), function)
        names = ("inputs", "deltas", "decay", "drive", "readout", "skip", "gate")
        return lambda inputs: scan(*(inputs[name] for name in names), delta_softplus=True)

    return load


def _hgrn(function: str) -> Callable[[torch.device], Run]:
    def load(device: torch.device) -> Run:
        scan = getattr(import_module("fla.ops.hgrn"), function)
        return lambda inputs: scan(inputs["inputs"], inputs["gates"])[0]

    return load


def _associative_scan(device: torch.device) -> Run:
    """Import torch's scan. The pointwise mode, one fused kernel, exists for GPUs and under torch.compile only."""
    scan = import_module("torch._higher_order_ops.associative_scan").associative_scan
    mode = "pointwise" if device.type == "cuda" else "generic"

    def combine(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    def run(inputs: Inputs) -> Tensor:
        result: Tensor = scan(combine, (inputs["gates"], inputs["inputs"]), 1, combine_mode=mode)[1]
        return result

    return torch.compile(run) if mode == "pointwise" else run


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="accelerated-scan-warp",
            distribution="accelerated-scan",
            package="accelerated_scan",
            workloads=("linear_scan",),
            load=_accelerated_scan("warp"),
            prepare=_channels_first,
            finish=_time_last,
            refuses=_power_of_two,
        ),
        Peer(
            name="accelerated-scan-triton",
            distribution="accelerated-scan",
            package="accelerated_scan",
            workloads=("linear_scan",),
            load=_accelerated_scan("scalar"),
            prepare=_channels_first,
            finish=_time_last,
        ),
        Peer(
            name="mamba-ssm",
            distribution="mamba-ssm",
            package="mamba_ssm",
            workloads=("selective_scan",),
            load=_mamba("selective_scan_fn"),
            prepare=_for_mamba,
            finish=_time_last,
        ),
        Peer(
            name="mamba-ssm-ref",
            distribution="mamba-ssm",
            package="mamba_ssm",
            workloads=("selective_scan",),
            load=_mamba("selective_scan_ref"),
            prepare=_for_mamba,
            finish=_time_last,
            devices=("cpu", "cuda"),
        ),
        Peer(
            name="fla-hgrn-recurrent",
            distribution="flash-linear-attention",
            package="fla",
            workloads=("linear_scan",),
            load=_hgrn("fused_recurrent_hgrn"),
            prepare=_log_gates,
            finish=identity,
        ),
        Peer(
            name="fla-hgrn-chunk",
            distribution="flash-linear-attention",
            package="fla",
            workloads=("linear_scan",),
            load=_hgrn("chunk_hgrn"),
            prepare=_log_gates,
            finish=identity,
        ),
        Peer(
            name="torch-associative-scan",
            distribution="torch",
            package="torch._higher_order_ops.associative_scan",
            workloads=("linear_scan",),
            load=_associative_scan,
            prepare=identity,
            finish=identity,
            devices=("cpu", "cuda"),
        ),
    )
}
