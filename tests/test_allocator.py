"""What is freed is kept for the next tensor where glibc allocates, and nobody's own choice is overruled."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

import hierlandmark
from hierlandmark.allocator import CHOICES

GLIBC = platform.libc_ver()[0] == "glibc"
# how many pages are faulted in by twelve tensors of 8 MB, made together and freed together, ten times
FAULTS = """
import resource, sys
if sys.argv[1] == "kept":
    import hierlandmark
    assert hierlandmark.keep_freed_memory()
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(2_000_000)
for i in range(13):
    if i == 3:
        before = faults()
    many = [x + 1 for _ in range(12)]
    del many
print(faults() - before)
"""


def unchosen() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CHOICES}


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_fewer_pages_are_asked_for() -> None:
    found = {}
    for how in ("kept", "as it is"):
        words = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=unchosen())
        found[how] = int(done.stdout)
    # a hundred and twenty tensors of 1,954 pages
    assert found["kept"] < 20_000
    if found["as it is"] < 100_000:
        pytest.skip("this C library keeps them anyway, or nobody counts")


@pytest.mark.parametrize("name", CHOICES)
def test_who_chose_is_not_overruled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("nothing is to be set"))
    assert not hierlandmark.keep_freed_memory()


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)

    class Other:
        """One whose `mallopt` means something else."""

        mallopt = staticmethod(lambda *_: pytest.fail("nothing is to be set"))

    for library in (Other(), object()):
        monkeypatch.setattr(ctypes, "CDLL", lambda _, library=library: library)
        assert not hierlandmark.keep_freed_memory()
