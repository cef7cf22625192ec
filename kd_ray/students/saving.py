"""What a run folder keeps of a training: its best model, and checkpoints that it goes on from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kd_ray.core.contracts import TeacherSource
from kd_ray.core.costs import SourceCosts
from kd_ray.core.schedules import Schedule
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError
from kd_ray.models.checkpoint import save_model
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.manifest import Utterance, manifest_digest
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.collective import Collective
from kd_ray.students.loop import Progress
from kd_ray.students.materials import Inventories
from kd_ray.students.pipeline import Pipeline
from kd_ray.students.rollout_memory import gather_in_flight
from kd_ray.students.rollouts import remembered
from kd_ray.students.signal_statistics import SignalStatistics
from kd_ray.students.teacher_costs import totals

_SEEN_S = 120.0
"""A network disk may show a folder that another node made only after a minute."""

_WORDS = {
    "training_data": "training manifest (data.train)",
    "validation_data": "validation manifest (data.valid)",
    "target_tokens": "tokens (data.tokens)",
    "source_tokens": "source tokens (data.source_tokens)",
    "teachers": "teachers",
}
"""What a checkpoint has digests of, as messages say it."""


@dataclass(frozen=True)
class Saver:
    """Writes a training's model and state into its run folder, and reads the state again.

    Only rank 0 writes; every worker calls `save_state` and `restore`.
    """

    run: RunFolder
    checkpoints: TrainingCheckpoints
    model: SequenceModel
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    inventories: Inventories
    collective: Collective
    source: TeacherSource | None
    made_of: Mapping[str, Any]
    """Digests of the data and the teachers that a run must go on with; see `made_of`."""
    averages: bool
    """Whether the average of the last models becomes `model` in the end."""

    def write_model(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """The model as it is, with its tokens: a checkpoint folder."""
        save_model(
            folder, self.model, tokens=self.inventories.target.to_dict(),
            source_tokens=self._source_tokens,
            extra={**extra, "run": self.run.name, **self.made_of},
        )  # fmt: skip

    def save_best(self, error: float, epoch: int) -> None:
        """The model of the best validation so far."""
        if self.collective.rank != 0:
            return
        # The average takes the place of `model` in the end; the best one stays beside it.
        for name in ("model", "best_model") if self.averages else ("model",):
            self.write_model(self.run.path / name, {"error_rate": error, "epoch": epoch})

    def save_state(self, pipeline: Pipeline, progress: Progress) -> None:
        """A checkpoint between two updates."""
        statistics, costs = totals(progress, self.source, self.collective)
        in_flight = gather_in_flight(pipeline.rollouts_in_flight(progress.update), self.collective)
        if self.collective.rank == 0:
            state = {
                "update": progress.update,
                "progress": {
                    **asdict(progress),
                    "statistics": asdict(statistics),
                    "costs": asdict(costs),
                },
                "schedule": self.schedule.to_dict(),
                "made_of": self._digests,
            }
            self.checkpoints.save(
                self.model, self.optimizer, tokens=self.inventories.target.to_dict(), state=state,
                rollouts={"in_flight": in_flight, "memory": remembered(pipeline.planner)},
                source_tokens=self._source_tokens,
            )  # fmt: skip
            self.run.publish()
        self.collective.barrier()

    def restore(self) -> tuple[Progress, dict[str, Any]]:
        """Go on from the newest checkpoint, if there is one; how far it was, and its rollouts.

        Raises:
            RunFolderError: it was made of other data, other tokens or other teachers.
            CheckpointError: it is damaged, or this worker's node does not see it.
        """
        leads = self.collective.rank == 0
        if leads:
            self.checkpoints.clean()
        latest = self._agreed()
        if latest is None:
            return Progress(), {}
        state = self.checkpoints.state(latest)
        # Before the weights: those of another number of tokens have other shapes.
        _same_making(self.run, state.get("made_of", {}), self._digests)
        self.checkpoints.restore(latest, state, self.model, self.optimizer)
        self.schedule.load_dict(state["schedule"])
        return _progress(state["progress"], leads=leads), self.checkpoints.rollouts(latest)

    @property
    def _digests(self) -> dict[str, Any]:
        """`made_of`, and the tokens: other ones would give each row of the weights a new sense."""
        source = self.inventories.source
        return {
            **self.made_of,
            "target_tokens": self.inventories.target.digest,
            "source_tokens": None if source is None else source.digest,
        }

    @property
    def _source_tokens(self) -> dict[str, Any] | None:
        source = self.inventories.source
        return None if source is None else source.to_dict()

    def _agreed(self) -> Path | None:
        """The newest checkpoint that rank 0 sees: other nodes may still see an older one."""
        latest = self.checkpoints.latest()
        mine = {} if self.collective.rank != 0 else {"name": latest.name if latest else None}
        name: str | None = self.collective.gather(mine)["name"]
        return None if name is None else self.checkpoints.await_named(name, _SEEN_S)


def made_of(
    train: Sequence[Utterance], valid: Sequence[Utterance], source: TeacherSource | None
) -> dict[str, Any]:
    """Digests of the manifests, the teachers, and the recogniser that writes for them.

    Best error, patience and New-Bob compare scores of one validation manifest.
    """
    found: dict[str, Any] = {
        "training_data": manifest_digest(train),
        "validation_data": manifest_digest(valid),
        "teachers": [],
    }
    if source is not None:
        info = source.describe()
        recognizer = [] if info.recognizer is None else [info.recognizer.answers_digest]
        found["teachers"] = [each.answers_digest for each in info.teachers] + recognizer
    return found


def _progress(state: dict[str, Any], *, leads: bool) -> Progress:
    # Rank 0 carries the sum of all workers on; it is summed again at the end.
    statistics, costs = state.pop("statistics"), state.pop("costs", {})
    if not leads:
        return Progress(**state)
    return Progress(**state, statistics=SignalStatistics(**statistics), costs=SourceCosts(**costs))


def _same_making(run: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A run goes on with the data, tokens and teachers that it began with, or not at all.

    Digests that a checkpoint does not have are not compared.
    """
    changed = [
        f"{what}: digest {before[key]} before, {now[key]} now"
        for key, what in _WORDS.items()
        if key in before and key in now and before[key] != now[key]
    ]
    if changed:
        lines = "\n  ".join(changed)
        raise RunFolderError(
            f"{run.path} has a checkpoint that was made of other things:\n  {lines}\n"
            "Bring them back, give this run another name (name=...), or remove the folder to start "
            "over."
        )
