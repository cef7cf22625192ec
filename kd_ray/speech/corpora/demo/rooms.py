"""What happens to clean speech: resampling, a room, noise, level. numpy only, seeded throughout.

Shapes: S samples, mono, float64 between -1 and 1 unless said otherwise; 16 kHz.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

Samples = NDArray[np.float64]

_ZERO_CROSSINGS = 16


@lru_cache(maxsize=64)
def _filter_bank(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Windowed-sinc filters (up, taps), one for each fractional position, and their centre."""
    cutoff = 0.95 * min(1.0, up / down)
    half = int(np.ceil(_ZERO_CROSSINGS / cutoff))
    offsets = np.arange(-half, half + 1)[None, :] - np.arange(up)[:, None] / up
    window = np.kaiser(2048, 9.0)
    positions = np.clip((offsets / (half + 1) + 1) / 2 * 2047, 0, 2047)
    shape = np.interp(positions, np.arange(2048), window)
    return cutoff * np.sinc(cutoff * offsets) * shape, half


def resample(samples: Samples, from_hz: int, to_hz: int = SAMPLE_RATE) -> Samples:
    """Change the sample rate of (S,) by a polyphase windowed sinc (cut-off at 95 % of Nyquist)."""
    divisor = gcd(from_hz, to_hz)
    up, down = to_hz // divisor, from_hz // divisor
    if up == down:
        return samples
    bank, half = _filter_bank(up, down)
    count = len(samples) * up // down
    position = np.arange(count, dtype=np.int64) * down
    padded = np.pad(samples, (half, half + 1))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    # einsum without BLAS: the sum's order must not depend on the number of threads.
    resampled: Samples = np.einsum("st,st->s", frames[position // up], bank[position % up])
    return resampled


def trim(samples: Samples, threshold: float = 1e-3) -> Samples:
    """Cut silence from both ends; all-silent samples come back unchanged."""
    loud = np.flatnonzero(np.abs(samples) > threshold)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def room_response(random: Generator, *, rt60_s: float, direct_to_reverberant_db: float) -> Samples:
    """A synthetic impulse response: direct sound, six early reflections, decaying noise.

    The tail falls by 60 dB in `rt60_s`; all that follows the direct sound has
    `direct_to_reverberant_db` less energy than it.
    """
    count = max(1, round(rt60_s * SAMPLE_RATE))
    time_s = np.arange(count) / SAMPLE_RATE
    tail = random.standard_normal(count) * 10 ** (-3 * time_s / rt60_s)
    tail[: round(0.005 * SAMPLE_RATE)] = 0.0
    for delay_s in random.uniform(0.002, 0.035, size=6):
        index = round(delay_s * SAMPLE_RATE)
        if index < count:
            tail[index] += (
                random.choice((-1.0, 1.0)) * random.uniform(2.0, 6.0) * (1 - delay_s * 20)
            )
    energy = float(np.sum(tail**2))
    if energy > 0:
        tail *= np.sqrt(10 ** (-direct_to_reverberant_db / 10) / energy)
    tail[0] = 1.0
    return tail


def convolve(samples: Samples, response: Samples) -> Samples:
    """Apply an impulse response; (S,) in, (S,) out, what rings on after the end is cut."""
    size = 1 << (len(samples) + len(response) - 1).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(samples)]


def tilted_noise(random: Generator, count: int, tilt: float) -> Samples:
    """Noise (count,), power as frequency**-tilt above 50 Hz: 0 white, 1 pink, 2 brown."""
    size = 1 << (count - 1).bit_length()  # a prime length would make the transform slow
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50.0)
    spectrum = np.fft.rfft(random.standard_normal(size)) * frequency ** (-tilt / 2)
    return np.fft.irfft(spectrum, size)[:count]


def babble(random: Generator, count: int, talkers: Sequence[Samples], voices: int) -> Samples:
    """Several of `talkers` at once (count,), each from a random place, repeated as needed."""
    mixed = np.zeros(count)
    for index in random.integers(len(talkers), size=voices):
        talker = talkers[int(index)]
        start = int(random.integers(len(talker)))
        mixed += np.take(talker, np.arange(start, start + count), mode="wrap") / rms(talker)
    return mixed


def rms(samples: Samples) -> float:
    """Root mean square, never zero."""
    return float(np.sqrt(np.mean(samples**2)) + 1e-9)


def add_noise(speech: Samples, noise: Samples, snr_db: float, speech_rms: float) -> Samples:
    """Noise added so that it lies `snr_db` below `speech_rms`, the level while someone speaks."""
    return speech + noise * (speech_rms / rms(noise) * 10 ** (-snr_db / 20))


def to_int16(samples: Samples, level_db: float) -> NDArray[np.int16]:
    """Scale to `level_db` (root mean square, re full scale), lower where peaks would clip."""
    scaled = samples * (10 ** (level_db / 20) / rms(samples))
    scaled *= min(1.0, 0.98 / float(np.max(np.abs(scaled))))
    return np.round(scaled * 32767).astype(np.int16)
