"""Raw item ids beside the weights, so that a trained model can be used where its data set is not.

Items are rows of the model's table by number alone. A list of other ids would give other items without any error, so
the list has a digest in the run's record, and is not believed without it.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from seqbench.columns import ITEM, RAW
from seqbench.errors import SeqbenchError, UsageError
from seqbench.files import replacing
from seqbench.results.records import Record

if TYPE_CHECKING:
    from seqbench.data.prepared import PreparedDataset

ITEM_IDS = "items.parquet"  # columns.ITEM, RAW; in the order of the model's table, without padding
HINT = "Run the cell again with --force."
NAMED = 3  # unknown ids that a message names


class ItemIds:
    """The raw ids of items 1, 2, …"""

    def __init__(self, raw: Sequence[str]) -> None:
        self.raw = list(raw)

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Return the number of every raw id."""
        return {raw: number for number, raw in enumerate(self.raw, start=1)}

    def digest(self) -> str:
        """Return the SHA-256 of the list, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.raw).encode()).hexdigest()

    def find(self, raw: Iterable[str]) -> tuple[list[int], list[str]]:
        """Return the numbers of the raw ids that are known, and the others."""
        numbers, unknown = [], []
        for each in raw:
            number = self.numbers.get(each)
            if number is None:
                unknown.append(each)
            else:
                numbers.append(number)
        return numbers, unknown

    def unknown(self, raw: Sequence[str]) -> UsageError:
        """Return the error for raw ids that the model has not been trained with."""
        named = ", ".join(map(repr, raw[:NAMED])) + (f" and {len(raw) - NAMED:,} more" if len(raw) > NAMED else "")
        near = difflib.get_close_matches(str(raw[0]), self.raw[:100_000], n=1, cutoff=0.8)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        return UsageError(
            f"The model has not been trained with item {named}.{guess}",
            hint='Leave such items out, or pass unknown="skip".',
        )

    @classmethod
    def of(cls, prepared: "PreparedDataset") -> "ItemIds":
        """Return those of a prepared data set.

        Raises:
            SeqbenchError: it is damaged.
        """
        from seqbench.data.prepared import ITEMS

        return cls(_read(prepared.directory / ITEMS, prepared.items, "Prepare the data set again."))

    def write(self, path: Path) -> None:
        """Store the list as Parquet, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {ITEM: pa.array(range(1, len(self) + 1), pa.int32()), RAW: pa.array(self.raw, pa.string())}
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")

    @classmethod
    def read(cls, run: Path, record: Record) -> "ItemIds":
        """Read the ids of a run.

        Raises:
            SeqbenchError: there are none, or they are not those that the record is of.
        """
        path, digest = run / ITEM_IDS, record.dataset.get("item_ids")
        if digest is None or not path.is_file():
            raise SeqbenchError(f"{run} has no {ITEM_IDS}, so that raw ids mean nothing to its model.", hint=HINT)
        found = cls(_read(path, record.dataset.get("items", -1), HINT))
        if found.digest() != digest:
            raise SeqbenchError(f"{path} is damaged (its ids are not those that the record is of).", hint=HINT)
        return found


def _read(path: Path, items: int, hint: str) -> list[str]:
    """Read that many raw ids, all different."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != items:
                raise ValueError(f"it has {file.metadata.num_rows:,} rows instead of {items:,}")
            raw: list[str] = file.read(columns=[RAW])[RAW].to_pylist()
        if not all(isinstance(each, str) for each in raw) or len(set(raw)) != len(raw):
            raise ValueError("its ids are not different texts")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise SeqbenchError(f"{path} is damaged ({reason}).", hint=hint) from error
    return raw
