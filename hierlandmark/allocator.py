"""glibc told to keep what is freed: fresh pages for every large tensor cost more than much of what is done in them."""

import ctypes
import os

# of <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# glibc takes no more for what is mapped apart, half of one of its heaps
_APART = 32 * 2**20
_KEPT = 2**30
# whoever set one of these has chosen
CHOICES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB that it freed for what it allocates next; for all of it, not only tensors.

    By default glibc (Linux) gives the end of its heap back to the kernel once little of it is in use, and maps large
    blocks apart; both are zeroed page by page when they are written to again, and so are most tensors of a forward
    pass on a CPU. The `hierlandmark` command does this by itself; a program that has memory to spare may, best before
    much is allocated.

    Returns:
        Whether glibc took the settings: they mean nothing where the C library is another or another allocator is loaded
        before it, and are not made where an environment variable says how glibc allocates (`CHOICES`).
    """
    if any(name in os.environ for name in CHOICES):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - another's `mallopt` may mean something else
        return all(
            library.mallopt(name, value) for name, value in ((_MMAP_THRESHOLD, _APART), (_TRIM_THRESHOLD, _KEPT))
        )
    except (AttributeError, OSError, TypeError):
        return False
