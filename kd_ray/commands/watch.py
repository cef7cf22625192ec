"""Progress of trainings that may run in other processes, read from their run folders."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from kd_ray.evaluation.heartbeat import BEAT_S, Work, read_state
from kd_ray.evaluation.run_folder import RunFolder, json_line
from kd_ray.report.progress import Display

logger = logging.getLogger(__name__)

_SILENT_S = 6 * BEAT_S
"""What has not been written for so long is of a process that was killed."""


@dataclass
class _Read:
    """How far the figures of a run have been read."""

    inode: int | None = None
    offset: int = 0
    """In bytes, behind a whole line."""
    told: int = -1
    """Update of the latest validation that was told."""
    old: set[bytes] = field(default_factory=set)
    """Lines of validations that were there before."""


class EpochWatcher:
    """Logs one line for each validation that appeared since the last look, and shows progress.

    A training that goes on from a checkpoint writes its figures anew: what was told is not told
    again. A look never raises: who watches must not end what is watched.

    A context manager: progress may be bars on a terminal, which are to be taken away.
    """

    def __init__(self, runs: Sequence[RunFolder], epochs: int | None = None):
        self._runs = runs
        self._epochs = epochs
        self._read = {run.name: _Read() for run in runs}
        for run in runs:
            lines = _new_lines(run, self._read[run.name])
            self._read[run.name].old = {line for line in lines if b'"kind": "valid"' in line}
        self._display = Display()
        self._next_s = 0.0
        self._over: set[str] = set()
        self._warned = False

    def look(self) -> None:
        """Show what is new."""
        self._try_to(self._show_validations)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + BEAT_S / 2
            self._try_to(self._show_progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._try_to(self._show_validations)
        self._display.__exit__(kind, error, trace)

    def _try_to(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception:
            if not self._warned:
                logger.exception("how far trainings are cannot be shown; they go on")
            self._warned = True

    def _show_progress(self) -> None:
        works: dict[str, tuple[Work, float | None, float | None]] = {}
        for run in self._runs:
            state = None if run.name in self._over else read_state(run.path)
            if state is None or time.time() - state.beat > _SILENT_S:
                continue
            if state.state == "finished":
                self._over.add(run.name)
            elif state.state == "running" and state.work.total:
                works[run.name] = (state.work, state.rate, state.left_s)
        self._display.show(works)

    def _show_validations(self) -> None:
        for run in self._runs:
            read = self._read[run.name]
            for line in _new_lines(run, read):
                figures = json_line(line.decode(errors="replace"))
                if figures is None or figures.get("kind") != "valid" or line in read.old:
                    continue
                if figures["update"] > read.told:
                    read.told = figures["update"]
                    logger.info(describe_epoch(run.name, figures, self._epochs))


@contextmanager
def watching(watcher: EpochWatcher, every_s: float = 1.0) -> Iterator[None]:
    """Look again and again, on a thread, while the block runs; a last time at its end."""
    done = threading.Event()

    def look_on() -> None:
        while not done.wait(every_s):
            watcher.look()

    with watcher:
        thread = threading.Thread(target=look_on, name="epoch-watcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def describe_epoch(name: str, figures: dict[str, Any], epochs: int | None = None) -> str:
    """One line about one validation."""
    epoch = f"{figures['epoch']}/{epochs}" if epochs else f"{figures['epoch']}"
    if "bleu" in figures:
        scores = f"BLEU {figures['bleu']:5.1f}  chrF++ {figures['chrf++']:5.1f}"
        best = f"{100 - figures['best_error_rate']:5.1f}"
        return f"{name:<28} epoch {epoch:<6} valid {scores}  best {best}"
    heads = [head for head in ("attention", "ctc") if f"error_rate_{head}" in figures]
    scores = "  ".join(f"{head} {figures[f'error_rate_{head}']:6.2f} %" for head in heads)
    ranks = [head for head in heads if figures[f"error_rate_{head}"] == figures["error_rate"]]
    best = f"best {ranks[-1] if ranks else ''} {figures['best_error_rate']:6.2f} %"
    return f"{name:<28} epoch {epoch:<6} valid errors  {scores}  {best}"


def _new_lines(run: RunFolder, read: _Read) -> list[bytes]:
    """Whole lines of the run's figures since the last look; all of them where the file is new."""
    try:
        with (run.path / "metrics.jsonl").open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != read.inode or status.st_size < read.offset:
                read.inode, read.offset = status.st_ino, 0
            file.seek(read.offset)
            text = file.read()
    except FileNotFoundError:
        return []
    lines = text.split(b"\n")[:-1]
    read.offset += sum(len(line) + 1 for line in lines)
    return lines
