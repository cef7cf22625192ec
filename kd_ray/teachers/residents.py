"""The teachers of a host: all loaded, or loaded by turns."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from torch import Tensor

from kd_ray.core.contracts import (
    Labels,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.teachers.cards import Blueprints, TeacherCard, card_of
from kd_ray.teachers.loading import CheckpointLoader, WarmStore
from kd_ray.teachers.readers import Reader
from kd_ray.teachers.residency import Residency, ResidencyStatus
from kd_ray.teachers.teacher import reader_of


class ScoringTeacher(Protocol):
    """What a host takes for granted about a teacher (`kd_ray.teachers.teacher.Teacher`)."""

    @property
    def info(self) -> TeacherInfo:
        """Who it is."""
        ...

    @property
    def reader(self) -> Reader:
        """Makes its inputs of a request."""
        ...

    def score(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
    ) -> TeacherOutput:
        """Score a batch of padded inputs, as its reader makes them, with `lengths` (B,)."""
        ...

    def generate(
        self, inputs: Tensor, lengths: Tensor, prefix: Labels, writing: Writing
    ) -> Written:
        """Write a string for each row, beginning with its row of `prefix`."""
        ...


class Residents(Protocol):
    """The teachers that live on a host, by their indices in the pool."""

    @property
    def infos(self) -> Mapping[int, TeacherInfo]:
        """Who they are, in order."""
        ...

    @property
    def in_turns(self) -> bool:
        """Whether they cannot all be loaded at once."""
        ...

    @property
    def status(self) -> ResidencyStatus | None:
        """What is loaded; None where everything always is."""
        ...

    def reader(self, index: int) -> Reader:
        """Makes a teacher's inputs; nothing is loaded for it."""
        ...

    def use(self, index: int) -> AbstractContextManager[ScoringTeacher]:
        """The teacher, loaded while the context lasts; `LoadFailed` if it cannot be had."""
        ...


class AllLoaded:
    """Teachers that were loaded before, and stay.

    Args:
        teachers: in order.
        indices: their numbers in the pool; default 0, 1, ...
    """

    in_turns = False
    status = None

    def __init__(
        self, teachers: Sequence[ScoringTeacher], indices: Sequence[int] | None = None
    ) -> None:
        numbers = range(len(teachers)) if indices is None else indices
        self._teachers = dict(zip(numbers, teachers, strict=True))

    @property
    def infos(self) -> Mapping[int, TeacherInfo]:
        """Who they are."""
        return {index: teacher.info for index, teacher in self._teachers.items()}

    def reader(self, index: int) -> Reader:
        """Makes a teacher's inputs."""
        return self._teachers[index].reader

    @contextmanager
    def use(self, index: int) -> Iterator[ScoringTeacher]:
        """The teacher."""
        yield self._teachers[index]


class Paged:
    """Teachers of checkpoint folders of which no more are loaded than fit.

    Args:
        cards: who they are.
        max_bytes: for the weights of those that are loaded.
        warm_bytes: of main memory for weights between visits; 0: they are read again from the
            mapped files.
        device: where they compute.
        blueprints: those that the cards were made with.
    """

    def __init__(
        self,
        cards: Sequence[TeacherCard],
        *,
        max_bytes: int,
        warm_bytes: int = 0,
        device: str = "cpu",
        blueprints: Blueprints | None = None,
    ) -> None:
        warm = WarmStore(warm_bytes) if warm_bytes else None
        self._blueprints = blueprints or Blueprints()
        self._cards = {card.index: card for card in cards}
        self._residency = Residency(
            cards, CheckpointLoader(warm, self._blueprints), max_bytes=max_bytes, device=device
        )
        self.in_turns = sum(card.weight_bytes for card in cards) > max_bytes

    @property
    def infos(self) -> Mapping[int, TeacherInfo]:
        """Who they are."""
        return {index: card.info for index, card in sorted(self._cards.items())}

    @property
    def status(self) -> ResidencyStatus:
        """What is loaded, and how often teachers were."""
        return self._residency.status

    def reader(self, index: int) -> Reader:
        """Makes a teacher's inputs; needs its configuration and tokens alone."""
        card = self._cards[index]
        return reader_of(self._blueprints.system(card.folder, card.info.digest))

    def use(self, index: int) -> AbstractContextManager[ScoringTeacher]:
        """The teacher, loaded if need be."""
        return self._residency.use(index)


def paged_from_folders(
    folders: Sequence[Path],
    indices: Sequence[int],
    *,
    device: str,
    max_bytes: int | None,
    warm_bytes: int = 0,
) -> Paged:
    """Read who the teachers of some folders are; where all fit (or `max_bytes` is None), load them.

    Raises:
        CheckpointError, UnusableSystem: a folder holds no teacher.
        LoadFailed: all fit, and one cannot be loaded.
    """
    blueprints = Blueprints()
    cards = [
        card_of(folder, index, blueprints) for folder, index in zip(folders, indices, strict=True)
    ]
    needed = sum(card.weight_bytes for card in cards)
    paged = Paged(
        cards,
        max_bytes=max(1, needed) if max_bytes is None else max_bytes,
        warm_bytes=warm_bytes,
        device=device,
        blueprints=blueprints,
    )
    if not paged.in_turns:
        for index in indices:
            with paged.use(index):
                pass
    return paged
