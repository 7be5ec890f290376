"""Column names of interactions, from the parsers to the Parquet files, and of every other table that is written."""

USER = "user_id"  # int32, contiguous from 1
ITEM = "item_id"  # int32, contiguous from 1; 0 is padding
TIMESTAMP = "timestamp"  # int64, in the unit of the source (meta.json says which)
SPLIT = "split"  # int8, 0 train, 1 valid, 2 test; only where the source was split by its authors
RATING = "rating"  # float32, only while filtering
POSITION = "position"  # int64, place in the user's sequence, only while filtering, where the source says it

# What `seqbench prepare --columns` calls a column of the user's file.
ROLES = {"user": USER, "item": ITEM, "time": TIMESTAMP, "rating": RATING, "position": POSITION, "split": SPLIT}

RAW = "raw_id"  # string, the identifier in the source
TITLE = "title"  # string, null where the source has none

BETTER = "better"  # int32, items that score strictly higher than the target
TIES = "ties"  # int32, other items with exactly the target's score
POSITION = "position"  # int32, place in a list of recommendations, from 1

SERIES = "series"  # string, which measurement a raw sample belongs to
VALUE = "value"  # float64, seconds
