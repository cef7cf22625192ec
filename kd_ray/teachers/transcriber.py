"""A frozen recogniser in front of text teachers: they read what it hears."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.teachers import OnTheFly, Teachers
from kd_ray.core.contracts import TeacherInfo
from kd_ray.evaluation.decode import Search
from kd_ray.evaluation.system import System, UnusableSystem, load_system
from kd_ray.teachers.teacher import info_of


@dataclass(frozen=True)
class TranscriberSpec:
    """What it takes to load a transcriber in any process."""

    folder: Path
    config: OnTheFly


class Transcriber:
    """Transcripts of requests, each made once while the cache has room.

    Utterances are told apart by what is heard: several jobs may mean other audio by the same id. It
    hears the audio as it is carried: masks are not for it.

    Args:
        system: a recogniser that writes words.
        config: how it decodes, and how many transcripts are remembered.

    Raises:
        UnusableSystem: the system reads text, or cannot decode as asked.
    """

    def __init__(self, system: System, config: OnTheFly) -> None:
        if system.reads != "speech":
            raise UnusableSystem(
                f"teachers.recognizer: {system.folder} reads text, and a recogniser hears; name "
                "the run of a recogniser"
            )
        system.require(config.decoding)
        self.info: TeacherInfo = info_of(system, -1)
        self.decoded = 0
        """Utterances that were decoded so far."""
        self._system = system
        self._head = config.decoding
        self._search = Search(
            (config.decoding,), config.beam_size, config.length_penalty, config.max_tokens
        )
        self._room = config.cache_utterances
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def __call__(
        self,
        utterance_ids: Sequence[str],
        waveforms: Sequence[NDArray[np.int16]],
        batch_size: int,
    ) -> tuple[str, ...]:
        """The detokenised transcript of each utterance, perhaps empty; at most so many a pass.

        Raises:
            UnusableSystem: the request carries no audio.
        """
        if len(waveforms) != len(utterance_ids):
            raise UnusableSystem(
                f"a recogniser is to transcribe {len(utterance_ids)} utterances and the request "
                f"carries audio of {len(waveforms)}; ask with audio, or with texts"
            )
        audio = dict(zip(utterance_ids, waveforms, strict=True))
        keys = {name: _digest(samples) for name, samples in audio.items()}
        found = {name: self._kept[key] for name, key in keys.items() if key in self._kept}
        missing = [name for name in audio if name not in found]
        for start in range(0, len(missing), batch_size):
            names = missing[start : start + batch_size]
            heard = self._system.decode_inputs([audio[name] for name in names], names, self._search)
            for each in heard:
                found[each.utterance_id] = self._system.tokens.decode(each.by(self._head))
        self.decoded += len(missing)
        for name, key in keys.items():
            self._keep(key, found[name])
        return tuple(found[name] for name in utterance_ids)

    def _keep(self, key: bytes, text: str) -> None:
        """Remember a transcript; the one that was read longest ago gives way."""
        self._kept[key] = text
        self._kept.move_to_end(key)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)


def _digest(samples: NDArray[np.int16]) -> bytes:
    heard = np.ascontiguousarray(samples).view(np.uint8).data
    return hashlib.blake2b(heard, digest_size=16).digest()


def transcriber_spec(teachers: Teachers, root: Path) -> TranscriberSpec | None:
    """What the section `teachers` says about a recogniser; None where it says nothing."""
    section = teachers.recognizer
    return None if section is None else TranscriberSpec(root / section.system, section)


def load_transcriber(spec: TranscriberSpec | None, device: str = "cpu") -> Transcriber | None:
    """The transcriber that a configuration names; None where it names none."""
    if spec is None:
        return None
    return Transcriber(load_system(spec.folder, device), spec.config)
