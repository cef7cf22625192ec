"""Which teachers of a host are loaded: no more than fit, and those that are needed next.

Passes go through the teachers in cyclic order (`kd_ray.teachers.sweep`). The one that was passed
last is then needed last, so it makes room first; dropping the one that was not used for longest
(LRU) would load every teacher in every round.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from kd_ray.core.errors import PortableError
from kd_ray.teachers.cards import TeacherCard

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 1 << 20


class LoadFailed(PortableError, RuntimeError):
    """A teacher cannot be had; the host and its other teachers go on.

    `final`: it will not be tried again, unless it is replaced.
    """

    def __init__(self, index: int, reason: str, *, final: bool) -> None:
        self.index = index
        self.reason = reason
        self.final = final
        super().__init__(f"teacher {index} cannot be loaded: {reason}")


@dataclass(frozen=True)
class ResidencyStatus:
    """What is loaded, and what it took."""

    max_bytes: int
    resident_bytes: int
    resident: tuple[int, ...]
    failed: Mapping[int, str]
    """Teachers that are not tried again, with the reason."""
    loads: int
    evictions: int
    load_s: float
    """Seconds spent loading, failures included."""
    loads_of: Mapping[int, int]
    """Loads of each teacher that was ever loaded."""


@dataclass(eq=False)
class _Slot(Generic[T]):
    """A loaded teacher; `leaving`: it goes as soon as no pass uses it."""

    card: TeacherCard
    teacher: T
    pins: int = 0
    leaving: bool = False


@dataclass(frozen=True)
class _Failure:
    attempts: int
    reason: str


class Residency(Generic[T]):
    """Keeps teachers loaded, and loads and drops them as passes need them.

    Passes may come from any thread; loads happen one at a time, in the thread of the pass.

    Args:
        cards: teachers that may be asked for.
        load: makes the teacher of a card on a device. Whatever it raises fails this teacher alone.
        max_bytes: of the weights of all loaded teachers. One that is larger by itself is loaded
            alone, with a warning.
        device: where teachers compute.
        retries: how often loading is tried again, each time the teacher is asked for.
    """

    def __init__(
        self,
        cards: Sequence[TeacherCard],
        load: Callable[[TeacherCard, str], T],
        *,
        max_bytes: int,
        device: str = "cpu",
        retries: int = 1,
    ) -> None:
        if max_bytes < 1 or retries < 0:
            raise ValueError(
                f"max_bytes must be above 0 and retries at least 0, got {max_bytes} and {retries}"
            )
        self._load = load
        self._max_bytes = max_bytes
        self._device = device
        self._retries = retries
        self._cards: dict[int, TeacherCard] = {}
        self._slots: dict[int, _Slot[T]] = {}
        self._leaving: list[_Slot[T]] = []
        self._failures: dict[int, _Failure] = {}
        self._evictions = 0
        self._load_s = 0.0
        self._loads_of: Counter[int] = Counter()
        # Two locks: a status must not wait until a teacher is loaded.
        self._loading = threading.Lock()
        self._state = threading.RLock()
        for card in cards:
            self.add(card)

    @property
    def cards(self) -> tuple[TeacherCard, ...]:
        """The teachers that may be asked for, in order."""
        with self._state:
            return tuple(self._cards[index] for index in sorted(self._cards))

    @property
    def status(self) -> ResidencyStatus:
        """What is loaded, and counters since the start."""
        with self._state:
            return ResidencyStatus(
                max_bytes=self._max_bytes,
                resident_bytes=self._resident_bytes(),
                resident=tuple(sorted(self._slots)),
                failed={
                    index: failure.reason
                    for index, failure in sorted(self._failures.items())
                    if failure.attempts > self._retries
                },
                loads=self._loads_of.total(),
                evictions=self._evictions,
                load_s=self._load_s,
                loads_of=dict(self._loads_of),
            )

    def is_resident(self, index: int) -> bool:
        """Whether a pass of this teacher would load nothing."""
        with self._state:
            return index in self._slots

    def add(self, card: TeacherCard) -> None:
        """A teacher more.

        Raises:
            ValueError: there is one of this index; `replace` it.
        """
        with self._state:
            if card.index in self._cards:
                raise ValueError(
                    f"teacher {card.index} is {self._cards[card.index].folder} here, and "
                    f"{card.folder} cannot be added under that number; replace or remove it"
                )
            self._cards[card.index] = card

    def remove(self, index: int) -> None:
        """Forget a teacher; a pass that uses it ends in peace. Nothing happens to one unknown."""
        with self._state:
            self._cards.pop(index, None)
            self._failures.pop(index, None)
            if index in self._slots:
                self._leave(self._slots.pop(index))

    def replace(self, card: TeacherCard) -> None:
        """Another teacher under a known or new index; the next pass loads it."""
        with self._state:
            self.remove(card.index)
            self._cards[card.index] = card

    @contextmanager
    def use(self, index: int) -> Iterator[T]:
        """The teacher, loaded if need be, and kept while the context lasts.

        Raises:
            LoadFailed: it cannot be loaded, or is not (or no longer) here.
        """
        slot = self._pinned(index)
        if slot is None:
            with self._loading:
                slot = self._pinned(index) or self._loaded(index)
        try:
            yield slot.teacher
        finally:
            with self._state:
                slot.pins -= 1
                if slot.leaving and not slot.pins:
                    self._leaving.remove(slot)

    def _pinned(self, index: int) -> _Slot[T] | None:
        with self._state:
            slot = self._slots.get(index)
            if slot is not None:
                slot.pins += 1
            return slot

    def _loaded(self, index: int) -> _Slot[T]:
        """Make room and load; the slot is pinned once."""
        with self._state:
            card = self._cards.get(index)
            if card is None:
                raise LoadFailed(index, "no such teacher on this host", final=True)
            failure = self._failures.get(index, _Failure(0, ""))
            if failure.attempts > self._retries:
                raise LoadFailed(index, failure.reason, final=True)
            self._make_room(card)
        started = time.perf_counter()
        try:
            teacher = self._load_or_evict_more(card)
        except Exception as error:
            # Any error: a checkpoint can be broken in more ways than can be named, and must not
            # take the host down.
            self._load_s += time.perf_counter() - started
            raise self._failed(card, failure.attempts + 1, error) from error
        with self._state:
            self._load_s += time.perf_counter() - started
            self._loads_of[index] += 1
            if self._cards.get(index) is not card:
                raise LoadFailed(index, "removed or replaced while it was loaded", final=False)
            self._failures.pop(index, None)
            self._slots[index] = _Slot(card, teacher, pins=1)
            return self._slots[index]

    def _load_or_evict_more(self, card: TeacherCard) -> T:
        """Load; where the device has less memory than `max_bytes` promised, with fewer others."""
        while True:
            try:
                return self._load(card, self._device)
            except torch.OutOfMemoryError as error:
                with self._state:
                    if not self._evict_one(card.index):
                        raise
                logger.warning(
                    "teacher %s (%.1f MiB) met full memory on %s, one teacher more is dropped: %s",
                    card.info.name,
                    card.weight_bytes / _MIB,
                    self._device,
                    error,
                )

    def _failed(self, card: TeacherCard, attempts: int, error: Exception) -> LoadFailed:
        reason = f"{type(error).__name__}: {error}"
        final = attempts > self._retries
        with self._state:
            # A teacher that took its place meanwhile is not to blame.
            if self._cards.get(card.index) is card:
                self._failures[card.index] = _Failure(attempts, reason)
        logger.warning(
            "teacher %s was not loaded, attempt %d of %d: %s",
            card.info.name,
            attempts,
            self._retries + 1,
            reason,
        )
        return LoadFailed(card.index, reason, final=final)

    def _make_room(self, card: TeacherCard) -> None:
        if card.weight_bytes > self._max_bytes:
            logger.warning(
                "teacher %s has %.1f MiB of weights and the host keeps %.1f MiB: it is loaded "
                "alone; raise the host's memory for teachers",
                card.info.name,
                card.weight_bytes / _MIB,
                self._max_bytes / _MIB,
            )
        while self._resident_bytes() + card.weight_bytes > self._max_bytes:
            if not self._evict_one(card.index):
                # What is left is in use by other passes, and goes when they end.
                return

    def _evict_one(self, coming: int) -> bool:
        """Drop the teacher that the sweep reaches last from `coming` on; false: none can go."""
        idle = [index for index, slot in self._slots.items() if not slot.pins]
        if not idle:
            return False
        del self._slots[max(idle, key=lambda index: (index < coming, index))]
        self._evictions += 1
        return True

    def _leave(self, slot: _Slot[T]) -> None:
        slot.leaving = True
        if slot.pins:
            self._leaving.append(slot)

    def _resident_bytes(self) -> int:
        slots = (*self._slots.values(), *self._leaving)
        return sum(slot.card.weight_bytes for slot in slots)
