"""Every CUDA source compiles without a warning for the GPUs in use, whether or not there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from seqbench import paths
from seqbench.ops.cuda.nvrtc import STANDARD

SOURCES = sorted(paths.shipped("kernels").glob("*.cu"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_without_a_warning_and_keeps_to_its_registers(source: Path, arch: str, tmp_path: Path) -> None:
    command = ["nvcc", f"-std={STANDARD}", f"-arch={arch}", "-cubin", "-Werror=all-warnings", "-Xptxas=-v"]
    output = tmp_path / "out.cubin"
    done = subprocess.run([*command, "-o", str(output), str(source)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "warning" not in said
    spills = [int(spilled) for spilled in re.findall(r"(\d+) bytes spill stores", said)]
    assert spills
    assert max(spills) <= 32, said  # a few registers, of the half-precision backward pass of the selective scan
