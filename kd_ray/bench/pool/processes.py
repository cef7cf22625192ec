"""What the kernel knows of a process of this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

_KIB = 1 << 10


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process, in bytes; `own`: without the files that it maps."""

    resident: int
    own: int
    peak: int


def memory_of(pid: int) -> Memory:
    """Now, and at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    sizes = {
        name: int(value.split()[0]) * _KIB
        for name, value in (line.split(":", 1) for line in lines)
        if name in ("VmRSS", "RssAnon", "VmHWM")
    }
    return Memory(sizes["VmRSS"], sizes["RssAnon"], sizes["VmHWM"])


def cpu_seconds_of(pid: int) -> float:
    """Seconds of computation since it started, of all its threads."""
    # The name before the last bracket may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
