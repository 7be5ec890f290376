"""datasets.yaml, and the errors for a wrong one."""

import copy
import json
import subprocess
import sys

import pytest
import yaml

from seqbench import paths
from seqbench.data.catalog import get_spec, load_catalog, parse_catalog
from seqbench.errors import SeqbenchError, UsageError

GOOD = yaml.safe_load(paths.shipped("datasets.yaml").read_text(encoding="utf-8"))


def changed(entry: str, path: list[str | int], value: object) -> str:
    entries = copy.deepcopy(GOOD)
    place = entries[entry]
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(entries, sort_keys=False)


def test_shipped_catalog() -> None:
    catalog = load_catalog()
    assert list(catalog)[:1] == ["ml-100k"]
    spec = catalog["ml-100k"]
    assert [source.label for source in spec.sources] == ["GroupLens", "the RecBole wheel"]
    assert spec.expected is not None
    assert (spec.expected.prepared.users, spec.expected.prepared.items) == (943, 1349)
    assert catalog["synthetic"].generator == "synthetic"


def test_every_shipped_source_is_pinned() -> None:
    for spec in load_catalog().values():
        for source in spec.sources:
            # A category that is not listed has no checksum; then nothing but TLS tells who is speaking.
            assert source.pinned or source.manual or "amazon-20" in spec.name, (spec.name, source.label)
            assert (source.url or "https://").startswith("https://")
            assert source.pinned or all(mirror.startswith("https://") for mirror in source.mirrors)
            assert "==" in (source.pypi or "==")


def test_unknown_name_suggests() -> None:
    with pytest.raises(UsageError, match=r"'ml-100' is unknown. Did you mean ml-100k\?") as caught:
        get_spec("ml-100")
    assert "seqbench list datasets" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["title"], None, "title is missing"),
        (["title"], 3, "title must be text, not 3"),
        (["max_len"], 0, "max_len must be at least 1, not 0"),
        (["max_len"], True, "max_len must be a whole number, not True"),
        (["timestamp_unit"], "days", "timestamp_unit must be one of seconds, milliseconds, rows, not 'days'"),
        (["splits"], ["random"], r"splits\[0\] must be one of leave-one-out, temporal, not 'random'"),
        (["splits"], [], "splits must name a split"),
        (["filters", "ties"], "random", "filters.ties must be one of file, item"),
        (["filters", "rule"], "kcore", "filters.rule must be one of k-core, joint-once, item-then-user-once"),
        (["filters", "min_user"], "5", "filters.min_user must be a whole number, not '5'"),
        (["filters", "min_user"], 0, "filters.min_user must be at least 1, not 0"),
        (["filters", "max_user"], 5, "filters.max_user is not a field that seqbench knows"),
        (["sources", 0, "sha256"], "abc", r"sources\[0\].sha256 must be 64 lower-case hexadecimal digits"),
        (["sources", 0, "md5"], ["abc"], r"sources\[0\].md5\[0\] must be 32 lower-case hexadecimal digits"),
        (["sources", 0, "url"], None, r"sources\[0\].url .* exactly one is needed"),
        (["sources", 1, "filename"], "../x", r"sources\[1\].filename must be a plain file name"),
        (["sources", 0, "interactions", "format"], "pickle", r"sources\[0\].interactions.format must be one of"),
        (["sources", 0, "interactions", "member"], [], r"sources\[0\].interactions.member must name a file"),
        (["sources", 0, "items"], "u.item", r"sources\[0\].items must be a mapping"),
        (["expected", "source"], None, "expected.source is missing"),
        (["expected", "raw"], {}, "expected.raw.users is missing, and so are items and interactions"),
        (["generator"], "synthetic", "sources: either sources or a generator is needed"),
        (["downloads"], "ml-1", "downloads 'ml-1' is no entry"),
        (["licens"], "free", "licens is not a field that seqbench knows"),
    ],
)
def test_wrong_entry_is_named(path: list[str | int], value: object, words: str) -> None:
    with pytest.raises(SeqbenchError, match=rf"^datasets\.yaml: ml-100k\.{words}"):
        parse_catalog(changed("ml-100k", path, value))


def test_what_is_known_of_a_category_is_checked_too() -> None:
    with pytest.raises(SeqbenchError, match=r"amazon-2018\.categories\.Gift_Cards\.sha256 must be 64"):
        parse_catalog(changed("amazon-2018", ["categories", "Gift_Cards", "sha256"], "abc"))


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "A b"])
def test_names_stay_inside_their_folder(name: str) -> None:
    with pytest.raises(SeqbenchError):
        parse_catalog(json.dumps({name: GOOD["ml-100k"]}))


def test_import_is_cheap() -> None:
    code = (
        "import sys, seqbench.data.catalog, seqbench.data.prepared; seqbench.data.catalog.load_catalog();"
        "heavy = ('numpy', 'pandas', 'pyarrow', 'torch', 'httpx', 'rich.table');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_families_take_any_category() -> None:
    spec = get_spec("amazon-2018:Software")
    assert spec.title == "Amazon Reviews 2018, Software, 5-core"
    assert spec.sources[0].url is not None
    assert spec.sources[0].url.endswith("/categoryFilesSmall/Software.csv")
    assert not spec.sources[0].pinned
    known = get_spec("amazon-2018:Magazine_Subscriptions")
    assert known.sources[0].pinned
    assert known.expected is not None
    assert known.expected.prepared is not None
    assert known.expected.prepared.users == 326
    assert "{category}" not in repr(list(load_catalog().values()))
    for name in ("amazon-2018:", "amazon-2018:../x", "amazon-2018:a b", "amazon-2017:Software"):
        with pytest.raises(UsageError, match="is unknown"):
            get_spec(name)
    with pytest.raises(UsageError, match="amazon-2018 needs a category") as caught:
        get_spec("amazon-2018")
    assert "amazon-2018:All_Beauty" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "datasets.yaml: it is no YAML: .*line 2"),
        ("a:\n  title: x\n  title: y\n", "line 3: 'title' is there twice"),
        ("- a", "it must map data set names"),
        ("a: 3", "a must be a mapping"),
        ("", "it must map data set names"),
    ],
)
def test_what_is_no_catalogue(text: str, words: str) -> None:
    with pytest.raises(SeqbenchError, match=words):
        parse_catalog(text)
