"""How far work is, for whoever waits: bars on a terminal, rare lines in a log.

Every command that takes long shows it by this module. One process does the showing: work that
several processes do side by side is read from where they write it down, so that no two of them
write into one line.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from kd_ray.evaluation.heartbeat import Work
from kd_ray.evaluation.pace import Pace

logger = logging.getLogger(__name__)

_SELDOM_S = 30.0
"""There is a line at least so often, ..."""
_SOONEST_S = 10.0
"""... and, where a tenth more is done, after so long."""
_FEW = 4
"""Up to so many pieces of work have lines of their own; more share one."""


def lasting(seconds: float) -> str:
    """A duration as people say it, in two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def paced(rate: float, unit: str) -> str:
    """Work a second; a minute or an hour where less than one is done in a second."""
    for factor, per in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * factor >= 1 or per == "h":
            number = rate * factor
            return f"{number:.0f} {unit}/{per}" if number >= 10 else f"{number:.1f} {unit}/{per}"
    raise AssertionError("the last unit always fits")


def how_far(work: Work) -> list[str]:
    """Epoch, amount and share, as far as they are known."""
    parts = []
    if work.epoch is not None:
        parts.append(f"epoch {work.epoch}" + (f"/{work.epochs}" if work.epochs else ""))
    unit = "update" if work.unit == "updates" else ""
    amount = f"{work.done}" + (f"/{work.total}" if work.total else "")
    if work.done or work.total:
        parts.append(f"{unit} {amount}".strip() if unit else f"{amount} {work.unit}")
    if work.total:
        parts.append(f"{100 * work.share:.0f} %")
    return parts


def how_fast(work: Work, rate: float | None, left_s: float | None) -> list[str]:
    """Rate and time left, as far as they are known."""
    parts = [] if not rate else [paced(rate, work.unit)]
    if left_s is not None and work.done != work.total:
        parts.append(f"{lasting(left_s)} left")
    return parts


def line_of(name: str, work: Work, rate: float | None, left_s: float | None) -> str:
    """`name  epoch 3/12  update 340/1200  28 %  3.1 updates/s  4 min left`."""
    return "  ".join([name, *how_far(work), *how_fast(work, rate, left_s)])


class Seldom:
    """When a line is due: every half minute, or sooner where a tenth more is done."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last_s = now()
        self._tenths = 0

    def due(self, share: float) -> bool:
        """Whether it is time, with this share of the work done."""
        waited_s, tenths = self._now() - self._last_s, int(10 * share + 1e-9)
        if waited_s < _SOONEST_S or (waited_s < _SELDOM_S and tenths <= self._tenths):
            return False
        self._last_s, self._tenths = self._now(), tenths
        return True


class Display:
    """Shows pieces of work that go on side by side.

    Args:
        out: where to; a terminal gets bars, everything else lines through `logging`.
        now: seconds by a clock that never goes back.
        lines: whether there are any.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
        *,
        lines: bool = True,
    ) -> None:
        out = out or sys.stdout
        self._lines = lines
        self._bars = _Bars(out) if _is_terminal(out) else None
        self._seldom = Seldom(now)

    def show(self, works: Mapping[str, tuple[Work, float | None, float | None]]) -> None:
        """What is at work now, by name: how far, units a second, seconds left."""
        if self._bars is not None:
            self._bars.show(works)
        elif works and self._lines:
            share = sum(work.share for work, _, _ in works.values()) / len(works)
            if self._seldom.due(share):
                self._tell(works)

    def _tell(self, works: Mapping[str, tuple[Work, float | None, float | None]]) -> None:
        if len(works) <= _FEW:
            width = max(map(len, works))
            for name, (work, rate, left_s) in works.items():
                logger.info("%s", line_of(f"{name:<{width}}", work, rate, left_s))
            return
        shares = sorted((work.share, name) for name, (work, _, _) in works.items())
        (least, last), (most, first) = shares[0], shares[-1]
        logger.info(
            "%d at work: %.0f %% (%s) to %.0f %% (%s)",
            len(works), 100 * least, last, 100 * most, first,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.close()


class Task:
    """One piece of work of this process."""

    def __init__(self, display: Display, name: str, work: Work) -> None:
        self._display, self._name = display, name
        self._work = work
        self._pace = Pace()
        self._pace.at(work.done)

    def at(self, done: int, total: int | None = None) -> None:
        """So much is done, of so much."""
        if self._work.total is None and done:
            # What was there at the first look was done before.
            self._pace = Pace()
        total = self._work.total if total is None else total
        self._work = Work(self._work.what, done, total, self._work.unit)
        self._pace.at(done)
        self._display.show(
            {self._name: (self._work, self._pace.rate, self._pace.left_s(self._work.total))}
        )

    def advance(self, more: int = 1) -> None:
        """So much more is done."""
        self.at(self._work.done + more)


@contextmanager
def progress(
    what: str, unit: str, total: int | None = None, *, lines: bool = True
) -> Iterator[Task]:
    """Show how far the work in the block is: it says so to the `Task`.

    `lines`: also where there is no terminal for bars.
    """
    with Display(lines=lines) as display:
        yield Task(display, what, Work(what, 0, total, unit))


class _Bars:
    """Bars at the bottom of a terminal, below what is logged meanwhile."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[far]}", markup=False),
            TextColumn("{task.fields[fast]}", markup=False, style="dim"),
            console=Console(file=out),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._moved: list[logging.StreamHandler[TextIO]] = []
        self._open = False

    def show(self, works: Mapping[str, tuple[Work, float | None, float | None]]) -> None:
        """As `Display.show`."""
        if works and not self._open:
            self._begin()
        for name in self._tasks.keys() - works.keys():
            self._progress.remove_task(self._tasks.pop(name))
        for name, (work, rate, left_s) in works.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, far="", fast="")
            far = [part for part in how_far(work) if not part.endswith("%")]
            self._progress.update(
                self._tasks[name],
                completed=work.done,
                total=work.total,
                far="  ".join(far),
                fast="  ".join(how_fast(work, rate, left_s)),
            )

    def close(self) -> None:
        """Take the bars away; what was logged stays."""
        if not self._open:
            return
        self._open = False
        self._progress.stop()
        for handler in self._moved:
            handler.setStream(self._out)
        self._moved.clear()

    def _begin(self) -> None:
        self._open = True
        self._progress.start()
        # Lines are to be written above the bars: rich has put itself into the place of stdout, and
        # handlers still hold what was there before.
        for handler in _handlers():
            if handler.stream is self._out:
                handler.setStream(sys.stdout)
                self._moved.append(handler)


def _handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    for each in (logging.getLogger(), logging.getLogger("kd_ray")):
        for handler in each.handlers:
            if isinstance(handler, logging.StreamHandler):
                yield handler


def _is_terminal(out: TextIO) -> bool:
    return out.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
