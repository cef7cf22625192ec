"""Writes down what each update of a run learns from, and stops it where a test wants to."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_ray.students import loop
from kd_ray.students.loop import Progress, Student
from kd_ray.students.pipeline import Update

Allow = Callable[[int], None]
"""Called before update number so-and-so (from 0); may wait, may raise."""


@contextmanager
def traced(folder: Path, allow: Allow = lambda index: None) -> Iterator[None]:
    """Every update that is taken in this process leaves a line in a file of `folder`."""
    take_update = loop.take_update
    folder.mkdir(parents=True, exist_ok=True)

    def tracing(student: Student, progress: Progress, update: Update) -> dict[str, Any]:
        allow(update.index)
        figures = take_update(student, progress, update)
        collective = student.learner.collective
        line = {
            "order": time.time(),
            "update": update.index,
            "world": collective.world,
            "rank": collective.rank,
            "ids": update.utterance_ids,
            "mine": [
                micro.batch.utterance_ids for micro in update.micro_batches if not micro.ghost
            ],
        }
        with (folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return figures

    loop.take_update = tracing
    try:
        yield
    finally:
        loop.take_update = take_update


def trace_of(folder: Path) -> list[dict[str, Any]]:
    """The updates of a run in the order of their numbers, each as it was taken last.

    `ids`: of the global batch, in order; `micro_batches`: what all workers of the group took of it,
    as a sorted list; `world`: how many they were.
    """
    shares: dict[int, list[dict[str, Any]]] = {}
    for path in folder.glob("*.jsonl"):
        # A process that was killed may have torn its last line.
        for line in path.read_text().split("\n")[:-1]:
            share = json.loads(line)
            shares.setdefault(share["update"], []).append(share)
    return [_last_of(shares[update]) for update in sorted(shares)]


def _last_of(shares: Iterable[dict[str, Any]]) -> dict[str, Any]:
    newest: dict[tuple[int, int], dict[str, Any]] = {}
    for share in sorted(shares, key=lambda each: each["order"]):
        newest[share["world"], share["rank"]] = share
    last = max(newest.values(), key=lambda each: each["order"])
    group = [newest[last["world"], rank] for rank in range(last["world"])]
    return {
        "update": last["update"],
        "world": last["world"],
        "ids": last["ids"],
        "micro_batches": sorted(rows for share in group for rows in share["mine"]),
    }
