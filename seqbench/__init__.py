"""seqbench: accuracy and cost of efficient sequential recommenders, side by side.

    import seqbench

    data = seqbench.load_dataset("ml-100k")
    split = data.split("leave-one-out")
    model = seqbench.train("lrurec", split, dropout=0.5, epochs=20)
    print(seqbench.evaluate(model, split)["ndcg@10"])

    seqbench.run(["lrurec", "sasrec"], "ml-100k", seeds=[0, 1, 2])
    print(seqbench.report())

Importing this costs nothing: what a name needs is loaded when the name is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it, without the import of typing
if TYPE_CHECKING:
    from seqbench.api import (
        evaluate,
        import_results,
        load,
        load_dataset,
        load_ranks,
        load_results,
        measure,
        plan,
        prepare,
        prepare_all,
        report,
        run,
        train,
        tune,
    )
    from seqbench.measuring.grid import LatencyGrid

__version__ = "0.1.0"

__all__ = [
    "LatencyGrid",
    "evaluate",
    "import_results",
    "load",
    "load_dataset",
    "load_ranks",
    "load_results",
    "measure",
    "plan",
    "prepare",
    "prepare_all",
    "report",
    "run",
    "train",
    "tune",
]

_MODULES = {"LatencyGrid": "seqbench.measuring.grid"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'seqbench' has no attribute '{name}'")
    return getattr(import_module(_MODULES.get(name, "seqbench.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
