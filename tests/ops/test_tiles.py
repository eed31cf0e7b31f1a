import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: it comes for Linux only")
@pytest.mark.parametrize(
    ("module", "cases"),
    [
        ("tests.ops.tiles", 8),
        ("tests.ops.fused", 14),
        ("tests.ops.older", 8),
        ("tests.ops.picked", 26),
        ("tests.ops.sparse", 11),
    ],
)
def test_kernels_in_triton_s_interpreter(module: str, cases: int) -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when a kernel is defined."""
    # numpy warns of the rows past the last one, which no store keeps
    quiet = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::RuntimeWarning"}
    command = [sys.executable, "-m", module, "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    # every case of the list ran
    assert len(done.stdout.splitlines()) == cases
