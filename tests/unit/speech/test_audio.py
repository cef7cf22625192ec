"""Waveforms: the samples of the file where they can be had exactly, and errors that name it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from kd_ray.speech.audio import AudioError, read_duration_s, read_waveform
from kd_ray.speech.manifest import Utterance


def _noise(samples: int = 4000, channels: int = 1) -> NDArray[np.int16]:
    shape = (samples, channels) if channels > 1 else (samples,)
    return np.random.default_rng(0).integers(-9000, 9000, shape).astype(np.int16)


def _read(root: Path, name: str = "a.wav", **fields: Any) -> NDArray[np.int16]:
    return read_waveform(Utterance("u1", audio=name, **fields), root)


@pytest.mark.parametrize("kind", ["wav", "flac", "nist"])
def test_16_bit_files_come_back_exactly(tmp_path: Path, kind: str) -> None:
    noise = _noise()
    soundfile.write(tmp_path / "a", noise, 16000, subtype="PCM_16", format=kind.upper())
    waveform = _read(tmp_path, "a")
    assert waveform.dtype == np.int16
    np.testing.assert_array_equal(waveform, noise)


def test_mp3_is_decoded(tmp_path: Path) -> None:
    time_s = np.arange(32000) / 16000
    tone = (8000 * np.sin(2 * np.pi * 440 * time_s)).astype(np.int16)
    soundfile.write(tmp_path / "a.mp3", tone, 16000)
    waveform = _read(tmp_path, "a.mp3")
    assert abs(len(waveform) / 16000 - 2.0) < 0.1
    peak_hz = np.argmax(np.abs(np.fft.rfft(waveform[4000:20000]))) * 1.0
    assert peak_hz == pytest.approx(440, abs=1)


def test_segment_and_channel_are_cut_out(tmp_path: Path) -> None:
    noise = _noise(16000, channels=2)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    waveform = _read(tmp_path, offset_s=0.25, duration_s=0.5, channel=1)
    np.testing.assert_array_equal(waveform, noise[4000:12000, 1])
    np.testing.assert_array_equal(_read(tmp_path, offset_s=0.25), noise[4000:, 0])


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_samples_are_rounded_and_clipped(tmp_path: Path, subtype: str) -> None:
    values = np.array([0.0, 0.5, -1.0, 1.0, 1.5, -7.0, 0.6 / 32768, -0.6 / 32768] * 100)
    soundfile.write(tmp_path / "a.wav", values, 16000, subtype=subtype)
    expected = [0, 16384, -32768, 32767, 32767, -32768, 1, -1]
    np.testing.assert_array_equal(_read(tmp_path), np.array(expected * 100, dtype=np.int16))


def test_24_bit_samples_are_rounded(tmp_path: Path) -> None:
    values = np.array([1 << 16, -(1 << 24), (1 << 23) + (1 << 15), (1 << 31) - 1] * 100)
    soundfile.write(tmp_path / "a.wav", values.astype(np.int32), 16000, subtype="PCM_24")
    np.testing.assert_array_equal(_read(tmp_path)[:4], [1, -256, 128, 32767])


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    time_s = np.arange(rate) / rate
    tone = (8000 * np.sin(2 * np.pi * 300 * time_s)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", tone, rate)
    waveform = _read(tmp_path)
    assert abs(len(waveform) - 16000) <= 1
    expected = 8000 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)
    inner = slice(500, 15500)
    assert np.abs(waveform[inner] - expected[inner]).max() < 40


def test_resampling_clips_instead_of_wrapping(tmp_path: Path) -> None:
    square = np.where(np.arange(8000) // 40 % 2, 32767, -32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", square, 8000)
    waveform = _read(tmp_path).astype(int)
    assert waveform.max() == 32767
    # A wrapped overshoot would be a spike of the other sign within a plateau.
    assert (np.sign(waveform[8:72]) == -1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "none.wav"}, "none.wav.*u1.*no such file"),
        ({"name": "text.wav"}, "cannot be read"),
        ({"name": "folder"}, "is a folder"),
        ({"name": "empty.wav"}, "no samples"),
        ({"name": "nan.wav"}, "1 of 4000 samples are NaN or infinite"),
        ({"channel": 1}, "channel 1"),
        ({"offset_s": 0.3}, "offset of 0.3 s in a file of 0.250 s"),
        ({"offset_s": -0.1}, "offset of -0.1 s"),
        ({"offset_s": float("nan")}, "offset of nan s"),
        ({"duration_s": 0.0}, "duration of 0 s"),
        ({"duration_s": float("inf")}, "duration of inf s"),
        ({"duration_s": 0.5}, "ends at 0.500 s, the file at 0.250 s"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unusable_audio_names_file_and_reason(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    soundfile.write(tmp_path / "a.wav", _noise(), 16000)
    soundfile.write(tmp_path / "empty.wav", _noise(0), 16000)
    with_nan = np.zeros(4000, dtype=np.float32)
    with_nan[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", with_nan, 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudioError, match=message) as caught:
        _read(tmp_path, **fields)
    assert caught.value.utterance_id == "u1"


def test_a_row_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="names no audio file"):
        read_waveform(Utterance("u1"), tmp_path)


def test_a_truncated_file_is_an_error_not_a_short_utterance(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", _noise(160000), 16000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"a\.flac"):
        _read(tmp_path, "a.flac", duration_s=10.0)
    with pytest.raises(AudioError, match=r"a\.flac"):
        _read(tmp_path, "a.flac")


def test_duration_comes_from_the_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", _noise(8000), 8000)
    assert read_duration_s(Utterance("u", audio="a.wav"), tmp_path) == 1.0
    assert read_duration_s(Utterance("u", audio="a.wav", offset_s=0.25), tmp_path) == 0.75
    assert read_duration_s(Utterance("u", audio="a.wav", duration_s=0.5), tmp_path) == 0.5
    assert read_duration_s(Utterance("u", audio="a.wav", duration_s=1.05), tmp_path) == 1.0
    with pytest.raises(AudioError, match="no such file"):
        read_duration_s(Utterance("u", audio="b.wav"), tmp_path)
