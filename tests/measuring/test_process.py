"""What a process loaded or freed before does not take part in what is measured in it."""

import subprocess
import sys

import pytest

from tests.kit import PATIENCE

LOADED = """
import sys
import torch
from seqbench import device
from seqbench.measuring.process import load_optimizer
from seqbench.models import load_model
from seqbench.models.base import TrainingConfig
from seqbench.training.optimizer import make_optimizers

cls = load_model("gru4rec")
load_optimizer()
cpu = torch.device("cpu")
peak, before = device.kind(cpu).peak_memory(cpu), set(sys.modules)
model = cls(50, 8, cls.Config())
(optimizer,) = make_optimizers(model, TrainingConfig())
items = torch.ones(2, 8, dtype=torch.int64)
model(items, torch.tensor([8, 8])).sum().backward()
optimizer.step()
print(sum(name.startswith(("torch", "sympy")) for name in set(sys.modules) - before), peak() / 2**20)
"""

BLOCKS = """
import ctypes
from seqbench.measuring.process import MMAP_THRESHOLD, fix_allocator

class Info(ctypes.Structure):  # mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks mapped e f g h i j".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]

def mapped(size):
    before = libc.mallinfo2().mapped
    assert libc.malloc(size)
    return libc.mallinfo2().mapped - before

print(mapped(24 << 20), fix_allocator(), mapped(24 << 20), mapped(MMAP_THRESHOLD))
"""


def lines(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_nothing_that_training_imports_counts_as_memory_of_the_model() -> None:
    modules, peak = map(float, lines(LOADED))
    assert modules == 0  # of torch, which imports 800 for its first optimizer
    assert peak < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_large_blocks_are_kept_by_the_process_from_the_start() -> None:
    assert lines(BLOCKS) == ["1", "True", "0", "1"]
