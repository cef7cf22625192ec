"""`state.json` of a run folder: who works on the run, how far it is, and that it still lives.

A thread writes it every few seconds, whole or not at all; the work itself only says how far it is.
It is for eyes alone: no command decides by it. Whoever sees the run folder can read it, also from
another machine: `kd-ray status`.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kd_ray.evaluation.pace import Pace
from kd_ray.evaluation.run_folder import RunFolder, write_json
from kd_ray.storage import StorageError, place_of_processes

logger = logging.getLogger(__name__)

BEAT_S = 5.0
STATE_NAME = "state.json"
_LONGEST_ERROR = 2000
_RESTARTING = "restarting"

Doing = Literal["starting", "running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Work:
    """How far something is."""

    what: str
    """E.g. `training`."""
    done: int = 0
    total: int | None = None
    unit: str = "updates"
    epoch: int | None = None
    """Counted from 1, as are `epochs`."""
    epochs: int | None = None

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 where the end is not known."""
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass(frozen=True)
class Process:
    """A process of some machine."""

    pid: int
    place: str | None
    """Of the process numbers: machine and name space; None where they are not known."""


@dataclass(frozen=True)
class RunState:
    """What `state.json` says. Times are Unix times."""

    state: Doing
    command: str
    pid: int
    host: str
    place: str | None
    """As of a `Process`."""
    started: float
    """Of this process's work on the run; earlier ones are not counted."""
    beat: float
    """When this was written."""
    moved: float
    """When more was done last."""
    work: Work
    rate: float | None = None
    """Units a second."""
    left_s: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else the command says of itself."""
    error: str | None = None
    """Why it failed, was stopped, or starts again."""
    driver: Process | None = None
    """Who starts the workers again when one is lost; None: the run ends with its process."""


class Heartbeat:
    """Keeps `state.json` up to date while a block works on a run.

    An error that leaves the block is written down as the end of the run (`failed`, or `stopped` for
    an interrupt); otherwise the run is `finished`. In a worker group an error is no end: it may be
    another worker's, and whoever started the group starts it again (`starting`) or writes down the
    end (`note_end`). A disk or an address that refuses the file stops nothing.

    Args:
        run: whose folder exists.
        command: that works on it.
        work: what it begins with.
        every_s: seconds from beat to beat.
        more: asked at every beat; plain data.
        driver: in a worker group, the process that started it.
    """

    def __init__(
        self,
        run: RunFolder,
        command: str,
        work: Work,
        *,
        every_s: float = BEAT_S,
        more: Callable[[], Mapping[str, Any]] = dict,
        driver: Process | None = None,
    ) -> None:
        self._path = run.path / STATE_NAME
        self._every_s = every_s
        self._more = more
        self._begun = _begun(command, "running", work, driver)
        self._work, self._moved = work, self._begun.moved
        self._pace = Pace()
        self._pace.at(work.done)
        self._lock = threading.Lock()
        self._warned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def at(self, **changes: Any) -> None:
        """What has changed of the `Work`: `done`, `total`, `what`, ..."""
        with self._lock:
            before, work = self._work, replace(self._work, **changes)
            if (work.what, work.unit) != (before.what, before.unit):
                self._pace = Pace()
            if work != before:
                self._pace.at(work.done)
                self._work, self._moved = work, time.time()

    def tell(self, more: Callable[[], Mapping[str, Any]]) -> None:
        """From now on, ask this at every beat."""
        self._more = more

    def __enter__(self) -> Self:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None and self._begun.driver is not None:
            self.at(what=_RESTARTING)
            self._write("starting", _text_of(error))
        else:
            self._write("finished" if error is None else _end_of(error), _text_of(error))

    def _beat_on(self) -> None:
        while not self._stop.wait(self._every_s):
            self._write("running")

    def _write(self, state: Doing, error: str | None = None) -> None:
        with self._lock:
            now = replace(
                self._begun,
                state=state,
                beat=time.time(),
                moved=self._moved,
                work=self._work,
                rate=self._pace.rate,
                left_s=self._pace.left_s(self._work.total),
                more=dict(self._more()),
                error=error,
            )
        # Not under the lock: a slow disk must not hold up the work.
        try:
            write_json(self._path, asdict(now))
        except (OSError, StorageError) as problem:
            if not self._warned:
                logger.warning("how far the run is cannot be written down: %s", problem)
            self._warned = True


@contextmanager
def noted(run: RunFolder, command: str, what: str) -> Iterator[None]:
    """Write down that a run is being started, and its end if that fails."""
    _try_to_write(run, _begun(command, "starting", Work(what)))
    try:
        yield
    except BaseException as error:
        note_end(run, command, error)
        raise


def note_end(run: RunFolder, command: str, error: BaseException) -> None:
    """Write down why a run ended, for the process that worked on it and may not have been able to.

    What the run's own process wrote of its end stays.
    """
    before = read_state(run.path)
    if before is not None and before.state in ("failed", "stopped"):
        return
    state = before or _begun(command, "starting", Work("starting"))
    work = state.work
    if work.what == _RESTARTING:
        # What the group did that was not started again.
        work = replace(work, what="training")
    _try_to_write(
        run,
        replace(state, state=_end_of(error), beat=time.time(), work=work, error=_text_of(error)),
    )


def note_restart(run: RunFolder, error: BaseException) -> None:
    """Write down that a worker group is started again, for a worker that could not say so."""
    state = read_state(run.path)
    if state is None or state.state != "running":
        return
    _try_to_write(
        run,
        replace(
            state,
            state="starting",
            beat=time.time(),
            work=replace(state.work, what=_RESTARTING),
            rate=None,
            left_s=None,
            error=_text_of(error),
        ),
    )


def read_state(folder: Path) -> RunState | None:
    """What a run folder's `state.json` says; None where there is none, or none that can be read."""
    try:
        content = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        work = Work(**_known_fields(Work, content.pop("work")))
        driver = content.pop("driver", None)
        if driver is not None:
            driver = Process(**_known_fields(Process, driver))
        return RunState(**_known_fields(RunState, content), work=work, driver=driver)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def this_process() -> Process:
    """The process that asks."""
    return Process(os.getpid(), place_of_processes())


def _begun(command: str, state: Doing, work: Work, driver: Process | None = None) -> RunState:
    now, here = time.time(), this_process()
    return RunState(
        state=state,
        command=command,
        pid=here.pid,
        host=socket.gethostname(),
        place=here.place,
        started=now,
        beat=now,
        moved=now,
        work=work,
        driver=driver,
    )


def _try_to_write(run: RunFolder, state: RunState) -> None:
    try:
        write_json(run.path / STATE_NAME, asdict(state))
    except (OSError, StorageError) as problem:
        logger.warning("how far the run is cannot be written down: %s", problem)


def _end_of(error: BaseException) -> Doing:
    return "failed" if isinstance(error, Exception) else "stopped"


def _text_of(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return f"{type(error).__name__}: {error}".strip(": ")[:_LONGEST_ERROR]


def _known_fields(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Without what another version of the package has written."""
    names = {each.name for each in fields(kind)}
    return {key: value for key, value in content.items() if key in names}
