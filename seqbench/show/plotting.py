"""What all plots share: matplotlib as an option, settings of a paper, colours, logarithmic axes, atomic files.

matplotlib is imported when something is drawn. A plot that is asked for together with a measurement is checked before
the measurement begins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench.errors import UsageError
from seqbench.files import writing

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
INSTALL = "Run `pip install 'seqbench[plot]'`."
COLUMN, WIDE = 3.35, 7.0  # inches: one column and both columns of a two-column paper
DPI = 200
FINE = 100  # a logarithmic axis that spans less gets ticks at 1, 2 and 5

# The colours of Okabe and Ito, which differ for everybody; markers differ too, for print without colour.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
    ("#A6761D", "*"),
)
SETTINGS: Any = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: type 3 fonts are refused by publishers
    "svg.fonttype": "none",
    "svg.hashsalt": "seqbench",  # the same plot is the same file
}


def check(path: Path, option: str = "--plot") -> None:
    """Find out whether a plot can be written, before what it shows is measured.

    Raises:
        UsageError: matplotlib is missing, or the file's name ends in something else than SUFFIXES.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{option} takes a file that ends in {', '.join(SUFFIXES)}, not '{path}'.", hint=f"{option} plot.svg"
        )
    require_matplotlib(option)


def require_matplotlib(option: str) -> None:
    """Check that matplotlib is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(f"{option} needs matplotlib, which is not installed.", hint=INSTALL) from None


@contextmanager
def figure(width: float, height: float) -> Iterator["Figure"]:
    """Yield an empty figure, in inches, within the settings that all plots share; save it before leaving."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawn: "Figure", path: Path) -> None:
    """Write a figure atomically; the file's ending, one of SUFFIXES, is its format.

    Raises:
        StorageError: it cannot be written.
    """
    # Without the date that matplotlib would write into the file, the same plot is the same file.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = path.suffix.lower()
    with writing(path) as temporary:
        drawn.savefig(temporary, dpi=DPI, format=suffix[1:], metadata=dates.get(suffix))


def log_ticks(axis: "Axis", low: float, high: float) -> None:
    """Put plain numbers at the ticks of a logarithmic axis that spans `low` … `high`: at 1, 2, 5 where few fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < FINE * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
