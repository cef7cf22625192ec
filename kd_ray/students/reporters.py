"""Who hears of every update besides the run folder: the heartbeat, TensorBoard."""

import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kd_ray.core.contracts import Reporter
from kd_ray.evaluation.heartbeat import Heartbeat

_PLACES = ("kind", "update", "epoch")
"""Keys of a line of figures that say where it belongs, and are no figures."""


class Several:
    """A reporter that passes everything on to others, in order."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """One line of figures."""
        for each in self._reporters:
            each.metrics(values)

    def event(self, kind: str, **details: Any) -> None:
        """A fault or a decision."""
        for each in self._reporters:
            each.event(kind, **details)


class Beats:
    """Tells the heartbeat of a training how far it is."""

    def __init__(self, heartbeat: Heartbeat, total_updates: int, epochs: int) -> None:
        self._heartbeat = heartbeat
        self._total, self._epochs = total_updates, epochs

    def begin(self, update: int) -> None:
        """Training starts, or goes on, after so many updates."""
        self._heartbeat.at(
            what="training", done=update, total=self._total, unit="updates", epochs=self._epochs
        )

    def metrics(self, values: Mapping[str, Any]) -> None:
        """An update was done; validations do not count."""
        if values["kind"] == "train":
            self._heartbeat.at(done=values["update"], epoch=values["epoch"])

    def event(self, kind: str, **details: Any) -> None:
        """Nothing: events have a file of their own."""


class TensorBoard:
    """Scalars for TensorBoard: of updates the mean over every so many, of validations each.

    Steps are updates. Losses and figures of the student are under `train/`, seconds of an update
    under `time/`, scores under `valid/`. A run that is resumed after update u writes a file of its
    own, which tells TensorBoard to forget what earlier files say of updates after u.

    Args:
        folder: of the event files.
        every: updates that are one point.
        update: updates that are done already.
    """

    def __init__(self, folder: Path, every: int, update: int) -> None:
        # Loaded where it is asked for: it costs half a second.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._every = every
        self._update = update
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        folder.mkdir(parents=True, exist_ok=True)
        # Two sessions may begin within one second; names sort by it, then by what was done before.
        self._writer = EventsWriter(str(folder / "events"), f".{update:08d}.{os.getpid()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(update + 1, session_log=start)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Count an update, or write a validation down."""
        numbers = {
            key: float(value)
            for key, value in values.items()
            # A skipped update must not hide the others of its point.
            if key not in _PLACES and isinstance(value, int | float) and math.isfinite(value)
        }
        if values["kind"] == "valid":
            scores = {key: number for key, number in numbers.items() if key != "seconds"}
            self._scalars(values["update"], {f"valid/{key}": n for key, n in scores.items()})
            return
        self._update = values["update"]
        for key, number in numbers.items():
            tag = f"time/{key}" if key.endswith("_s") else f"train/{key}"
            self._sums[tag] += number
            self._counts[tag] += 1
        if self._update % self._every == 0:
            self._tell_means()

    def event(self, kind: str, **details: Any) -> None:
        """Nothing: events are no scalars."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._counts:
            self._tell_means()
        self._writer.close()

    def _tell_means(self) -> None:
        means = {tag: self._sums[tag] / count for tag, count in self._counts.items()}
        self._scalars(self._update, means)
        self._sums.clear()
        self._counts.clear()

    def _scalars(self, update: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=scalar)
            for tag, scalar in scalars.items()
        ]
        self._write(update, summary=summary_pb2.Summary(value=values))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))
        # What a checkpoint is to go on from must not be lost with the process.
        self._writer.flush()
