"""Where commands decode: here, or in actors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from kd_ray.config.evaluation import CascadeSystem
from kd_ray.config.placing import DecodingActors
from kd_ray.evaluation.cascade import AnySystem
from kd_ray.evaluation.decode import BatchDecoder


class DecoderOf(Protocol):
    """Makes a decoder by a system that lies at `place`; None: decode here."""

    def __call__(
        self, place: str | CascadeSystem, system: AnySystem, reads_column: str = "transcript"
    ) -> BatchDecoder | None:
        """For all batches of that system."""
        ...


@contextmanager
def decoders(config: DecodingActors, root: Path) -> Iterator[DecoderOf]:
    """Actors for a command that asks for some; they end with the block."""
    if not config.actors:
        yield lambda place, system, reads_column="transcript": None
        return
    from kd_ray.cluster.decoding import Decoders

    with Decoders(config, root) as actors:
        yield actors.of
