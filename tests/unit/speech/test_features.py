"""The front end against a slow float64 Kaldi of our own; SpecAugment by its promises."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd_ray.config.data import LogMel, SpecAugment
from kd_ray.speech.features import LogMelExtractor, front_end_digest
from kd_ray.speech.spec_augment import spec_augment


def _signal(samples: int, seed: int = 0) -> NDArray[np.int16]:
    time_s = np.arange(samples) / 16000
    tones = 3000 * np.sin(2 * np.pi * 220 * time_s) + 1500 * np.sin(2 * np.pi * 3100 * time_s)
    noise = np.random.default_rng(seed).normal(0, 400, samples)
    samples_S: NDArray[np.int16] = np.rint(tones + noise + 100).astype(np.int16)
    return samples_S


def _mel(hz: float) -> float:
    return 1127.0 * math.log(1.0 + hz / 700.0)


def kaldi_fbank_oracle(waveform: NDArray[np.int16], config: LogMel) -> NDArray[np.float64]:
    """Loops over frames, samples and filters in float64, after Kaldi's feature-window and mel."""
    shift = int(16 * config.frame_shift_ms)
    length = int(16 * config.frame_length_ms)
    fft_size = 2 ** math.ceil(math.log2(length))
    signal = waveform.astype(np.float64)
    frames = (len(signal) + shift // 2) // shift
    low, high = _mel(config.low_hz), _mel(config.high_hz)
    step = (high - low) / (config.num_mels + 1)
    result = np.zeros((frames, config.num_mels))
    for frame in range(frames):
        # Centre of the frame at (frame + 1/2) shifts, mirrored at both ends.
        begin = frame * shift + shift // 2 - length // 2
        window = []
        for place in range(begin, begin + length):
            while not 0 <= place < len(signal):
                place = -place - 1 if place < 0 else 2 * len(signal) - 1 - place
            window.append(signal[place])
        centred = np.array(window) - np.mean(window)
        emphasised = centred.copy()
        for place in range(length):
            emphasised[place] -= 0.97 * centred[max(0, place - 1)]
        for place in range(length):
            hann = 0.5 - 0.5 * math.cos(2 * math.pi * place / (length - 1))
            emphasised[place] *= hann**0.85
        power = np.abs(np.fft.rfft(emphasised, fft_size)) ** 2
        for channel in range(config.num_mels):
            left = low + channel * step
            energy = 0.0
            for bin_ in range(fft_size // 2):
                mel = _mel(bin_ * 16000 / fft_size)
                up, down = (mel - left) / step, (left + 2 * step - mel) / step
                energy += max(0.0, min(up, down)) * power[bin_]
            result[frame, channel] = math.log(max(energy, float(np.finfo(np.float32).eps)))
    return result


@pytest.mark.parametrize(
    ("config", "samples"),
    [
        (LogMel(), 1999),
        (LogMel(num_mels=23, frame_length_ms=20, frame_shift_ms=12.5, high_hz=8000), 1600),
        (LogMel(num_mels=8, frame_length_ms=10, frame_shift_ms=15, low_hz=100), 1200),
    ],
    ids=["default", "shorter frames", "gaps between frames"],
)
def test_features_are_kaldi_s(config: LogMel, samples: int) -> None:
    waveform = _signal(samples)
    features, lengths = LogMelExtractor(config)([waveform])
    expected = kaldi_fbank_oracle(waveform, config)
    assert lengths.tolist() == [len(expected)]
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features[0].numpy(), expected, atol=1e-3, rtol=0)


def test_digital_silence_is_the_floor_and_finite() -> None:
    features, _ = LogMelExtractor(LogMel())([np.zeros(1600, dtype=np.int16)])
    assert torch.all(features == math.log(torch.finfo(torch.float32).eps))


@pytest.mark.parametrize("shift_ms", [10.0, 12.5, 30.0])
def test_num_frames_is_exact(shift_ms: float) -> None:
    extractor = LogMelExtractor(LogMel(num_mels=8, frame_shift_ms=shift_ms))
    first = extractor.min_samples
    shift = round(16 * shift_ms)
    for samples in {*range(first, first + 2 * shift, 7), first + shift // 2 - 1, 5 * shift}:
        features, lengths = extractor([_signal(samples)])
        assert features.shape[1] == lengths.item() == extractor.num_frames(samples)


def test_features_do_not_depend_on_batch_mates() -> None:
    extractor = LogMelExtractor(LogMel())
    waveforms = [_signal(n, seed) for seed, n in enumerate((3000, 8000, 5001))]
    together, lengths = extractor(waveforms)
    for row, waveform in enumerate(waveforms):
        alone, length = extractor([waveform])
        assert length.item() == lengths[row].item()
        assert torch.equal(together[row, : lengths[row]], alone[0])
        assert torch.all(together[row, lengths[row] :] == 0)


def test_an_empty_batch_has_no_rows() -> None:
    features, lengths = LogMelExtractor(LogMel())([])
    assert features.shape == (0, 0, 40)
    assert lengths.shape == (0,)


def test_wrong_waveforms_are_refused() -> None:
    extractor = LogMelExtractor(LogMel())
    with pytest.raises(ValueError, match=r"waveform 1 of the batch is float32"):
        extractor([_signal(1600), _signal(1600).astype(np.float32)])
    with pytest.raises(ValueError, match="has 399 samples; at least 400"):
        extractor([_signal(399)])
    extractor([_signal(400)])


def test_settings_that_cannot_work_are_refused_or_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match="low_hz"):
        LogMelExtractor(LogMel(low_hz=5000, high_hz=4000))
    with pytest.raises(ValueError, match="shorter than a sample"):
        LogMelExtractor(LogMel(frame_shift_ms=0.01))
    with caplog.at_level(logging.WARNING):
        LogMelExtractor(LogMel(num_mels=128))
    assert "mel filters cover no bin" in caplog.text


def test_the_digest_changes_with_every_setting() -> None:
    changes: list[dict[str, float]] = [
        {},
        {"num_mels": 41},
        {"frame_length_ms": 20},
        {"frame_shift_ms": 12},
        {"low_hz": 0},
        {"high_hz": 8000},
    ]
    digests = {front_end_digest(LogMel.model_validate(change)) for change in changes}
    assert len(digests) == len(changes)
    assert front_end_digest(LogMel()) == front_end_digest(LogMel(num_mels=40))


def _masked(
    ids: list[str],
    lengths: list[int],
    config: SpecAugment,
    *,
    seed: int = 1,
    epoch: int = 0,
    frames: int | None = None,
) -> torch.Tensor:
    ones = torch.ones(len(ids), frames or max(lengths), 20)
    return spec_augment(
        ones,
        torch.tensor(lengths),
        config,
        seed=seed,
        utterance_ids=ids,
        epoch=epoch,
        frame_shift_s=0.01,
    )


@settings(max_examples=80, deadline=None)
@given(
    length=st.integers(1, 120),
    epoch=st.integers(0, 1000),
    max_time_s=st.floats(0, 2),
    max_frequency=st.floats(0, 1),
)
def test_masks_stay_within_their_limits(
    length: int, epoch: int, max_time_s: float, max_frequency: float
) -> None:
    one_of_each = SpecAugment(
        time_masks=1, max_time_s=max_time_s, frequency_masks=1, max_frequency=max_frequency
    )
    masked = _masked(["u"], [length], one_of_each, epoch=epoch, frames=length + 5)[0]
    assert torch.all(masked[length:] == 1)
    frames = (masked[:length] == 0).all(dim=1)
    mels = (masked[:length] == 0).all(dim=0)
    assert mels.sum() <= max_frequency * 20 + 1e-3
    if not mels.all():
        assert frames.sum() <= min(length / 5, max_time_s / 0.01 + 1e-3)
        # One contiguous run: the number of changes along time is at most two.
        assert (frames[1:] != frames[:-1]).sum() <= 2
        assert torch.equal(masked[:length] == 0, frames[:, None] | mels[None, :])


def test_masks_depend_on_seed_id_and_epoch_only() -> None:
    config = SpecAugment(max_time_s=0.3)
    together = _masked(["a", "b", "c"], [90, 200, 150], config)
    again = _masked(["c", "a"], [150, 90], config)
    assert torch.equal(together[2, :150], again[0])
    assert torch.equal(together[0, :90], again[1, :90])
    assert not torch.equal(together[2, :150], _masked(["c"], [150], config, epoch=1)[0])
    assert not torch.equal(together[2, :150], _masked(["c"], [150], config, seed=2)[0])
    assert not torch.equal(together[2, :150], _masked(["d"], [150], config)[0])


def test_masks_reach_their_largest_width_and_every_place() -> None:
    config = SpecAugment(time_masks=1, max_time_s=0.05, frequency_masks=0)
    widths, starts, ends = set(), set(), set()
    for epoch in range(300):
        frames = (_masked(["u"], [25], config, epoch=epoch)[0] == 0).all(dim=1)
        widths.add(int(frames.sum()))
        if frames.any():
            places = frames.nonzero()
            starts.add(int(places[0]))
            ends.add(int(places[-1]))
    assert widths == {0, 1, 2, 3, 4, 5}
    assert min(starts) == 0
    assert max(ends) == 24


def test_the_input_stays_and_nan_in_padding_stays_where_it_is() -> None:
    features = torch.randn(1, 50, 20)
    features[0, 40:] = torch.nan
    before = features.clone()
    masked = spec_augment(
        features,
        torch.tensor([40]),
        SpecAugment(max_time_s=0.1, max_frequency=0.5),
        seed=0,
        utterance_ids=["u"],
        epoch=0,
        frame_shift_s=0.01,
    )
    assert torch.equal(features.nan_to_num(9), before.nan_to_num(9))
    assert not masked[0, :40].isnan().any()
    assert masked[0, 40:].isnan().all()


def test_zero_masks_change_nothing() -> None:
    none = SpecAugment(time_masks=0, frequency_masks=0)
    assert torch.all(_masked(["a"], [30], none) == 1)


def test_lengths_and_ids_must_fit_the_features() -> None:
    with pytest.raises(ValueError, match="2 rows, 1 lengths, 2 ids"):
        _masked(["a", "b"], [30], SpecAugment(), frames=30)


@pytest.mark.parametrize(("share", "longest"), [(0.2, 4), (1.0, 20)])
def test_a_time_mask_is_at_most_its_share_of_the_utterance(share, longest):
    masks = SpecAugment(time_masks=1, max_time_s=1.0, max_time_share=share, frequency_masks=0)
    widths = []
    for epoch in range(60):
        masked = spec_augment(
            torch.ones(1, 20, 4), torch.tensor([20]), masks,
            seed=1, utterance_ids=["a"], epoch=epoch, frame_shift_s=0.01,
        )  # fmt: skip
        widths.append(int((masked[0, :, 0] == 0).sum()))
    assert max(widths) == longest
    assert min(widths) == 0
