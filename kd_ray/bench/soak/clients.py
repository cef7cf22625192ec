"""Jobs of a soak: each attaches, asks for a while, checks every answer, goes, and comes again."""

import logging
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kd_ray.bench.load import Load, Question, Tally
from kd_ray.cluster.pool import PoolSource, attach
from kd_ray.config.sources import PoolSource as PoolSection

logger = logging.getLogger(__name__)


class Client:
    """Asks a named pool from threads of its own, until it is stopped.

    Args:
        job: what the pool calls it.
        section: how it asks.
        questions: what it asks.
        per_s: requests in a second, at most.
        stay_s: from and to how long it stays attached.
        seed: of how long it stays.
    """

    def __init__(
        self,
        job: str,
        section: PoolSection,
        questions: Sequence[Question[Any]],
        *,
        per_s: float,
        stay_s: tuple[float, float],
        seed: int,
    ) -> None:
        self.job = job
        self.tally = Tally()
        self.counts: Counter[str] = Counter()
        """What its sources counted."""
        self.kinds: Counter[str] = Counter()
        """Events of its sources."""
        self.visits = 0
        self._section = section
        self._questions = questions
        self._per_s = per_s
        self._stay_s = stay_s
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"soak-{job}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Collect what is due, and go."""
        self._stop.set()

    def join(self) -> None:
        """Wait until it has gone."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._visit()
            except Exception as error:
                # A job would end here. The soak counts it and goes on, to see the rest.
                self.tally.lost += 1
                self.tally.note(f"{self.job} could not attach: {type(error).__name__}: {error}")
                logger.exception("client %s", self.job)
                self._stop.wait(1.0)

    def _visit(self) -> None:
        attachment = attach(self._section, job=self.job)
        try:
            source = PoolSource(attachment.address, on_event=self._count, job=self.job)
            try:
                self.visits += 1
                with Load(
                    source, self._questions, in_flight=1, per_s=self._per_s, tally=self.tally
                ):
                    self._stop.wait(self._random.uniform(*self._stay_s))
            finally:
                self.counts.update(source.counts)
                source.close()
        finally:
            attachment.close()

    def _count(self, kind: str, /, **details: Any) -> None:
        self.kinds[kind] += 1
