"""Waveforms: any file that libsndfile reads becomes mono, 16 kHz, int16.

A file of its own or a piece of a tar shard, on the disk or at an address.

S samples at 16 kHz.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample

from kd_ray.config.places import address_of
from kd_ray.core.errors import PortableError
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.shards import audio_source, piece_of
from kd_ray.storage import shown

SAMPLE_RATE = 16000
"""Of every waveform inside kd_ray, in Hz."""

DURATION_TOLERANCE_S = 0.1
"""How much of a segment a file may lack: two frames of MP3 at 44.1 kHz are 52 ms."""

# What libsndfile decodes to 16 bits without rounding; everything else is rounded here, because its
# own conversion wraps or rescales values beyond full scale for some formats.
_INT16_SUBTYPES = frozenset({"PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW"})


class AudioError(PortableError, ValueError):
    """Audio that cannot be used; names the utterance, the file and the reason."""

    def __init__(self, utterance: Utterance, path: Path | None, reason: str) -> None:
        self.utterance_id = utterance.id
        self.path = path
        self.reason = reason
        where = "" if path is None else f" of {shown(path)}"
        super().__init__(f"audio{where} (utterance {utterance.id}): {reason}")


def audio_path(utterance: Utterance, root: Path) -> Path:
    """Where the file is; `AudioError` for a row without audio."""
    if utterance.audio is None:
        raise AudioError(utterance, None, "the row names no audio file")
    return root / utterance.audio


@dataclass(frozen=True)
class Header:
    """What a file's header says; `samples` per channel, at `sample_rate` Hz."""

    samples: int
    sample_rate: int
    channels: int


def read_header(path: Path) -> Header:
    """The header of a file; `OSError` or `soundfile.SoundFileError` if it cannot be read."""
    with audio_source(path) as source, soundfile.SoundFile(source) as file:
        return Header(file.frames, file.samplerate, file.channels)


def segment_fault(utterance: Utterance, header: Header) -> str | None:
    """Why the row's channel or segment is not in a file with this header; None if it is."""
    if header.samples == 0:
        return "the file holds no samples"
    if not 0 <= utterance.channel < header.channels:
        return f"channel {utterance.channel}, counted from 0, of {header.channels} channel(s)"
    if not 0 <= utterance.offset_s < math.inf:
        return f"offset of {utterance.offset_s:g} s; it must be 0 or more"
    if utterance.duration_s is not None and not 0 < utterance.duration_s < math.inf:
        return f"duration of {utterance.duration_s:g} s; it must be positive"
    length_s = header.samples / header.sample_rate
    if round(utterance.offset_s * header.sample_rate) >= header.samples:
        return f"offset of {utterance.offset_s:g} s in a file of {length_s:.3f} s"
    end_s = utterance.offset_s + (utterance.duration_s or 0.0)
    if end_s > length_s + DURATION_TOLERANCE_S:
        return f"the segment ends at {end_s:.3f} s, the file at {length_s:.3f} s"
    return None


def segment_duration_s(utterance: Utterance, header: Header) -> float:
    """Seconds of the row's segment in a file with this header."""
    rest_s = header.samples / header.sample_rate - utterance.offset_s
    return rest_s if utterance.duration_s is None else min(rest_s, utterance.duration_s)


def read_duration_s(utterance: Utterance, root: Path) -> float:
    """Seconds of the segment, from the file's header; `AudioError` if it cannot be read."""
    path = audio_path(utterance, root)
    try:
        header = read_header(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(utterance, path, unreadable(path, error)) from error
    fault = segment_fault(utterance, header)
    if fault is not None:
        raise AudioError(utterance, path, fault)
    return segment_duration_s(utterance, header)


def read_waveform(utterance: Utterance, root: Path) -> NDArray[np.int16]:
    """The segment of one channel (S,), mono, 16 kHz.

    Other sample rates are resampled. Float, 24 and 32 bit samples are scaled so that 1.0 is 32768,
    rounded and clipped to 16 bits.

    Raises:
        AudioError: missing or unreadable file, no samples, NaN or infinity, a channel or segment
            outside the file.
    """
    path = audio_path(utterance, root)
    try:
        with audio_source(path) as source, soundfile.SoundFile(source) as file:
            rate: int = file.samplerate
            fault = segment_fault(utterance, Header(file.frames, rate, file.channels))
            if fault is not None:
                raise AudioError(utterance, path, fault)
            start = round(utterance.offset_s * rate)
            rest = file.frames - start
            seconds = utterance.duration_s
            wanted = rest if seconds is None else min(rest, round(seconds * rate))
            exact = file.subtype in _INT16_SUBTYPES
            file.seek(start)
            samples = file.read(wanted, dtype="int16" if exact else "float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(utterance, path, unreadable(path, error)) from error
    channel = np.ascontiguousarray(samples[:, utterance.channel])
    if len(channel) < wanted - round(DURATION_TOLERANCE_S * rate):
        # A header can promise more than a truncated file holds.
        reason = f"only {len(channel) / rate:.3f} s of {wanted / rate:.3f} s could be decoded"
        raise AudioError(utterance, path, reason)
    if not exact and not np.isfinite(channel).all():
        bad = int(np.count_nonzero(~np.isfinite(channel)))
        raise AudioError(utterance, path, f"{bad} of {len(channel)} samples are NaN or infinite")
    waveform = _to_16_khz(channel, rate)
    if len(waveform) == 0:
        raise AudioError(utterance, path, "the segment holds no samples")
    return waveform


def unreadable(path: Path, error: Exception) -> str:
    """Why a file could not be opened or decoded, in one line."""
    elsewhere = piece_of(path) is not None or address_of(path) is not None
    if isinstance(error, FileNotFoundError) or not (elsewhere or path.exists()):
        return "no such file"
    if path.is_dir():
        return "is a folder"
    return f"cannot be read: {' '.join(str(error).split())}"


def _to_16_khz(samples: NDArray[np.int16] | NDArray[np.float32], rate: int) -> NDArray[np.int16]:
    if samples.dtype == np.int16 and rate == SAMPLE_RATE:
        return samples.astype(np.int16, copy=False)
    scaled = samples.astype(np.float32)
    if samples.dtype != np.int16:
        scaled *= 32768.0
    if rate != SAMPLE_RATE:
        scaled = resample(torch.from_numpy(scaled), rate, SAMPLE_RATE).numpy()
    return np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)
