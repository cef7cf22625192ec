import numpy as np
import pytest

from kd_ray.speech.corpora.demo import rooms


def sine(frequency, rate, seconds=0.5):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("from_hz", [22_050, 20_700, 23_400, 16_000, 8_000])
@pytest.mark.parametrize("frequency", [100.0, 1_000.0, 3_000.0])
def test_resampling_keeps_a_tone(from_hz, frequency):
    got = rooms.resample(sine(frequency, from_hz), from_hz)
    expected = sine(frequency, rooms.SAMPLE_RATE)[: len(got)]
    assert len(got) == int(0.5 * from_hz) * 16_000 // from_hz
    inner = slice(200, -200)
    assert np.max(np.abs(got[inner] - expected[inner])) < 2e-3


def test_resampling_removes_what_would_alias():
    got = rooms.resample(sine(9_500.0, 22_050), 22_050)
    assert rooms.rms(got[200:-200]) < 1e-3


def test_convolution_equals_the_sum():
    random = np.random.default_rng(0)
    samples, response = random.standard_normal(200), random.standard_normal(37)
    expected = np.convolve(samples, response)[:200]
    assert np.allclose(rooms.convolve(samples, response), expected, atol=1e-10)


def test_room_has_the_wanted_energy_and_decay():
    response = rooms.room_response(
        np.random.default_rng(1), rt60_s=0.4, direct_to_reverberant_db=6.0
    )
    assert response[0] == 1.0
    assert 10 * np.log10(1 / np.sum(response[1:] ** 2)) == pytest.approx(6.0, abs=1e-6)
    quarter = len(response) // 4
    # 60 dB over the whole length: 30 dB between the second and the last quarter.
    fall = 20 * np.log10(
        rooms.rms(response[quarter : 2 * quarter]) / rooms.rms(response[-quarter:])
    )
    assert fall == pytest.approx(30.0, abs=4.0)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_lies_at_the_wanted_ratio(snr_db):
    random = np.random.default_rng(2)
    speech, noise = 0.1 * random.standard_normal(5_000), 7.0 * random.standard_normal(5_000)
    added = rooms.add_noise(speech, noise, snr_db, rooms.rms(speech)) - speech
    assert 20 * np.log10(rooms.rms(speech) / rooms.rms(added)) == pytest.approx(snr_db, abs=1e-3)


@pytest.mark.parametrize(("tilt", "expected_db"), [(0.0, 0.0), (1.0, 10.0), (2.0, 20.0)])
def test_tilted_noise_falls_with_frequency(tilt, expected_db):
    power = np.abs(np.fft.rfft(rooms.tilted_noise(np.random.default_rng(3), 1 << 15, tilt))) ** 2
    frequency = np.fft.rfftfreq(1 << 15, 1 / 16_000)
    low = power[(frequency > 280) & (frequency < 320)].mean()
    high = power[(frequency > 2_800) & (frequency < 3_200)].mean()
    assert 10 * np.log10(low / high) == pytest.approx(expected_db, abs=1.5)


def test_babble_is_repeatable_and_longer_than_its_talkers():
    talkers = [sine(200.0, 16_000, 0.05), sine(330.0, 16_000, 0.07)]
    first = rooms.babble(np.random.default_rng(4), 5_000, talkers, voices=3)
    again = rooms.babble(np.random.default_rng(4), 5_000, talkers, voices=3)
    assert first.shape == (5_000,)
    assert np.array_equal(first, again)
    assert np.all(np.isfinite(first))


def test_level_is_set_and_peaks_never_clip():
    samples = np.random.default_rng(5).standard_normal(4_000)
    quiet = rooms.to_int16(samples, -30.0)
    assert 20 * np.log10(rooms.rms(quiet / 32768)) == pytest.approx(-30.0, abs=0.1)
    spiky = np.zeros(4_000)
    spiky[7] = 1.0
    assert int(np.max(np.abs(rooms.to_int16(spiky, -1.0)))) == round(0.98 * 32767)


def test_trim_cuts_silence_but_keeps_an_all_silent_signal():
    samples = np.concatenate([np.zeros(10), np.ones(5), np.zeros(3)])
    assert len(rooms.trim(samples)) == 5
    assert len(rooms.trim(np.zeros(4))) == 4
