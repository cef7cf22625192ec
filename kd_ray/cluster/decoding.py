"""Actors that decode batches side by side: transcribing, translating and scoring whole splits."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from kd_ray.cluster.actors import as_many_as_fit
from kd_ray.cluster.dealing import Dealing
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

_PATIENCE_S = 60.0
"""After so long without a batch, idle actors get what others have not brought."""
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
                folders = " and ".join(map(str, system.folders))
                raise UnusableSystem(
                    f"{folders}: digest {system.digest} where an actor decodes, and {digest} where "
                    "the command runs: changed meanwhile, or nodes do not see the same folders; "
                    "put them on shared storage and start again"
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
        wish = self._wish(len(self._actors) + more)
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
        """Results as they come, each batch's once."""
        dealing = Dealing(len(calls), len(self._actors))
        joining = {actor.ready.remote(): number for number, actor in enumerate(self._actors)}
        running: dict[Any, tuple[int, int]] = {}

        def give(dealt: list[tuple[int, int]]) -> None:
            for worker, batch in dealt:
                running[self._actors[worker].decode.remote(*calls[batch])] = (worker, batch)

        try:
            while not dealing.is_over:
                done, _ = ray.wait([*running, *joining], num_returns=1, timeout=_PATIENCE_S)
                if not done:
                    give(dealing.copies())
                    self._say_what_is_awaited(dealing.joined)
                found = []
                for reference in done:
                    result = _result(reference)
                    if reference in joining:
                        dealing.join(joining.pop(reference))
                    elif dealing.done(*running.pop(reference)):
                        found.append(result)
                # Before anything is yielded: whoever takes it may be busy with it for a while.
                give(dealing.deal())
                yield from found
        finally:
            for reference in running:
                ray.cancel(reference)

    def _say_what_is_awaited(self, joined: int) -> None:
        if joined:
            logger.warning(
                "no batch came within %g s: it takes long, or its process is gone and finds no "
                "room to start again; processes that are idle decode it as well",
                _PATIENCE_S,
            )
            return
        free = dict(ray.available_resources())  # type: ignore[no-untyped-call]
        offer = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in self._wish(1).resources)
        logger.warning(
            "waiting for %s, but free are %s; others use the cluster, or the autoscaler is "
            "starting nodes",
            self._wish(len(self._actors)),
            offer,
        )

    def _wish(self, count: int) -> Wish:
        config = self._config
        resources = {
            "CPU": config.cpus_per_actor,
            "GPU": config.gpus_per_actor,
            **config.resources_per_actor,
        }
        return Wish("decoding actors", count, resources, config.label_selector)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise getattr(error, "cause", None) or error from None
    except ray.exceptions.RayActorError as error:
        raise DecodingFailed(
            f"the process that decoded a batch died {_RETRIES + 1} times ({error}); is memory "
            "short? Lower batch_size or actors, and start again"
        ) from None
    except ray.exceptions.RayError as error:
        raise DecodingFailed(f"a process that decodes failed: {error}") from None
