"""Whether a process that wrote a note still lives, for whoever can see its process number."""

import os
from pathlib import Path


def place_of_processes() -> str | None:
    """What makes process numbers comparable: the machine since it was started, and name space.

    Containers of one machine may share its name, and still number their processes each for itself.
    None where it is not known.
    """
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        return None if boot is None else f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def started(process: int) -> str | None:
    """When a process began (a number is used again for another one); None of one that is gone."""
    status = _text(f"/proc/{process}/stat")
    if status is None:
        return None
    # The name of the program, in parentheses, may hold anything.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
