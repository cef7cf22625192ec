"""What workers of a group do in tests that change the cluster: they take no update too early."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from traced_updates import traced

from kd_ray.cluster import trainer
from kd_ray.teachers.teacher import Teacher, load_teachers


class Gate:
    """A file that says up to which update (counted from 1) a run may go; closed without it."""

    def __init__(self, root: Path) -> None:
        self._path = root / "may_go_on_to"

    def open_until(self, update: int) -> None:
        """Updates up to this one may be taken."""
        part = self._path.with_suffix(".part")
        part.write_text(str(update))
        part.replace(self._path)

    def open(self) -> None:
        """All of them."""
        self.open_until(10**9)

    def wait(self, index: int) -> None:
        """Before update number `index` (from 0)."""
        while not self._path.exists() or int(self._path.read_text()) <= index:
            time.sleep(0.05)


def load_and_say_where(folder: Path, *arguments: Any, **options: Any) -> list[Teacher]:
    """Teachers, after a line about the node that they are loaded on."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).write_text(ray.get_runtime_context().get_node_id())
    return load_teachers(*arguments, **options)


def gated_work(settings: Mapping[str, Any]) -> None:
    """In place of `trainer._work_in_group`: the same, traced, behind the gate of the run's root."""
    job: trainer.TrainingJob = settings["job"]
    folder = job.root / "traces" / job.config.name
    with traced(folder, Gate(job.root).wait):
        trainer._work_in_group(settings)
