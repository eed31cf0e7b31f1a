"""The command tells threads of GNU OpenMP to wait briefly, before torch is loaded, where nobody said how they wait."""

import os
import subprocess
import sys

import pytest

RUN = """
import sys
from hierlandmark.cli import app

@app.command()
def nothing():
    assert "torch" not in sys.modules
    import torch

sys.argv = ["hierlandmark", "nothing"]
app()
"""


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
        # more than the default: what ACTIVE means is the library's
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
    ids=["unset", "count", "passive", "active"],
)
def test_spin_count(chosen: dict[str, str], spins: str | None) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= chosen | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=env)
    said = [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not said:
        pytest.skip("torch comes with another OpenMP")
    assert said == [spins] if spins else int(said[0]) > 300_000


def test_the_library_leaves_it_alone() -> None:
    code = "import os, hierlandmark, hierlandmark.model; print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "None\n"
