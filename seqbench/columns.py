"""Column names of every table that seqbench writes, in one place."""

USER = "user_id"  # int32, contiguous from 1
ITEM = "item_id"  # int32, contiguous from 1; 0 is padding
TIMESTAMP = "timestamp"  # int64, in the unit of the source (meta.json says which)
SPLIT = "split"  # int8, 0 train, 1 valid, 2 test; only where the source was split by its authors
RAW = "raw_id"  # string, the identifier in the source
TITLE = "title"  # string, null where the source has none

BETTER = "better"  # int32, items that score strictly higher than the target
TIES = "ties"  # int32, other items with exactly the target's score
POSITION = "position"  # int32, place in a list of recommendations, from 1

SERIES = "series"  # string, which measurement a raw sample belongs to
VALUE = "value"  # float64, seconds
