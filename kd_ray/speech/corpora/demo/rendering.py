"""One utterance from its description to samples; workers do nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.speech.corpora.demo import rooms
from kd_ray.speech.corpora.demo.synthesizer import ESPEAK_RATE_HZ, Voice, speak


@dataclass(frozen=True)
class Job:
    """All that decides the samples of an utterance, drawn beforehand: jobs run in any order."""

    id: str
    path: str
    """FLAC file, relative to the corpus folder."""
    text: str
    voice: Voice
    seed: int
    """Of the synthesiser's flutter, the room and the noise."""
    snr_db: float
    noise_tilt: float | None
    """Power of the noise as frequency**-tilt; None: babble of other voices."""
    rt60_s: float | None
    """Reverberation time; None: dry."""
    direct_to_reverberant_db: float
    lead_s: float
    tail_s: float
    level_db: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Job":
        """The inverse of `to_dict`."""
        return cls(**{**values, "voice": Voice(**values["voice"])})


def dry_speech(text: str, voice: Voice, *, seed: int) -> rooms.Samples:
    """Clean speech (S,) at 16 kHz without silence at its ends."""
    samples = speak(text, voice, seed=seed).astype(np.float64) / 32768
    # Taken for a recording at another rate, speech comes from a longer or shorter vocal tract.
    recorded_hz = round(ESPEAK_RATE_HZ * voice.tract / 50) * 50
    return rooms.trim(rooms.resample(samples, recorded_hz))


def render(job: Job, talkers: Sequence[rooms.Samples]) -> NDArray[np.int16]:
    """Samples (S,) at 16 kHz; a function of the arguments alone.

    Args:
        job: what to speak and how it sounds.
        talkers: clean speech for babble.
    """
    speech = dry_speech(job.text, job.voice, seed=job.seed)
    level = rooms.rms(speech)
    ends = [round(seconds * rooms.SAMPLE_RATE) for seconds in (job.lead_s, job.tail_s)]
    samples = np.pad(speech, ends)
    room_random, noise_random = (np.random.default_rng([job.seed, part]) for part in (0, 1))
    if job.rt60_s is not None:
        response = rooms.room_response(
            room_random,
            rt60_s=job.rt60_s,
            direct_to_reverberant_db=job.direct_to_reverberant_db,
        )
        samples = rooms.convolve(samples, response)
    if job.noise_tilt is None:
        voices = int(noise_random.integers(3, 7))
        noise = rooms.babble(noise_random, len(samples), talkers, voices)
    else:
        noise = rooms.tilted_noise(noise_random, len(samples), job.noise_tilt)
    return rooms.to_int16(rooms.add_noise(samples, noise, job.snr_db, level), job.level_db)
