"""What is done to the processes of a pool during a soak, at seeded random times."""

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Collection
from typing import Any

from kd_ray.bench.soak.processes import Process, look

logger = logging.getLogger(__name__)

WEIGHTS = {"kill": 0.45, "hang": 0.2, "pause": 0.15, "manager": 0.2}
"""`kill`: a host gets SIGKILL. `hang`: a host gets SIGSTOP and is never resumed. `pause`: it is
resumed before the pool gives it up. `manager`: the manager gets SIGKILL."""

_LEAST_S = 10.0
"""Between two faults, at least."""


class Faults:
    """Does one fault after another, from a thread of its own.

    Args:
        spared: processes that nothing is done to.
        every_s: mean time between faults.
        pause_s: how long a paused host is stopped.
        seed: of kinds, times and victims.
    """

    def __init__(
        self, spared: Collection[int], *, every_s: float, pause_s: float, seed: int
    ) -> None:
        self.done: list[dict[str, Any]] = []
        """Kind, process and time of each."""
        self._spared = set(spared)
        self._every_s = every_s
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-faults", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No further faults; a host that is paused is resumed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._wait_s()):
            (kind,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            wanted = "manager" if kind == "manager" else "host"
            victims = [p for p in look() if p.kind == wanted and p.pid not in self._spared]
            if victims:
                self._do(kind, self._random.choice(victims))

    def _wait_s(self) -> float:
        least = min(_LEAST_S, self._every_s / 2)
        return least + self._random.expovariate(1 / (self._every_s - least))

    def _do(self, kind: str, victim: Process) -> None:
        at_s = time.monotonic() - self._began_s
        self.done.append({"at_s": round(at_s, 1), "kind": kind, "pid": victim.pid})
        logger.info("soak: %s of process %d after %.0f s", kind, victim.pid, at_s)
        try:
            match kind:
                case "hang":
                    os.kill(victim.pid, signal.SIGSTOP)
                case "pause":
                    os.kill(victim.pid, signal.SIGSTOP)
                    self._stop.wait(self._pause_s)
                    os.kill(victim.pid, signal.SIGCONT)
                case _:
                    os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            # Another fault, or the pool itself, was faster.
            return
