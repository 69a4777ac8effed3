"""Whether the C library of this process keeps memory that torch frees, or returns it to the kernel.

glibc returns each block above 32 MiB, and the kernel fills it with zeros before it lends it again. The convolutions of
a front end need several such blocks per batch, which costs an eighth of the time on a CPU.
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of glibc's `mallopt` for: blocks from this size on are returned when they are freed; and the heap is returned
from this size on."""

DEFAULT_BLOCK_BYTES = 32 * 2**20
"""The largest block that glibc keeps by itself."""


def keep_freed_memory(largest_block_bytes: int) -> bool:
    """Keep freed blocks up to this size for the next forward pass.

    Kept blocks are reused only whole or in pieces, so the process may hold more than it needs; `return_freed_memory`
    ends that.

    Returns:
        Whether this has an effect: not with a C library other than glibc, nor with a size that it keeps anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or largest_block_bytes <= DEFAULT_BLOCK_BYTES:
        return False
    block_bytes = min(largest_block_bytes, 2**31 - 1)
    return bool(mallopt(_MMAP_THRESHOLD, block_bytes) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> None:
    """Return to the kernel what is kept and not used; nothing happens with a C library other than glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
