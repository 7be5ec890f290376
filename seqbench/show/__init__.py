"""Everything that is printed, one file per kind of table."""
