"""Results of other programs: what they hold becomes ranks, and what cannot be believed is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seqbench
from seqbench.data.prepared import open_prepared
from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.metrics import parse
from seqbench.evaluation.ranks import Ranks
from seqbench.reporting.runs import load_runs
from seqbench.reporting.tables import build_report
from seqbench.results import RANKS


@pytest.fixture(scope="module")
def truth(home):
    """Raw user, raw target, and raw items that the user has not seen, for each test user."""
    prepared = open_prepared("synthetic", home)
    log, sequences = prepared.load(), prepared.split("leave-one-out")
    users, items = log.users.to_pylist(), log.items.to_pylist()
    examples = sequences.test()
    rows = []
    for user, start, stop, target in zip(*vars(examples).values(), strict=True):
        seen = {int(item) for item in sequences.flat[start:stop]}
        fresh = [items[i - 1] for i in range(1, len(items) + 1) if i not in seen and i != target]
        rows.append((users[user - 1], items[target - 1], fresh))
    return rows


def lists(truth, length=3):
    """Lists with the target of the nth user at place n mod 4 + 1: in every fourth it is not."""
    found = []
    for number, (user, target, fresh) in enumerate(truth):
        listed = fresh[:length]
        if number % 4 < length:
            listed[number % 4] = target
        found += [(user, item, place) for place, item in enumerate(listed, start=1)]
    return found


def expected(truth):
    return np.arange(len(truth)) % 4


@pytest.fixture
def store(home, tmp_path):
    """A function that writes text to a file and imports it."""

    def imported(text, name="run.csv", **options):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return seqbench.import_results(path, "synthetic", "Other", home=home, results=tmp_path / "store", **options)

    return imported


def written(record, tmp_path):
    return Ranks.read(record.definition.folder(tmp_path / "store") / RANKS)


@pytest.mark.parametrize("form", ["positions", "scores", "trec", "tsv", "parquet"])
def test_lists_become_ranks_in_every_form(truth, store, home, tmp_path, form):
    rows = lists(truth)
    if form == "parquet":
        path = tmp_path / "run.parquet"
        users, items, places = zip(*reversed(rows), strict=True)
        pq.write_table(pa.table({"User": users, "Item": items, "Rank": places}), path)
        record = seqbench.import_results(path, "synthetic", "Other", home=home, results=tmp_path / "store")
    else:
        lines = {
            "positions": ["user,item,position", *(f"{u},{i},{p}" for u, i, p in reversed(rows))],
            "scores": ["item,user,score,extra", *(f"{i},{u},{-p / 7},x" for u, i, p in rows)],
            "trec": [f"{u} Q0 {i} {p} {1 / p} tag" for u, i, p in rows],
            "tsv": ["user\titem\trank", *(f"{u}\t{i}\t{p}" for u, i, p in rows)],
        }[form]
        record = store("\n".join(lines) + "\n")
    assert np.array_equal(written(record, tmp_path).better, expected(truth))
    assert record.imported["depth"] == 3
    assert record.accuracy == {}  # three places give no figure at 5


def test_a_report_shows_imported_figures_as_far_as_their_lists_go(truth, store, tmp_path):
    store("user,item,position\n" + "".join(f"{u},{i},{p}\n" for u, i, p in lists(truth)))
    (run,), _ = load_runs(tmp_path / "store")
    report = build_report([run], ["hr@3", "hr@10", "rank"])
    accuracy = report.sections[0].tables[0]
    cells = accuracy.rows[0].cells
    assert cells["hr@3"].mean == pytest.approx((expected(truth) < 3).mean())
    assert (cells["hr@10"].n, cells["rank"].n) == (0, 0)
    assert "HR@10 needs longer lists than were imported" in accuracy.footnotes
    assert "imported from run.csv, the best 3 items of each user" in accuracy.footnotes
    assert [table.kind for table in report.sections[0].tables] == ["accuracy"]  # no costs
    assert run.lists(3).shape == (len(truth), 3)


def test_ranks_are_taken_as_they_are(truth, store, tmp_path):
    text = "user,rank\n" + "".join(f"{user},{number % 30 + 1}\n" for number, (user, _, _) in enumerate(truth))
    record = store(text)
    assert written(record, tmp_path).better.tolist() == [number % 30 for number in range(len(truth))]
    assert record.accuracy["hr@10"] == pytest.approx(np.mean([number % 30 < 10 for number in range(len(truth))]))
    (run,), _ = load_runs(tmp_path / "store")
    assert run.test_value(parse("rank")) is not None
    with pytest.raises(UsageError, match=r"is in .* already"):
        store(text)
    assert store(text, force=True).accuracy == record.accuracy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[3:], "1 users with a test target are not in the file"),
        (lambda rows: [("nobody", *rows[0][1:]), *rows], "user ids that the data set does not have, first 'nobody'"),
        (lambda rows: [(rows[0][0], "=cmd()", 1), *rows], "item ids that the data set does not have"),
        (lambda rows: [*rows, rows[0]], "recommends an item to a user twice"),
        (lambda rows: [(u, i, "nan") for u, i, _ in rows], "is missing or is not a finite number"),
        (lambda rows: [], "has no rows|cannot be read"),
    ],
)
def test_lists_that_do_not_fit_are_refused(truth, store, tmp_path, change, said):
    rows = change(lists(truth))
    with pytest.raises(SeqbenchError, match=said):
        store("user,item,position\n" + "".join(f"{u},{i},{p}\n" for u, i, p in rows))
    assert not (tmp_path / "store").exists()


def test_lists_with_seen_items_are_of_another_protocol(truth, store, home):
    log = open_prepared("synthetic", home).load()
    first = dict(zip(log["user_id"][::-1].tolist(), log["item_id"][::-1].tolist(), strict=True))
    users, items = log.users.to_pylist(), log.items.to_pylist()
    text = "user,item,position\n" + "".join(f"{users[u - 1]},{items[i - 1]},1\n" for u, i in first.items())
    with pytest.raises(SeqbenchError, match="hold items that protocol fair removes"):
        store(text)
    assert store(text, protocol="recbole").imported["depth"] == 1


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00\xff" * 50, b"a,b\n1\n", b"user,user,rank\n1,1,1\n"])
def test_bytes_that_are_no_such_file_are_refused(home, tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SeqbenchError):
        seqbench.import_results(path, "synthetic", "Other", home=home, results=tmp_path / "store")
    with pytest.raises(UsageError, match="cannot be the name"):
        seqbench.import_results(path, "synthetic", "../x", home=home, results=tmp_path / "store")
