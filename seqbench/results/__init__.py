"""The results store: one folder per cell, its path computed from what defines the cell.

    results/<data set>/<model>/<key>/record.json      what was run, on what, what came out
                                    /weights.safetensors  the best epoch's weights, and how to rebuild the model
                                    /items.parquet    the raw ids of the items, which the weights know by number
                                    /ranks.parquet    per test user: items ranked better, items tied
                                    /top.parquet      per test user: the 20 best items
                                    /samples.parquet  every raw timing
                                    /checkpoint.safetensors  only while the cell is being trained

A cell whose record says `finished` is never run again unless forced. One that says `trial` was trained and validated by
a search for settings, has no other file, and is not tried again. `records.py` has what a record holds, `store.py`
where it lies, `weights.py` the trained model, `frames.py` all of it as pandas tables.
"""

from seqbench.results.records import REVISION, SCHEMA_VERSION, Definition, Record, UnreadableRecord, read_record
from seqbench.results.store import (
    CHECKPOINT,
    RANKS,
    RECORD,
    SAMPLES,
    TOP,
    WEIGHTS,
    finished_record,
    load_records,
    tried_record,
    write_record,
)

__all__ = [
    "CHECKPOINT",
    "RANKS",
    "RECORD",
    "REVISION",
    "SAMPLES",
    "SCHEMA_VERSION",
    "TOP",
    "WEIGHTS",
    "Definition",
    "Record",
    "UnreadableRecord",
    "finished_record",
    "load_records",
    "read_record",
    "tried_record",
    "write_record",
]
