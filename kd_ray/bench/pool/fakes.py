"""Teachers that compute nothing, so that what remains is the pool's own; some take their time.

Shapes: B utterances, U target positions, V vocabulary.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.core.contracts import (
    Labels,
    Masks,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.teachers.readers import Inputs

_BLANK, _BOS, _EOS = 0, 1, 2
_WAITING = "waiting"
_STRINGS = 4
"""Different label strings that all fakes together say to an utterance."""


class DeafReader:
    """Inputs that hold nothing."""

    reads: Literal["speech", "text"] = "speech"
    digest = "nothing"

    def __call__(
        self, waveforms: Sequence[NDArray[np.int16]], texts: Sequence[str] | None = None
    ) -> Inputs:
        """(B, 1, 1) of zeros, and lengths of one."""
        return torch.zeros(len(waveforms), 1, 1), torch.ones(len(waveforms), dtype=torch.int64)

    def masked(self, masks: Masks, inputs: Tensor, lengths: Tensor) -> None:
        """Nothing is heard, so nothing can be covered."""


class BenchTeacher:
    """Answers by its number and the prefix alone.

    Args:
        number: its own; different teachers say different things.
        vocabulary_size: V.
        pass_s: how long it sleeps in each pass.
    """

    def __init__(self, number: int, vocabulary_size: int, pass_s: float = 0.0) -> None:
        self.number = number
        self.pass_s = pass_s
        self.reader = DeafReader()
        scores = np.random.default_rng(number).normal(size=(vocabulary_size, vocabulary_size))
        table = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        self._table = table.astype(np.float32)
        self.info = TeacherInfo(
            index=0,
            name=f"bench-{number}",
            folder="",
            digest=f"bench-{number}-{vocabulary_size}",
            tokens_digest="bench",
            vocabulary_size=vocabulary_size,
            blank=_BLANK,
            bos=_BOS,
            eos=_EOS,
            front_end_digest=self.reader.digest,
            frame_rate_hz=100.0,
            parameters=self._table.size,
        )

    def score(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
        masks: Masks | None = None,
    ) -> TeacherOutput:
        """A row of its table for each token that was read, whatever was heard."""
        if self.pass_s:
            time.sleep(self.pass_s)
        rows = len(lengths)
        read = np.concatenate([np.full((rows, 1), _BOS), prefix.ids], axis=1)
        lengths_of = np.full(rows, -1) if references is None else references.lengths
        errors = np.where(lengths_of < 0, -1, (7 * self.number + lengths_of) % 4)
        return TeacherOutput(
            teacher=0,
            log_probs=self._table[read] if "tokens" in wanted else None,
            positions=prefix.lengths + 1,
            strings=tuple([np.array([3 + self.number % _STRINGS], dtype=np.int64)] * rows),
            frames=lengths.numpy(),
            ctc_errors=errors,
            decoder_errors=errors,
            reference_lengths=lengths_of,
            confidence=np.full(rows, -0.5, dtype=np.float32),
        )

    def generate(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        writing: Writing,
        masks: Masks | None = None,
    ) -> Written:
        """Its prefix, and nothing more."""
        rows = len(lengths)
        return Written(prefix, np.zeros(rows, dtype=np.float32), np.zeros(rows, dtype=np.int64))


def fake_folders(free: int, waiting: int) -> list[Path]:
    """Names of teachers for `fake_loader`: first those that answer at once."""
    names = [*(f"free-{n}" for n in range(free)), *(f"{_WAITING}-{n}" for n in range(waiting))]
    return [Path("fakes") / name for name in names]


def fake_loader(
    vocabulary_size: int, pass_s: float = 0.0
) -> Callable[[Sequence[Path], str], list[BenchTeacher]]:
    """A pool's loader for `fake_folders`; waiting teachers sleep `pass_s` in each pass."""
    return functools.partial(_load, vocabulary_size=vocabulary_size, pass_s=pass_s)


def _load(
    folders: Sequence[Path], device: str, *, vocabulary_size: int, pass_s: float
) -> list[BenchTeacher]:
    teachers = []
    for folder in folders:
        kind, number = folder.name.split("-")
        waits = kind == _WAITING
        # Numbers that no free teacher has.
        teachers.append(
            BenchTeacher(int(number) + 10_000 * waits, vocabulary_size, pass_s if waits else 0.0)
        )
    return teachers
