"""Stand-ins for our own protocols: teachers whose numbers are a plain function of their input."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from kd_ray.config.data import LogMel
from kd_ray.config.strategies import Strategy, Weighted
from kd_ray.core.contracts import (
    Audio,
    Fusion,
    Generate,
    Labels,
    Masks,
    Score,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.teachers.readers import SpeechReader

VOCABULARY = 7


class FakeTeacher:
    """Answers by (seed, frames, prefix, reference) of each utterance, whatever its neighbours.

    `broken_after` passes it answers NaN; each pass takes `pass_s` seconds; with `error` it raises.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_mels: int = 8,
        pass_s: float = 0.0,
        broken_after: int | None = None,
        error: Exception | None = None,
    ) -> None:
        self.seed = seed
        self.front_end = LogMel(num_mels=num_mels)
        self.reader = SpeechReader(self.front_end)
        self.pass_s = pass_s
        self.broken_after = broken_after
        self.error = error
        self.batch_sizes: list[int] = []
        self.info = TeacherInfo(
            index=0,
            name=f"fake-{seed}",
            folder=f"fakes/{seed}",
            digest=f"digest-{seed}",
            tokens_digest="tokens",
            vocabulary_size=VOCABULARY,
            blank=0,
            bos=1,
            eos=2,
            front_end_digest=self.reader.digest,
            frame_rate_hz=100.0,
            parameters=10 * seed,
        )

    def score(
        self,
        features: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
        masks: Masks | None = None,
    ) -> TeacherOutput:
        if masks is not None:
            features = features.masked_fill(self.reader.masked(masks, features, lengths), 0.0)
        self.batch_sizes.append(len(lengths))
        if self.pass_s:
            time.sleep(self.pass_s)
        if self.error is not None:
            raise self.error
        assert features.shape[2] == self.front_end.num_mels
        rows = len(lengths)
        frames = lengths.numpy()
        positions = prefix.lengths + 1
        log_probs = np.full((rows, int(positions.max()), VOCABULARY), np.nan, dtype=np.float32)
        for row, tokens in enumerate(prefix.strings()):
            heard = float(features[row, : int(frames[row])].double().mean())
            read = np.concatenate([[1], tokens])[:, None]
            scores = 2 * np.sin(self.seed * read + 1.7 * np.arange(VOCABULARY) + heard)
            log_probs[row, : len(read)] = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        if self.broken_after is not None and len(self.batch_sizes) > self.broken_after:
            log_probs[0, 0, 0] = np.nan
        strings = [np.array([3 + self.seed % 4], dtype=np.int64)] * rows
        unknown = np.full(rows, -1)
        ctc_errors = decoder_errors = reference_lengths = unknown
        if references is not None:
            reference_lengths = references.lengths
            strings = [string[(self.seed + len(string)) % 3 :] for string in references.strings()]
            ctc_errors = reference_lengths - np.array([len(string) for string in strings])
            decoder_errors = (self.seed * 7 + reference_lengths) % 4
        return TeacherOutput(
            teacher=0,
            log_probs=log_probs if "tokens" in wanted else None,
            positions=positions,
            strings=tuple(strings),
            frames=frames,
            ctc_errors=ctc_errors,
            decoder_errors=decoder_errors,
            reference_lengths=reference_lengths,
            confidence=np.full(rows, -0.5, dtype=np.float32),
        )

    def generate(
        self,
        features: Tensor,
        lengths: Tensor,
        prefix: Labels,
        writing: Writing,
        masks: Masks | None = None,
    ) -> Written:
        """Writes its prefix and then its seed, `beam_size` times but no more than allowed."""
        self.batch_sizes.append(len(lengths))
        if self.pass_s:
            time.sleep(self.pass_s)
        more = [3 + self.seed % 4] * min(writing.beam_size, writing.max_length)
        scores = [-(1 + (self.seed * int(frames)) % 5) / 5 for frames in lengths]
        if self.broken_after is not None and len(self.batch_sizes) > self.broken_after:
            scores[0] = np.nan
        return Written(
            Labels.of([[*string, *more] for string in prefix.strings()]),
            np.array(scores, dtype=np.float32),
            np.full(len(lengths), -7),
        )


def load_fake_teachers(folders: Sequence[Path], device: str) -> list[FakeTeacher]:
    """A pool's loader: `fakes/3` is the teacher of seed 3.

    `again/3` is another of the same name, of seed 13. `fakes/3-slow-0.5` takes half a second a
    pass, `fakes/3-nan` answers NaN, `fakes/3-error` raises, `fakes/3-missing` cannot be loaded.
    """
    teachers = []
    for folder in folders:
        seed, *trait = folder.name.split("-")
        if trait == ["missing"]:
            raise FileNotFoundError(f"{folder}: no such checkpoint")
        teachers.append(
            FakeTeacher(
                int(seed) + (10 if folder.parent.name == "again" else 0),
                # Every second teacher has another front end.
                num_mels=8 + int(seed) % 2,
                pass_s=float(trait[1]) if trait[:1] == ["slow"] else 0.0,
                broken_after=0 if trait == ["nan"] else None,
                error=ArithmeticError("overflow") if trait == ["error"] else None,
            )
        )
    return teachers


def load_after_deaths(folder: Path, folders: Sequence[Path], device: str) -> list[FakeTeacher]:
    """Load as `load_fake_teachers`, unless `folder` has a file: then take it away, and die."""
    for file in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return load_fake_teachers(folders, device)


@dataclass(frozen=True)
class LoadWhenFree:
    """Load as `load_fake_teachers`, but not while there is `file`."""

    file: Path

    def __call__(self, folders: Sequence[Path], device: str) -> list[FakeTeacher]:
        while self.file.exists():
            time.sleep(0.05)
        return load_fake_teachers(folders, device)


def waveforms(seed: int, rows: int) -> list[np.ndarray]:
    """Noise of 50 to 120 ms, int16 at 16 kHz."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(-2000, 2000, int(size), dtype=np.int16)
        for size in generator.integers(800, 1920, rows)
    ]


def request(
    seed: int,
    rows: int = 3,
    *,
    strategy: Strategy | None = None,
    references: bool = True,
    prefix: bool = False,
    wanted: frozenset[Wanted] = frozenset({"tokens", "labels"}),
    per_teacher: bool = False,
    deadline_s: float = 60.0,
    priority: int = 0,
) -> Score:
    """A request about `rows` utterances of noise."""
    generator = np.random.default_rng(seed + 1000)

    def strings() -> Labels:
        return Labels.of(
            [generator.integers(3, VOCABULARY, int(n)) for n in generator.integers(2, 6, rows)]
        )

    return Score(
        utterance_ids=tuple(f"u{seed}-{row}" for row in range(rows)),
        audio=Audio.of(waveforms(seed, rows)),
        references=strings() if references else None,
        prefix=strings() if prefix else None,
        fusion=Fusion(strategy or Weighted()),
        wanted=wanted,
        per_teacher=per_teacher,
        deadline_s=deadline_s,
        priority=priority,
    )


def writing_request(
    seed: int,
    rows: int = 3,
    *,
    beam_size: int = 2,
    prefix: bool = True,
    teacher: int | None = None,
    per_teacher: bool = False,
) -> Generate:
    """A request to write about `rows` utterances of noise."""
    generator = np.random.default_rng(seed + 2000)
    strings = [generator.integers(3, VOCABULARY, int(n)) for n in generator.integers(0, 4, rows)]
    return Generate(
        utterance_ids=tuple(f"u{seed}-{row}" for row in range(rows)),
        audio=Audio.of(waveforms(seed, rows)),
        writing=Writing(beam_size=beam_size),
        prefix=Labels.of(strings) if prefix else None,
        teacher=teacher,
        per_teacher=per_teacher,
    )
