"""The models of a run's last validations on disk, and their mean, which the run exports."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.models.average import average_checkpoints
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.storage import fetch_folder, remove
from kd_ray.students.collective import Collective

_NAME = re.compile(r"update-(\d{8})$")

Write = Callable[[Path, Mapping[str, Any]], None]
"""Saves the student as it is now as a checkpoint folder, with these entries under `extra`."""


@dataclass(frozen=True)
class LastModels:
    """Keeps the last `keep` validated models in `folder`; only rank 0 writes."""

    folder: Path
    keep: int
    write: Write

    def add(self, update: int) -> None:
        """Save the model as it is after `update` updates; the oldest beyond `keep` goes."""
        self.write(self.folder / f"update-{update:08d}", {"update": update})
        for old in self.updates()[: -self.keep]:
            remove(self._place(old))

    def updates(self) -> list[int]:
        """The updates after which the kept models were validated, oldest first."""
        if not self.folder.exists():
            return []
        found = [_NAME.search(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def forget_after(self, update: int) -> None:
        """Drop models of updates after `update`: they are about to be made again.

        What they pushed out is not missed: they will push it out again.
        """
        for later in self.updates():
            if later > update:
                remove(self._place(later))

    def average_into(self, model: SequenceModel, collective: Collective) -> list[int]:
        """Give `model` the mean of the kept weights; returns the updates they are of.

        All workers take those that rank 0 has: its node wrote them, others may have older ones.

        Raises:
            CheckpointError: there is none, or one cannot be read.
        """
        mine = {"updates": self.updates()} if collective.rank == 0 else {}
        updates: list[int] = collective.gather(mine)["updates"]
        if not updates:
            raise CheckpointError(
                f"training.average_last is {self.keep}, but {self.folder} holds no model to "
                "average; was it removed? Repeat the run under another name (name=...)"
            )
        places = [fetch_folder(self._place(each), pin=False) for each in updates]
        model.load_state_dict(average_checkpoints(places))
        return updates

    def _place(self, update: int) -> Path:
        return self.folder / f"update-{update:08d}"
