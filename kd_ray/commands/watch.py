"""Progress of trainings that run in other processes, read from their run folders."""

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kd_ray.evaluation.run_folder import RunFolder

logger = logging.getLogger(__name__)


class EpochWatcher:
    """Logs one line for each validation that appeared since the last look."""

    def __init__(self, runs: Sequence[RunFolder], epochs: int | None = None):
        self._runs = runs
        self._epochs = epochs
        self._seen = {run.name: _size(run) for run in runs}

    def look(self) -> None:
        """Log what is new."""
        for run in self._runs:
            path = run.path / "metrics.jsonl"
            if not path.exists():
                continue
            with path.open(encoding="utf-8") as file:
                file.seek(self._seen[run.name] if _size(run) >= self._seen[run.name] else 0)
                text = file.read()
                whole = text[: text.rfind("\n") + 1]
                self._seen[run.name] = file.tell() - len(text[len(whole) :].encode())
            for line in whole.splitlines():
                figures = json.loads(line)
                if figures["kind"] == "valid":
                    logger.info(describe_epoch(run.name, figures, self._epochs))


@contextmanager
def watching(watcher: EpochWatcher, every_s: float = 1.0) -> Iterator[None]:
    """Look again and again, on a thread, while the block runs; a last time at its end."""
    done = threading.Event()

    def look_on() -> None:
        while not done.wait(every_s):
            watcher.look()

    thread = threading.Thread(target=look_on, name="epoch-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        watcher.look()


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


def _size(run: RunFolder) -> int:
    path = run.path / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0
