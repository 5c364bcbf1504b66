"""Memory of maps, kept from frame to frame (ours).

The C library of Linux gives large freed blocks back to the system, and every new map is then filled in page by page:
a third of the time of a delta frame. `keep_freed_memory` tells it not to, for the whole process.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory(*, up_to_bytes: int = 2**30) -> bool:
    """Lets this process keep freed memory for the next frame. What is timed against each other has to share it.

    Args:
        up_to_bytes: of freed memory, and a quarter of it for a single block; 64 KiB to 2 GiB - 1.

    Returns:
        Whether the C library can; only that of most Linux systems can.

    Raises:
        ValueError: a size out of range.
    """
    if not 2**16 <= up_to_bytes < 2**31:
        raise ValueError(f"up_to_bytes must be 65536 to {2**31 - 1}, got {up_to_bytes}")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_MMAP_THRESHOLD, up_to_bytes // 4)
    return bool(kept and mallopt(_TRIM_THRESHOLD, up_to_bytes))
