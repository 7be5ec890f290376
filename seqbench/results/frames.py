"""Stored results as pandas tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import columns, console
from seqbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

    from seqbench.reporting.runs import StoredRun

# Of a record's `cost`: what is one number.
COSTS = (
    "parameters",
    "train_interactions_per_second",
    "train_sequences_per_second",
    "epoch_seconds",
    "fit_seconds",
    "peak_memory_bytes",
)


def cells_frame(runs: Iterable["StoredRun"]) -> "pd.DataFrame":
    """Return one row per cell: definition, accuracy, costs and where it lies.

    Columns: dataset, model, seed, status, protocol, split, max_len, request_time, device, backend; every stored metric
    ("ndcg@10", "valid:ndcg@10"); best_epoch, epochs; what `COSTS` names; config, training (dicts); failure; trial
    (number in a search for settings); key, path.
    """
    import pandas as pd

    return pd.DataFrame([_row(run.record, run.folder) for run in runs])


def ranks_frame(runs: Iterable["StoredRun"]) -> "pd.DataFrame":
    """Return one row per cell and test user: dataset, model, seed, key, user_id, better, ties."""
    import pandas as pd

    frames = []
    for run in runs:
        definition, ranks = run.record.definition, run.ranks()
        if ranks is None:
            console.warn(run.problem or f"{definition.label()}: its ranks were not kept.")
            continue
        values = {columns.USER: ranks.users, columns.BETTER: ranks.better, columns.TIES: ranks.ties}
        about = {"dataset": definition.dataset, "model": definition.model, "seed": definition.seed}
        frames.append(pd.DataFrame({**about, "key": run.folder.name if run.folder else None, **values}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _row(record: Record, folder: Path | None) -> dict[str, Any]:
    definition, training = record.definition, record.training
    return {
        "dataset": definition.dataset,
        "model": definition.model,
        "seed": definition.seed,
        "status": record.status,
        "protocol": definition.protocol.name,
        "split": definition.protocol.split,
        "max_len": definition.protocol.max_len,
        "request_time": definition.protocol.request_time,
        "device": definition.device,
        "backend": definition.backend,
        **record.accuracy,
        **{f"valid:{name}": value for name, value in record.validation.items()},
        "best_epoch": training["best_epoch"] if training else None,
        "epochs": training["epochs"] if training else None,
        **{name: record.cost.get(name) for name in COSTS},
        "config": definition.config,
        "training": definition.training,
        "failure": record.failure["message"] if record.failure else None,
        "trial": record.trial["number"] if record.trial else None,
        "started": record.started,
        "seconds": record.seconds,
        "key": folder.name if folder else None,
        "path": str(folder) if folder else None,
    }
