"""The teachers of a host: all loaded, or loaded by turns; they may come and go."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from torch import Tensor

from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation
from kd_ray.core.contracts import (
    Labels,
    Masks,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.teachers.cards import NO_STAMP, Blueprints, TeacherCard, card_of
from kd_ray.teachers.loading import CheckpointLoader, WarmStore
from kd_ray.teachers.readers import Reader
from kd_ray.teachers.residency import LoadFailed, Residency, ResidencyStatus
from kd_ray.teachers.teacher import reader_of

_UNBOUNDED = 1 << 62


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
        masks: Masks | None = None,
    ) -> TeacherOutput:
        """Score a batch of padded inputs, as its reader makes them, with `lengths` (B,)."""
        ...

    def generate(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        writing: Writing,
        masks: Masks | None = None,
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
    def pages(self) -> bool:
        """Whether teachers may have to be loaded by turns."""
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

    def add(self, index: int, folder: Path) -> None:
        """One more teacher; raises what is wrong with its folder. May read from the disk."""
        ...

    def remove(self, index: int) -> None:
        """A teacher leaves; a pass that uses it ends in peace."""
        ...


LoadOne = Callable[[Path], ScoringTeacher]
"""Makes the teacher of a folder."""


class AllLoaded:
    """Teachers that were loaded before, and stay.

    Args:
        teachers: in order.
        indices: their numbers in the pool; default 0, 1, ...
        load: makes those that are added later.
    """

    pages = False
    in_turns = False
    status = None

    def __init__(
        self,
        teachers: Sequence[ScoringTeacher],
        indices: Sequence[int] | None = None,
        load: LoadOne | None = None,
    ) -> None:
        numbers = range(len(teachers)) if indices is None else indices
        self._teachers = dict(zip(numbers, teachers, strict=True))
        self._load = load

    @property
    def infos(self) -> Mapping[int, TeacherInfo]:
        """Who they are."""
        return {index: teacher.info for index, teacher in self._teachers.items()}

    def reader(self, index: int) -> Reader:
        """Makes a teacher's inputs."""
        return self._teachers[index].reader

    @contextmanager
    def use(self, index: int) -> Iterator[ScoringTeacher]:
        """The teacher; `LoadFailed` if it has left."""
        teacher = self._teachers.get(index)
        if teacher is None:
            raise LoadFailed(index, "no such teacher on this host", final=True)
        yield teacher

    def add(self, index: int, folder: Path) -> None:
        """Load one more teacher.

        Raises:
            ValueError: these teachers were made by somebody else, who alone can make more.
        """
        if self._load is None:
            raise ValueError(f"{folder} cannot be added to teachers that are in memory only")
        teacher = self._load(folder)
        # One step, for readers in other threads.
        self._teachers = dict(sorted({**self._teachers, index: teacher}.items()))

    def remove(self, index: int) -> None:
        """A teacher leaves."""
        self._teachers = {
            other: teacher for other, teacher in self._teachers.items() if other != index
        }


class Paged:
    """Teachers of checkpoint folders of which no more are loaded than fit.

    Args:
        cards: who they are.
        max_bytes: for the weights of those that are loaded; None: any.
        warm_bytes: of main memory for weights between visits, where not all may be loaded; 0: they
            are read again from the mapped files.
        device: where they compute.
        blueprints: those that the cards were made with.
        computation: how the teachers compute, as their cards say.
    """

    pages = True

    def __init__(
        self,
        cards: Sequence[TeacherCard],
        *,
        max_bytes: int | None,
        warm_bytes: int = 0,
        device: str = "cpu",
        blueprints: Blueprints | None = None,
        computation: Computation = DEFAULT_COMPUTATION,
    ) -> None:
        bounded = warm_bytes and max_bytes is not None
        self._warm = WarmStore(warm_bytes) if bounded else None
        self._blueprints = blueprints or Blueprints()
        self._precision = computation.precision
        self._cards = {card.index: card for card in cards}
        self._max_bytes = _UNBOUNDED if max_bytes is None else max_bytes
        self._residency = Residency(
            cards,
            CheckpointLoader(self._warm, self._blueprints, computation),
            max_bytes=self._max_bytes,
            device=device,
        )

    @property
    def infos(self) -> Mapping[int, TeacherInfo]:
        """Who they are."""
        return {index: card.info for index, card in sorted(self._cards.items())}

    @property
    def in_turns(self) -> bool:
        """Whether they cannot all be loaded at once."""
        return sum(card.weight_bytes for card in self._cards.values()) > self._max_bytes

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

    def add(self, index: int, folder: Path) -> None:
        """Read who a teacher is; where all fit, load it.

        Raises:
            CheckpointError, UnusableSystem: the folder holds no teacher.
            LoadFailed: it cannot be loaded; then it is not here.
        """
        card = card_of(folder, index, self._blueprints, self._precision)
        self._residency.add(card)
        self._cards = {**self._cards, index: card}
        try:
            self.load_all([index])
        except LoadFailed:
            self.remove(index)
            raise

    def remove(self, index: int) -> None:
        """A teacher leaves."""
        self._residency.remove(index)
        gone = self._cards.get(index)
        self._cards = {other: card for other, card in self._cards.items() if other != index}
        others = {card.info.digest for card in self._cards.values()}
        if self._warm is not None and gone is not None and gone.info.digest not in others:
            self._warm.forget(gone.info.digest)

    def load_all(self, indices: Sequence[int]) -> None:
        """Load these now, unless there is no room for all.

        One that cannot be loaded is told in the status, and the others go on.

        Raises:
            LoadFailed: none of them can be loaded.
        """
        if not self.in_turns:
            failures = [error for index in indices if (error := self._try(index)) is not None]
            if failures and len(failures) == len(indices):
                raise failures[0]

    def _try(self, index: int) -> LoadFailed | None:
        """Load a teacher, as often as it would be tried when it is asked; why it failed."""
        while True:
            try:
                with self.use(index):
                    return None
            except LoadFailed as error:
                if error.final:
                    return error


def paged_from_folders(
    folders: Sequence[Path],
    indices: Sequence[int],
    *,
    device: str,
    max_bytes: int | None,
    warm_bytes: int = 0,
    computation: Computation = DEFAULT_COMPUTATION,
    share: float = 1.0,
    known: Mapping[int, TeacherInfo] | None = None,
) -> Paged:
    """Read who the teachers of some folders are; where all fit (or `max_bytes` is None), load them.

    Args:
        folders: their checkpoints.
        indices: their numbers in the pool.
        device: where they compute.
        max_bytes: for the weights of those that are loaded; None: any.
        warm_bytes: as of `Paged`.
        computation: how the teachers compute.
        share: of `max_bytes`, or of what all of them need; below 1 after deaths of memory.
        known: who they were before, by index: a checkpoint that broke since then fails its
            teacher alone.

    Raises:
        CheckpointError, UnusableSystem: a folder holds no teacher, and none is known.
        LoadFailed: all fit, and none can be loaded.
    """
    blueprints = Blueprints()
    cards = [
        _card(folder, index, blueprints, computation, (known or {}).get(index))
        for folder, index in zip(folders, indices, strict=True)
    ]
    if share < 1:
        needed = sum(card.weight_bytes for card in cards)
        max_bytes = max(1, int(share * (needed if max_bytes is None else max_bytes)))
    paged = Paged(
        cards,
        max_bytes=max_bytes,
        warm_bytes=warm_bytes,
        device=device,
        blueprints=blueprints,
        computation=computation,
    )
    paged.load_all(indices)
    return paged


def _card(
    folder: Path,
    index: int,
    blueprints: Blueprints,
    computation: Computation,
    known: TeacherInfo | None,
) -> TeacherCard:
    """Who a teacher is; who it was, where its checkpoint cannot be read any more."""
    try:
        return card_of(folder, index, blueprints, computation.precision)
    except (CheckpointError, UnusableSystem):
        if known is None:
            raise
        # Loading it will say what is wrong.
        return TeacherCard(known, 0, NO_STAMP)
