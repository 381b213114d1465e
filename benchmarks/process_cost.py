"""Memory and processor time of a process, from the kernel's counters."""

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Cost(NamedTuple):
    """Processor time used so far, children not included, and memory resident now."""

    cpu_s: float
    rss_bytes: int


def measure_cost(pid: int) -> Cost:
    """Source: proc(5), ``stat``: fields 14 and 15 (utime, stime) and 24 (rss)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(after_name[11]) + int(after_name[12])
    return Cost(cpu_s=ticks / _TICKS_PER_S, rss_bytes=int(after_name[21]) * _PAGE_BYTES)
