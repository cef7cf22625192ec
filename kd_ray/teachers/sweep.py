"""Which teacher goes next on a host that cannot hold all of them: in turn, as a lift does.

Teachers are visited in cyclic order of their indices. A visit does all that waits for its teacher,
so that one load serves a whole look-ahead window of requests, and a teacher is loaded at most once
in a round, however many requests come meanwhile. Residents are not preferred: `Residency` keeps
those that come next in this order, so that the order meets them by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ready:
    """A teacher with work that may start now."""

    teacher: int
    arrived: int
    """Running number of its oldest request."""
    priority: int = 0
    """The highest of its work; higher goes first."""
    waited_s: float = 0.0
    """Of its oldest work."""


@dataclass(frozen=True)
class Visit:
    """This teacher goes next."""

    teacher: int
    reason: str


class Sweep:
    """Says which teacher goes next; knows no clock and no queue.

    In this order: the highest priority; the teacher being visited, while it has work that arrived
    before the visit began or at most `window` requests later; the next one in cyclic order.

    Args:
        window: how many requests that arrive during a visit it may still take, so that a busy
            teacher cannot hold the sweep for ever. Each that it takes saves a load.
        overdue_s: work that waited for so long counts as of the highest priority that waits, so
            that low priorities come through a stream of higher ones.
    """

    def __init__(self, window: int, *, overdue_s: float = float("inf")) -> None:
        if window < 0 or overdue_s <= 0:
            raise ValueError(
                f"window must be at least 0 and overdue_s above 0, got {window} and {overdue_s:g}"
            )
        self.rounds = 0
        """Times that the order began again."""
        self.visits = 0
        """Begun so far; a visit may take several passes."""
        self._window = window
        self._overdue_s = overdue_s
        self._position = -1
        self._limit = -1

    def next(self, ready: Sequence[Ready], newest: int) -> Visit | None:
        """The teacher whose pass comes next; None where nothing is ready.

        Args:
            ready: one entry for each teacher.
            newest: running number of the request that arrived last.
        """
        if not ready:
            return None
        urgent = max(each.priority for each in ready)
        first = [
            each for each in ready if each.priority == urgent or each.waited_s >= self._overdue_s
        ]
        for each in first:
            if each.teacher == self._position and each.arrived <= self._limit:
                return Visit(each.teacher, f"the visit of teacher {each.teacher} goes on")
        chosen = min(first, key=lambda each: (each.teacher <= self._position, each.teacher))
        self.visits += 1
        self.rounds += chosen.teacher <= self._position
        self._position = chosen.teacher
        self._limit = newest + self._window
        return Visit(
            chosen.teacher,
            f"teacher {chosen.teacher} is next of {len(first)} with work of priority "
            f"{chosen.priority}, waited {chosen.waited_s:.2f} s, round {self.rounds}",
        )
