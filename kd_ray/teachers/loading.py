"""From a teacher's card to the teacher, fast enough to do it again and again.

On the CPU a teacher's weights are the mapped file itself: they lie in the page cache, where all
host processes of a node share them and the kernel bounds them, and a visit copies nothing. The
files of a checkpoint folder are replaced by renaming, so a mapping never changes under a teacher;
a file that is cut while mapped ends the process. For storage where that may happen, or that is
slow, `WarmStore` keeps copies.
"""

from collections.abc import Mapping

from torch import Tensor

from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation
from kd_ray.models.checkpoint import CheckpointError, checkpoint_digest, read_weights
from kd_ray.teachers.cards import Blueprints, TeacherCard, stamp_of
from kd_ray.teachers.teacher import Teacher

Weights = Mapping[str, Tensor]


class WarmStore:
    """Weights in this process's own memory, bounded, between the visits of their teachers.

    Once it is full, newcomers are turned away: in cyclic order the one that was just read is the
    one that is needed last, and making room for it would cost a better one.

    Args:
        max_bytes: of all weights together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: dict[str, tuple[Weights, int]] = {}

    def get(self, digest: str) -> Weights | None:
        """The weights of the teacher with this digest, if they are here."""
        kept = self._kept.get(digest)
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        return kept[0]

    def offer(self, digest: str, weights: Weights) -> Weights:
        """Copy `weights` here if there is room; the copy, or else what was given."""
        size = sum(value.numel() * value.element_size() for value in weights.values())
        if digest in self._kept or self.used_bytes + size > self.max_bytes:
            return weights
        copies = {name: value.clone() for name, value in weights.items()}
        self._kept[digest] = copies, size
        self.used_bytes += size
        return copies

    def forget(self, digest: str) -> None:
        """Make room; nothing happens if they are not here."""
        _, size = self._kept.pop(digest, ({}, 0))
        self.used_bytes -= size


class CheckpointLoader:
    """Loads teachers from checkpoint folders, as `Residency` wants it.

    Args:
        warm: keeps copies of weights; None: they are read from the mapped file each time.
        blueprints: those that the cards were made with, or fresh ones.
        computation: how the teachers compute.
    """

    def __init__(
        self,
        warm: WarmStore | None = None,
        blueprints: Blueprints | None = None,
        computation: Computation = DEFAULT_COMPUTATION,
    ) -> None:
        self.warm = warm
        self._computation = computation
        self._blueprints = blueprints or Blueprints()
        self._known_stamps: dict[str, tuple[int, int]] = {}

    def __call__(self, card: TeacherCard, device: str) -> Teacher:
        """The teacher, frozen and in eval mode.

        Raises:
            CheckpointError: a file is missing or broken, the weights do not fit, or they are no
                longer those that the card speaks of.
        """
        weights = self._weights(card)
        placed = {name: value.to(device) for name, value in weights.items()}
        system = self._blueprints.system(card.folder, card.info.digest, weights=placed)
        return Teacher(system, card.index, self._computation)

    def _weights(self, card: TeacherCard) -> Weights:
        digest = card.info.digest
        kept = None if self.warm is None else self.warm.get(digest)
        if kept is not None:
            return kept
        self._check_unchanged(card)
        weights = read_weights(card.folder)
        return weights if self.warm is None else self.warm.offer(digest, weights)

    def _check_unchanged(self, card: TeacherCard) -> None:
        """Refuse weights that were replaced behind the pool's back.

        Answers are cached under the card's digest. It is taken anew only where the file's stamp is
        another, as on a node that has its own copy.
        """
        digest = card.info.digest
        stamp = stamp_of(card.folder)
        if stamp == self._known_stamps.get(digest, card.stamp):
            return
        found = checkpoint_digest(card.folder)
        if found != digest:
            raise CheckpointError(
                f"{card.folder} has digest {found}, and teacher {card.index} was registered with "
                f"{digest}: the checkpoint was changed. Replace the teacher in the pool, or put "
                "the checkpoint back"
            )
        self._known_stamps[digest] = stamp
