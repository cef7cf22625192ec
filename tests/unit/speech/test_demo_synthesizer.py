# ruff: noqa: RUF001
import sys

import numpy as np
import pytest

from kd_ray.speech.corpora.demo import synthesizer
from kd_ray.speech.corpora.demo.phones import PHONES, UnknownPhoneError, normalize_phones
from kd_ray.speech.corpora.demo.synthesizer import SynthesisError, Voice, speak, transcribe

pytest.importorskip("espeakng_loader")

VOICES = [
    Voice("en-us", "f2", 50, 50, 175),
    Voice("en-gb-scotland", "m7", 35, 30, 150),
    Voice("en", "klatt2", 60, 70, 210),
]


def test_speech_does_not_depend_on_what_was_spoken_before():
    texts = ["the dog sleeps", "we must go home now", "she is tired"]
    first = [speak(text, voice, seed=1) for text, voice in zip(texts, VOICES, strict=True)]
    backwards = [
        speak(text, voice, seed=1)
        for text, voice in reversed(list(zip(texts, VOICES, strict=True)))
    ]
    for before, after in zip(first, reversed(backwards), strict=True):
        assert before.dtype == np.int16
        assert np.array_equal(before, after)


def test_voice_speed_and_seed_change_the_samples():
    base = speak("the dog sleeps", VOICES[0], seed=1)
    assert not np.array_equal(base, speak("the dog sleeps", VOICES[1], seed=1))
    assert not np.array_equal(base, speak("the dog sleeps", VOICES[0], seed=2))
    slow = Voice("en-us", "f2", 50, 50, 120)
    assert len(speak("the dog sleeps", slow, seed=1)) > 1.2 * len(base)


def test_every_accent_and_variant_exists():
    with synthesizer._fresh_library() as library:
        for accent in synthesizer.ACCENTS:
            synthesizer._set_voice(library, f"{accent}+f2")
        for variant in synthesizer.VARIANTS:
            synthesizer._set_voice(library, f"en-us+{variant}")


def test_unknown_voice_is_named():
    with pytest.raises(SynthesisError, match=r"no voice 'en-us\+nobody'"):
        speak("hello", Voice("en-us", "nobody", 50, 50, 175), seed=1)


def test_a_resident_library_is_refused_instead_of_leaking_state():
    with (
        synthesizer._fresh_library(),
        pytest.raises(SynthesisError, match="already loaded in this process"),
    ):
        speak("hello", VOICES[0], seed=1)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SynthesisError, match=r"pip install 'kd-ray\[demo\]'"):
        transcribe(["hello"])


def test_phones_are_canonical_and_independent_of_order():
    texts = ["she likes the water", "the letter is on the table", "this car is cheap"]
    phones = transcribe(texts)
    assert phones[2] == "dh ih s k aa r ih z ch iy p"
    assert transcribe(texts[::-1]) == phones[::-1]
    assert all(set(text.split()) <= set(PHONES) for text in phones)


def test_inventory_is_compact():
    assert len(PHONES) == 41


def test_marks_language_switches_and_combinations_are_normalised():
    assert normalize_phones("(en)h_ə_l_ˈoʊ(de) k_ˈɑːɹ_z") == [
        *("hh", "ax", "l", "ow"),
        *("k", "aa", "r", "z"),
    ]
    assert normalize_phones("") == []


def test_unknown_phones_are_named():
    with pytest.raises(UnknownPhoneError, match="'ʁ'"):
        normalize_phones("ʁ_ˈuː")
