"""The processes below this one, by /proc: what they are, and how much memory each has."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_KIB = 1 << 10
_TICKS = os.sysconf("SC_CLK_TCK")

KINDS = ("driver", "host", "manager", "gcs", "raylet", "other")
"""`other`: workers of Ray that idle or do small tasks, agents, monitors."""

_MARKS = {
    "HostProcess": "host",
    "PoolManager": "manager",
    "gcs_server": "gcs",
    "raylet/raylet": "raylet",
}
"""What a command line holds, and the kind of process that it tells."""


@dataclass(frozen=True)
class Memory:
    """Of a process, in bytes."""

    rss: int
    pss: int
    """Resident, pages that are shared counted in part."""
    private: int
    """Of `pss`, what belongs to no file and no shared memory: the heap. It is what leaks."""


@dataclass(frozen=True)
class Process:
    """A process at one moment."""

    pid: int
    kind: str
    memory: Memory
    cpu_s: float = 0.0
    """Seconds of computation since it began."""


def look() -> list[Process]:
    """This process and all below it; those that end meanwhile are left out."""
    own = os.getpid()
    found = [(own, "driver"), *((pid, kind_of(_command(pid))) for pid in descendants(own))]
    memories = [(pid, kind, memory_of(pid)) for pid, kind in found]
    return [
        Process(pid, kind, memory, _stat(pid).cpu_s)
        for pid, kind, memory in memories
        if memory is not None
    ]


def descendants(pid: int) -> list[int]:
    """Processes below `pid` that have not ended."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            found = _stat(int(entry))
            if found.state not in ("", "Z"):
                children.setdefault(found.parent, []).append(int(entry))
    below: list[int] = []
    todo = [pid]
    while todo:
        own = children.get(todo.pop(), [])
        below += own
        todo += own
    return below


def kind_of(command: str) -> str:
    """What a process of Ray is, by its command line."""
    return next((kind for mark, kind in _MARKS.items() if mark in command), "other")


def memory_of(pid: int) -> Memory | None:
    """Memory of a process; None: it has ended."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    sizes = _sizes(text)
    if "Rss" not in sizes:
        return None
    return Memory(sizes["Rss"], sizes["Pss"], sizes["Pss_Anon"])


def _sizes(text: str) -> Mapping[str, int]:
    """Lines such as `Pss_Anon:   123 kB`, in bytes."""
    lines = [line.split() for line in text.splitlines()]
    return {
        fields[0][:-1]: int(fields[1]) * _KIB
        for fields in lines
        if len(fields) == 3 and fields[2] == "kB"
    }


class _Stat(NamedTuple):
    """Of a process; `state` is "" if it has ended."""

    state: str
    parent: int
    cpu_s: float


def _stat(pid: int) -> _Stat:
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return _Stat("", 0, 0.0)
    return _Stat(fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)


def _command(pid: int) -> str:
    try:
        return (
            (_PROC / str(pid) / "cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
        )
    except OSError:
        return ""
