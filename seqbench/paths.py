"""Where things live on disk. `--home` or SEQBENCH_HOME, else the user's cache folder."""

import os
from pathlib import Path

HOME_VARIABLE = "SEQBENCH_HOME"
KERNEL_CACHE_VARIABLE = "SEQBENCH_KERNEL_CACHE"


def home(override: Path | None = None) -> Path:
    """Return the folder for downloads and prepared data sets: `override`, SEQBENCH_HOME, or the user's cache folder."""
    if override is not None:
        return override.expanduser()
    if configured := os.environ.get(HOME_VARIABLE):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("seqbench", appauthor=False))


def kernel_cache() -> Path:
    """Return the folder of compiled kernels: SEQBENCH_KERNEL_CACHE, or one of the user's.

    Not below SEQBENCH_HOME, which users may share: what is loaded from here runs.
    """
    if configured := os.environ.get(KERNEL_CACHE_VARIABLE):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("seqbench", appauthor=False)) / "kernels"


def downloads(home: Path) -> Path:
    """Raw files as fetched, verified."""
    return home / "downloads"


def prepared(home: Path, name: str | None = None) -> Path:
    """One folder per prepared data set, or the folder that holds them all."""
    folder = home / "prepared"
    return folder if name is None else folder / folder_name(name)


def folder_name(dataset: str) -> str:
    """The name of a data set as that of a folder: some file systems have no ":"."""
    return dataset.replace(":", "@")


def stores(results: Path) -> list[Path]:
    """Results stores that are named together, separated by commas; a comma may also be part of a folder's name."""
    if results.exists():
        return [results]
    return [Path(part).expanduser() for part in str(results).split(",") if part]


def dataset_name(folder: Path) -> str:
    """The inverse, of a folder below `prepared`."""
    return folder.name.replace("@", ":")


def shipped(name: str) -> Path:
    """A file or folder that travels with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.exists() else package.parent / name
