"""Which run is meant by a folder, or by a data set and a model: of several the best one, by validation."""

import math
from pathlib import Path

from seqbench import paths
from seqbench.errors import SeqbenchError, UsageError
from seqbench.results import RECORD, WEIGHTS, Record, UnreadableRecord, read_record

LISTING = "See `seqbench list runs`."


def find_run(run: str | Path, results: Path) -> Path:
    """Return the folder of a finished run.

    Args:
        run: the folder of a run, results/DATASET/MODEL/KEY; or DATASET/MODEL, or the folder of that name, for the run
            whose validation is best.
        results: the results store that DATASET/MODEL is looked up in.

    Raises:
        UsageError: there is no such run, or there are several that cannot be compared.
    """
    folder = Path(run).expanduser()
    if (folder / RECORD).is_file():
        return folder
    if not folder.is_dir():
        dataset, _, model = str(run).strip("/").rpartition("/")
        folder = results / paths.folder_name(dataset) / model
        if not dataset or ".." in folder.relative_to(results).parts or not folder.is_dir():
            raise UsageError(f"No run in {results} is {run}.", hint=f"Name a folder, or DATASET/MODEL. {LISTING}")
    candidates = {path.parent: record for path in sorted(folder.glob(f"*/{RECORD}")) if (record := _usable(path))}
    if not candidates:
        raise UsageError(f"No finished run with weights is in {folder}.", hint=LISTING)
    if len({(each.definition.fingerprint, each.definition.protocol) for each in candidates.values()}) > 1:
        raise UsageError(
            f"The runs in {folder} have different protocols or data, so that none of them is the best.",
            hint=f"Name the folder of one of them. {LISTING}",
        )
    return max(candidates, key=lambda each: _validation(candidates[each]))


def _usable(path: Path) -> Record | None:
    try:
        record = read_record(path)
    except (UnreadableRecord, SeqbenchError):
        return None
    return record if record.finished and (path.parent / WEIGHTS).is_file() else None


def _validation(record: Record) -> float:
    found = record.validation.get(record.definition.protocol.selection, -math.inf)
    return found if math.isfinite(found) else -math.inf
