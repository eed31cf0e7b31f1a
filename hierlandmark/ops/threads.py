"""One thread for what is too small to be shared: to wake the others costs more than what they would do."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

# elements of a table that one thread goes through in less time than others need to wake up and help; at one token gates
# of three million positions of the default model
SHARED = 2**20


class _Here(threading.local):
    # how many threads there were before `alone`; 0 outside of it
    before = 0


_here = _Here()


@contextmanager
def alone() -> Iterator[None]:
    """Run torch's operations on the calling thread only.

    `torch.set_num_threads` would not do: threads of other callers that first use torch meanwhile would keep to one for
    good. OpenMP's own setting is the calling thread's (OpenMP 5.2, section 18.2.1). Nothing changes where OpenMP cannot
    be found; matrix products by MKL go on as before in a program that has called `torch.set_num_threads`.
    Not around a yield or an await: who runs meanwhile would be alone too.
    """
    tell, before = _setting(), torch.get_num_threads()
    if tell is None or before == 1:
        yield
        return
    outside = _here.before
    try:
        _here.before = before
        tell(1)
        yield
    finally:
        tell(before)
        _here.before = outside


@contextmanager
def together(elements: int) -> Iterator[None]:
    """Inside of `alone`, all threads again for one operation over more than `SHARED` elements."""
    tell, before = _setting(), _here.before
    if tell is None or not before or elements <= SHARED:
        yield
        return
    try:
        tell(before)
        yield
    finally:
        tell(1)


@cache
def _setting() -> Callable[[int], None] | None:
    """`omp_set_num_threads` of the OpenMP that torch runs on; None where there is none, or another answers."""
    try:
        library = ctypes.CDLL(None)
        tell, ask = library.omp_set_num_threads, library.omp_get_max_threads
    except (AttributeError, OSError, TypeError):
        return None
    tell.argtypes, tell.restype = [ctypes.c_int], None
    # its own number, which is not torch's where it is another library's
    before, of_torch = ask(), torch.get_num_threads()
    try:
        tell(of_torch + 1)
        return tell if torch.get_num_threads() == of_torch + 1 else None
    finally:
        tell(before)
