"""Make wrong changes one at a time, and see which of them no test notices.

    python tests/mutants/run.py                      all of mutants.toml
    python tests/mutants/run.py losses splits        some areas
    python tests/mutants/run.py --check              only see whether every change still fits its file

Each change is made in a temporary copy of the working tree, where the tests of its area are run. A change that no
longer fits exactly one place is refused: mutants.toml must follow the code. Nothing here is collected by pytest; run it
after a change to the tests, or when they have been thinned.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")  # before torch is imported
sys.dont_write_bytecode = True

import hypothesis  # noqa: E402, F401
import numpy  # noqa: E402, F401
import pandas  # noqa: E402, F401
import pyarrow.parquet  # noqa: E402, F401
import pytest  # noqa: E402
import safetensors.torch  # noqa: E402, F401
import torch  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("mutants.toml")
SECONDS = 900  # after which a run of tests counts as one that noticed: a wrong change may never end


@dataclass(frozen=True)
class Mutant:
    """One wrong change, and the tests that must notice it."""

    area: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]
    select: str  # pytest's -k; empty for all
    alive: str  # why it may survive; empty if it must not

    def fault(self, root: Path) -> str | None:
        """Say why the change cannot be made, or return None."""
        file = root / self.path
        if not file.is_file():
            return "there is no such file"
        if (count := file.read_text().count(self.before)) != 1:
            return f"it fits {count} places"
        if missing := [test for test in self.tests if not (root / test).is_file()]:
            return f"there is no {missing[0]}"
        return "it changes nothing" if self.before == self.after else None

    def __str__(self) -> str:
        return f"[{self.area}] {self.path}: {self.before!r} -> {self.after!r}"


def read(path: Path, areas: list[str]) -> list[Mutant]:
    """Read the changes of some areas, or of all."""
    tables = tomllib.loads(path.read_text())
    if unknown := set(areas) - set(tables):
        raise SystemExit(f"No area {', '.join(sorted(unknown))}; there are {', '.join(tables)}.")
    return [
        Mutant(area, *entry[:3], tuple(table["tests"]), table.get("select", ""), entry[3] if len(entry) > 3 else "")
        for area, table in tables.items()
        if not areas or area in areas
        for entry in table["mutants"]
    ]


def copy_tree(to: Path) -> None:
    """Copy the files that git knows, or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def notices(mutant: Mutant, tree: Path) -> str | None:
    """Run the tests of a mutant; return the one that failed, or None if all passed.

    They run in a fork of this process, which has imported what takes long, and nothing of seqbench.
    """
    words = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no", "--rootdir", str(tree)]
    words += [*(["-k", mutant.select] if mutant.select else []), *mutant.tests]
    log = tree / "pytest.log"
    child = os.fork()
    if child == 0:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.setsid()  # for its end
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)  # of commands that tests start
        code: int = 70
        try:
            code = int(pytest.main(words))
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "time is up"
        time.sleep(0.1)
    code = os.waitstatus_to_exitcode(ended[1])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise SystemExit(f"{mutant}: no test was selected.")
    if code == pytest.ExitCode.OK:
        return None
    failed = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"pytest ended with {code}"


def main() -> None:
    """Run the mutants that are asked for and print the survivors; exit 1 if one must not survive."""
    parser = argparse.ArgumentParser(description="See which wrong changes no test notices.")
    parser.add_argument("areas", nargs="*", help="areas of mutants.toml; all if none is named")
    parser.add_argument("--check", action="store_true", help="only see whether every change fits its file")
    arguments = parser.parse_args()
    mutants = read(DATA, arguments.areas)
    if faults := [f"{mutant}: {fault}" for mutant in mutants if (fault := mutant.fault(ROOT))]:
        print(*faults, f"{len(faults)} of {len(mutants)} changes do not fit; mend mutants.toml.", sep="\n")
        raise SystemExit(2)
    if arguments.check:
        print(f"All {len(mutants)} changes fit.")
        return
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="seqbench-mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        clean: set[str] = set()
        for number, mutant in enumerate(mutants, start=1):
            if mutant.area not in clean:
                if failure := notices(mutant, tree):
                    raise SystemExit(f"[{mutant.area}] The tests fail without any change: {failure}")
                clean.add(mutant.area)
            began = time.monotonic()
            file = tree / mutant.path
            original = file.read_text()
            file.write_text(original.replace(mutant.before, mutant.after))
            try:
                failure = notices(mutant, tree)
            finally:
                file.write_text(original)
            if failure is None:
                survivors.append(mutant)
            word = "SURVIVED" if failure is None else "noticed"
            print(f"{number}/{len(mutants)} {word} {time.monotonic() - began:.0f} s {mutant}", flush=True)
    killed = len(mutants) - len(survivors)
    print(f"\n{killed} of {len(mutants)} noticed ({killed / len(mutants):.1%}).")
    for mutant in survivors:
        print(f"{mutant}\n    {mutant.alive or 'MISSING TEST'}")
    raise SystemExit(1 if any(not mutant.alive for mutant in survivors) else 0)


if __name__ == "__main__":
    main()
