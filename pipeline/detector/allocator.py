"""Lets the C library keep memory that torch frees, instead of returning it to the kernel.

glibc returns each freed block above 32 MiB, and the kernel fills memory with zeros before a process gets it again. The
convolutions of a front end need several such blocks per batch, which costs an eighth of the time on a CPU.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD = -1
"""`mallopt`'s number for the unused memory above which the heap is returned."""

_MMAP_THRESHOLD = -3
"""`mallopt`'s number for the size above which a block does not come from the heap: it is returned when it is freed."""

DEFAULT_BLOCK_BYTES = 32 * 2**20
"""The largest block that glibc keeps by itself."""


def keep_freed_memory(largest_block_bytes: int) -> bool:
    """Keep freed blocks up to this size for the next forward pass.

    The process then holds more memory than it uses; `return_freed_memory` returns the rest.

    Returns:
        Whether this has an effect: only with glibc, and only with a size above what glibc keeps anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or largest_block_bytes <= DEFAULT_BLOCK_BYTES:
        return False
    block_bytes = min(largest_block_bytes, 2**31 - 1)
    return bool(mallopt(_MMAP_THRESHOLD, block_bytes) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> None:
    """Return to the kernel what is kept and not used; does nothing unless the C library is glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
