"""Found by the processes that the tests start: they measure latency at one length instead of for half a minute."""

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType


class _Quick:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "seqbench.measure":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def quickened(module: ModuleType) -> None:
            execute(module)
            module.latency.__wrapped__.__kwdefaults__.update(lengths=(16,), batches=(1,))
            module.SECONDS_PER_POINT = 0.0  # type: ignore[attr-defined]

        spec.loader.exec_module = quickened  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Quick())  # type: ignore[arg-type]
