"""espeak-ng through ctypes: text to samples, text to phones, the same on every run.

espeak-ng keeps the phase of its oscillators, its flutter and its noise generator in static
variables, so that an utterance depends on those before it; `espeak_Terminate` does not reset them
(tried with 1.52), and its random generator starts from the clock. So the library is loaded anew for
every utterance (about 4 ms) and its random generator seeded: the samples are then a function of the
arguments alone. Unix only, as it relies on `dlclose`.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.data import Accent
from kd_ray.speech.corpora.demo.errors import SynthesisError
from kd_ray.speech.corpora.demo.phones import normalize_phones

ESPEAK_RATE_HZ = 22050
"""What espeak-ng puts out."""

REFERENCE_VOICE = "en-us"
"""Phones are the pronunciation of this accent, whatever accent speaks: one canonical label."""

ACCENTS: tuple[str, ...] = get_args(Accent)
"""Voices that speak English differently."""

_VARIANTS = """
f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2
Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen Reed adam anika antonio aunty belinda
benjamin boris caleb david ed edward edward2 grandma grandpa gustave ian iven iven2 iven3 iven4
john kaukovalta linda marcelo max michel miguel mike2 norbert pablo paul pedro quincy rob robert
sandro shelby steph steph2 steph3 travis victor zac klatt klatt2 klatt3
"""
VARIANTS = tuple(_VARIANTS.split())
"""Speakers (formants, breath, pitch) that any accent can be spoken by."""

_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
# Of 200; at the default of 100 a fifth of the variants clip inside espeak-ng, now hardly any.
_QUIET = 60
_IPA_SEPARATED = 0x02 | (ord("_") << 8)

_SampleCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """How a speaker sounds. `tract` scales all frequencies, and with them the tempo."""

    accent: str
    variant: str
    pitch: int
    """0 to 99, 50 is the variant's own."""
    pitch_range: int
    rate_wpm: int
    tract: float = 1.0

    @property
    def name(self) -> str:
        """espeak-ng's name of the voice."""
        return f"{self.accent}+{self.variant}"


def _paths() -> tuple[str, str]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise SynthesisError(
            "the demo corpus needs the package espeakng-loader: pip install 'kd-ray[demo]'"
        ) from error
    return espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path())


def _close(library: ctypes.CDLL) -> None:
    # The only public way to unload a library; ctypes offers no method for it.
    import _ctypes

    _ctypes.dlclose(library._handle)


def _refuse_if_loaded(path: str) -> None:
    try:
        resident = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LOCAL)
    except OSError:
        return
    _close(resident)
    raise SynthesisError(
        f"espeak-ng ({path}) is already loaded in this process and would carry its state from one "
        "utterance to the next; leave the other Phonemizer or voice first, or use another process"
    )


@contextmanager
def _fresh_library() -> Iterator[ctypes.CDLL]:
    """espeak-ng as it is after start-up, unloaded at the end."""
    path, data = _paths()
    _refuse_if_loaded(path)
    library = ctypes.CDLL(path)
    try:
        library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_Info.restype = ctypes.c_char_p
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DONT_EXIT)
        if rate != ESPEAK_RATE_HZ:
            raise SynthesisError(f"espeak_Initialize answered {rate}, expected {ESPEAK_RATE_HZ} Hz")
        yield library
        library.espeak_Terminate()
    finally:
        _close(library)


def _set_voice(library: ctypes.CDLL, name: str) -> None:
    variant = name.partition("+")[2]
    # espeak-ng speaks an unknown variant in its default voice and reports success.
    is_known = not variant or (Path(_paths()[1]) / "voices" / "!v" / variant).is_file()
    if not is_known or library.espeak_SetVoiceByName(name.encode()) != 0:
        raise SynthesisError(f"espeak-ng has no voice {name!r}; its voices lie in {_paths()[1]}")


def espeak_version() -> str:
    """The version of espeak-ng."""
    with _fresh_library() as library:
        return str(library.espeak_Info(None).decode())


def speak(text: str, voice: Voice, *, seed: int) -> NDArray[np.int16]:
    """Samples (S,) at 22,050 Hz; a function of the arguments alone.

    Raises:
        SynthesisError: espeak-ng is missing, the voice is unknown, or nothing was spoken.
    """
    blocks: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _SampleCallback(collect)

    encoded = text.encode()
    with _fresh_library() as library:
        library.espeak_ng_SetRandSeed(seed % 2**31)
        library.espeak_SetSynthCallback(callback)
        _set_voice(library, voice.name)
        for parameter, value in (
            (_RATE, voice.rate_wpm),
            (_VOLUME, _QUIET),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        status = library.espeak_Synth(
            encoded,
            ctypes.c_size_t(len(encoded) + 1),
            0,
            _POSITION_CHARACTER,
            0,
            _CHARACTERS_UTF8,
            None,
            None,
        )
        library.espeak_Synchronize()
    if status != 0 or not blocks:
        raise SynthesisError(f"espeak-ng did not speak {text!r} as {voice.name} (status {status})")
    return np.frombuffer(b"".join(blocks), dtype=np.int16)


def transcribe(texts: Sequence[str]) -> list[str]:
    """Phones of each text in the reference accent, separated by spaces.

    Transcription does not depend on what was transcribed before (tried on 6,000 sentences), so
    one load of the library serves all texts.
    """
    with _fresh_library() as library:
        _set_voice(library, REFERENCE_VOICE)
        return [" ".join(normalize_phones(_ipa(library, text))) for text in texts]


def _ipa(library: ctypes.CDLL, text: str) -> str:
    rest = ctypes.c_char_p(text.encode())
    clauses: list[str] = []
    # Each call takes one clause and moves the pointer on; it is null after the last.
    while rest.value:
        clause = library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARACTERS_UTF8, _IPA_SEPARATED)
        clauses.append(clause.decode())
    return " ".join(clauses)
