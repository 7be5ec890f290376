"""What is kept of a data set, and in which order: one dataclass, from the command line to meta.json.

A further filter is one field here, its step in `apply`, and its words. The options of `seqbench prepare`, the checks,
the `filters` of an entry in datasets.yaml and what meta.json stores follow from the field.
"""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from seqbench import columns
from seqbench.data.schema import FieldError, at_least, check_fields
from seqbench.errors import UsageError

if TYPE_CHECKING:
    from seqbench.data.log import Log

Rule = Literal["k-core", "joint-once", "item-then-user-once"]
Duplicates = Literal["none", "first", "last"]
Repeats = Literal["keep", "drop"]
Ties = Literal["file", "item", "recbole"]

SAMPLE_SEED = 0

_ORDER = "order"  # a column while rows are sorted


@dataclass(frozen=True)
class Filters:
    """How the interactions of a source are filtered and ordered. The defaults drop nothing.

    Raises:
        FieldError: a value is not one of those that a field takes.
    """

    min_user: Annotated[int, at_least(1)] = field(
        default=1, metadata={"help": "Keep users with at least this many interactions."}
    )
    min_item: Annotated[int, at_least(1)] = field(
        default=1, metadata={"help": "Keep items with at least this many interactions."}
    )
    rule: Rule = field(
        default="k-core",
        metadata={
            "help": "How both limits are applied: until nothing changes (k-core), both counted once before any is "
            "dropped (joint-once), or items first, then users, once (item-then-user-once)."
        },
    )
    min_rating: float | None = field(default=None, metadata={"help": "Keep interactions with at least this rating."})
    duplicates: Duplicates = field(
        default="none",
        metadata={
            "help": "Of several interactions of a user with an item keep all (none is dropped), the first or the last."
        },
    )
    repeats: Repeats = field(default="keep", metadata={"help": "Whether to keep or drop an item right after itself."})
    ties: Ties = field(
        default="file",
        metadata={
            "help": "Order of equal timestamps: as in the source (file), or by its item ids (item); recbole is "
            "RecBole's own order, by time in float32, in which Unix seconds within 64 or 128 s are equal."
        },
    )
    max_users: Annotated[int | None, at_least(1)] = field(
        default=None,
        metadata={"help": "Keep a sample of this many of the users that pass the filters, for a quick look."},
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def changed(self, **given: Any) -> "Filters":
        """Return these filters with some settings replaced; None keeps a setting.

        Raises:
            UsageError: no setting has this name, or it does not take this value.
        """
        known = [each.name for each in fields(self)]
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"'{unknown[0]}' is no filter.", hint=f"The filters are {', '.join(known)}.")
        try:
            return replace(self, **{name: value for name, value in given.items() if value is not None})
        except FieldError as error:
            raise UsageError(f"--{error.field.replace('_', '-')} {error.why}.") from error

    def apply(self, log: "Log") -> "Log":
        """Filter and sort: ratings, order, repeats, duplicates, limits, sample, one after the other.

        Args:
            log: taken over: its arrays are reused, so that little is held twice.

        Returns:
            The rows that are left, by user, then time; user and item codes as before.
        """
        import numpy as np

        from seqbench.data import selection, spill

        if self.min_rating is not None:
            log.select(log[columns.RATING] >= self.min_rating)
        log.drop(columns.RATING)
        if columns.POSITION in log:
            keys = [columns.POSITION]
        else:
            keys = [columns.TIMESTAMP, *([columns.ITEM] if self.ties == "item" else [])]
            if self.ties == "recbole":
                log.columns[_ORDER] = selection.order_of_floats(log[columns.TIMESTAMP], log.time_scale)
                keys = [_ORDER]
        selection.sort_by_user(log.columns, keys)
        log.drop(columns.POSITION)
        log.drop(_ORDER)
        if self.repeats == "drop":
            log.select(selection.no_repeats(log[columns.USER], log[columns.ITEM]))
        if self.duplicates != "none":
            log.select(selection.one_of_each_pair(log[columns.USER], log[columns.ITEM], self.duplicates))
        users, items = selection.core(log[columns.USER], log[columns.ITEM], self.min_user, self.min_item, self.rule)
        if self.max_users is not None and users.sum() > self.max_users:
            generator = np.random.default_rng(SAMPLE_SEED)
            dropped = generator.permutation(np.flatnonzero(users))[self.max_users :]
            users[dropped] = False
        log.select(selection.both(users, log[columns.USER], items, log[columns.ITEM]))
        spill.release(log.columns.values())
        return log

    def words(self) -> str:
        """Return what is filtered in a few words for reports: "5-core, ratings from 4"."""
        words = f"users with {self.min_user}, items with {self.min_item} interactions or more"
        if self.min_user == self.min_item:
            words = "unfiltered" if self.min_user == 1 else f"{self.min_user}-core"
        if max(self.min_user, self.min_item) > 1:
            words += {"joint-once": ", one pass", "item-then-user-once": ", items, then users, once"}.get(self.rule, "")
        if self.min_rating is not None:
            words += f", ratings from {self.min_rating:g}"
        if self.duplicates != "none":
            words += f", {self.duplicates} of each pair"
        if self.repeats == "drop":
            words += ", no repeats in a row"
        if self.ties == "recbole":
            words += ", in RecBole's order"
        if self.max_users is not None:
            words += f", a sample of {self.max_users:,} users"
        return words
