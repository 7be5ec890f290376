"""The command line: parse, call, print. Nothing heavy is imported before a command runs.

One file per group of commands; importing it registers them. The order here is that of `seqbench --help`.
"""

# ruff: noqa: F401, I001
from seqbench.cli import (
    prepare,
    run,
    tune,
    measure,
    report,
    compare,
    importing,
    recommend,
    export,
    bench,
    kernels,
    data,
    listing,
    remove,
    env,
)
from seqbench.cli.app import app

__all__ = ["app"]
