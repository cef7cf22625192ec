"""Actors that decode batches side by side: transcribing, translating and scoring whole splits."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from kd_ray.cluster.actors import as_many_as_fit
from kd_ray.cluster.room import Wish
from kd_ray.cluster.runtime import RayHandle, ensure_ray, require_cluster
from kd_ray.config.evaluation import CascadeSystem
from kd_ray.config.placing import DecodingActors
from kd_ray.core.closing import Closing
from kd_ray.evaluation.cascade import AnySystem, load_any
from kd_ray.evaluation.decode import BatchDecoder, Hypothesis, Search, decode_batch
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.speech.manifest import Utterance

logger = logging.getLogger(__name__)

_IN_FLIGHT = 2
"""Batches that an actor has at a time: one that it decodes, and one that waits for it."""
_RETRIES = 2
"""How often a batch may take its process down with it and is tried again."""


class DecodingFailed(RuntimeError):
    """A batch could not be decoded: the processes that tried it died."""


class _Decoder:
    """An actor; keeps the system that it decoded with last."""

    def __init__(self, root: Path, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._root = root
        self._device = device
        self._is: tuple[Any, ...] = ()
        self._system: AnySystem | None = None

    def ready(self) -> None:
        """Returns once the process is up."""

    def decode(
        self,
        place: str | CascadeSystem,
        digest: str,
        reads_column: str,
        rows: Sequence[Utterance],
        search: Search,
    ) -> list[Hypothesis]:
        """Hypotheses of one batch, in its order.

        Raises:
            UnusableSystem: there are other weights than those of `digest`.
        """
        asked = (repr(place), digest, reads_column)
        if self._system is None or self._is != asked:
            self._system = None
            system = load_any(place, self._root, self._device, reads_column=reads_column)
            if system.digest != digest:
                raise UnusableSystem(
                    f"{system.folders[-1]} has digest {system.digest} where an actor decodes, and "
                    f"{digest} where the command runs: it was changed meanwhile, or the nodes do "
                    "not see the same folder; put both on shared storage and start again"
                )
            self._system, self._is = system, asked
        return decode_batch(self._system, rows, self._root, search)


class Decoders(Closing):
    """Actors for all systems of a command, started when the first batch is there to be decoded.

    A process that dies is started again, and its batches with it. Actors that find no room yet take
    part as soon as they do.

    Args:
        config: how many, and what each takes.
        root: where configurations' paths start.
    """

    def __init__(self, config: DecodingActors, root: Path) -> None:
        self._config = config
        self._root = root
        self._actors: list[Any] = []
        self._ray: RayHandle | None = None

    def of(
        self, place: str | CascadeSystem, system: AnySystem, reads_column: str = "transcript"
    ) -> BatchDecoder:
        """A decoder by the system at `place`, which this process has loaded too."""

        def decode(
            batches: Sequence[Sequence[Utterance]], search: Search
        ) -> Iterator[list[Hypothesis]]:
            if batches:
                self._start(len(batches))
                what = (place, system.digest, reads_column)
                yield from self._work_off([(*what, rows, search) for rows in batches])

        return decode

    def close(self) -> None:
        """End the actors, and the Ray that was started for them."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._ray is not None:
            self._ray.close()
            self._ray = None

    def _start(self, batches: int) -> None:
        """As many actors as there is work for; they stay for the next system."""
        config = self._config
        if self._ray is None:
            if config.placed:
                require_cluster("resources_per_actor or label_selector")
            self._ray = ensure_ray(cpus=max(2, round(config.actors * config.cpus_per_actor) + 1))
        more = min(config.actors, batches) - len(self._actors)
        if more <= 0:
            return
        resources = {
            "CPU": config.cpus_per_actor,
            "GPU": config.gpus_per_actor,
            **config.resources_per_actor,
        }
        wish = Wish("decoding actors", len(self._actors) + more, resources, config.label_selector)
        options = ray.remote(_Decoder).options(
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
            resources=dict(config.resources_per_actor) or None,
            label_selector=dict(config.label_selector) or None,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
        device = "cuda" if config.gpus_per_actor else "cpu"
        threads = max(1, int(config.cpus_per_actor))
        self._actors += [
            options.remote(self._root, device, threads)
            for _ in range(as_many_as_fit(wish) - len(self._actors))
        ]

    def _work_off(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[list[Hypothesis]]:
        waiting = deque(calls)
        joining = {actor.ready.remote(): actor for actor in self._actors}
        running: dict[Any, Any] = {}
        try:
            while waiting or running:
                done, _ = ray.wait([*running, *joining], num_returns=1)
                for reference in done:
                    joined = reference in joining
                    actor = (joining if joined else running).pop(reference)
                    found = _result(reference)
                    for _ in range(_IN_FLIGHT if joined else 1):
                        if waiting:
                            running[actor.decode.remote(*waiting.popleft())] = actor
                    if not joined:
                        yield found
        finally:
            for reference in running:
                ray.cancel(reference)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise getattr(error, "cause", None) or error from None
    except ray.exceptions.RayActorError as error:
        raise DecodingFailed(
            f"the process that decoded a batch died {_RETRIES + 1} times ({error}); is memory "
            "short? Lower batch_size or actors; what was decoded so far is kept"
        ) from None
