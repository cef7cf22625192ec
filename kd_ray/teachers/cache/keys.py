"""Keys of cached rows: digests of what a teacher's answer to one utterance depends on.

A row key is 16 bytes of digest and one byte that says what was asked. The digest covers all that
the teacher reads: samples or text, the view, the prefix, the references (errors are against
them) and how it is to write; never the utterance's id, the rest of the batch or the fusion. The
last byte orders entries: one that holds distributions and label strings also answers who wants
label strings alone, never the other way round.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.contracts import Generate, Labels, Masks, Score, View, Writing
from kd_ray.core.targets import IntArray

DIGEST_BYTES: Final = 16
KEY_BYTES: Final = DIGEST_BYTES + 1

_FLOAT16, _FLOAT32 = 1, 2
_LABELS: Final = 3
_CHRF: Final = 6
"""Code of a `Score` row: 0, 1 or 2 for distributions (none, float16, float32), plus 3 for label
strings, plus 6 for chrF. Trust is in every row; one of code 0 holds nothing else."""
_SCORED: Final = range(2 * _CHRF)
_WRITTEN: Final = 2 * _CHRF
"""Code of a `Generate` row: it holds none of them."""

_ABSENT: Final = b"\xff" * 8
"""Instead of a length, for a part that is not there: nothing is that long."""


def row_keys(
    request: Score | Generate,
    reads: Literal["speech", "text"] | None = None,
    texts: Sequence[str] | None = None,
) -> tuple[bytes, ...]:
    """The key of each utterance of a request, for all teachers that read the same.

    A view is of the audio, so it is in no key of text teachers.

    Args:
        request: as it came.
        reads: what the teachers meant read; None: everything that the request carries (what a
            fused target of a mixed pool depends on).
        texts: what text teachers read where the request carries none (transcripts made on the
            fly); None: the request's.

    Raises:
        ValueError: the teachers read something that is not there, or rows do not match.
        TypeError: samples are not int16, or token ids no integers.
    """
    rows = len(request.utterance_ids)
    texts = request.texts if texts is None else texts
    heard = _heard(request, reads, has_texts=texts is not None)
    read = texts if reads != "speech" else None
    if reads == "text" and read is None:
        raise ValueError("keys of text teachers need texts, and the request carries none")
    base = hashlib.blake2b(digest_size=DIGEST_BYTES)
    _add(base, type(request).__name__.encode())
    _add(base, None if heard is None else _view(request.view))
    if isinstance(request, Generate):
        _add(base, _writing(request.writing))
    prefix, references = _labels(request, rows)
    code = bytes([_code(request)])
    keys = []
    for row, (before, reference) in enumerate(zip(prefix, references, strict=True)):
        hasher = base.copy()
        _add(hasher, None if heard is None else _samples(heard[row]))
        _add(hasher, None if read is None else read[row].encode("utf-8", "surrogatepass"))
        _add(hasher, _ids(before))
        _add(hasher, None if reference is None else _ids(reference))
        if heard is not None and request.view.masks is not None:
            _add(hasher, _masks(request.view.masks, row))
        keys.append(hasher.digest() + code)
    return tuple(keys)


def wider(key: bytes) -> tuple[bytes, ...]:
    """Keys of entries that would answer what this key asks: itself, then those that hold more."""
    return tuple(key[:-1] + code for code in _WIDER[key[-1]])


def narrower(key: bytes) -> tuple[bytes, ...]:
    """Keys, other than itself, that an entry under this key answers."""
    return tuple(key[:-1] + code for code in _NARROWER[key[-1]])


def asks_tokens(key: bytes) -> bool:
    """Whether distributions are wanted."""
    return key[-1] % _LABELS > 0


def asks_chrf(key: bytes) -> bool:
    """Whether 1 - chrF is wanted."""
    return _CHRF <= key[-1] < _WRITTEN


def allows_float16(key: bytes) -> bool:
    """Whether distributions rounded to float16 are as good: the request's fusion rounds too."""
    return key[-1] % _LABELS == _FLOAT16


def at_full_precision(key: bytes) -> bytes:
    """The key of the same row with distributions in float32."""
    return key[:-1] + bytes([key[-1] + _FLOAT32 - _FLOAT16]) if allows_float16(key) else key


def _code(request: Score | Generate) -> int:
    if isinstance(request, Generate):
        return _WRITTEN
    # A teacher's own output is sent back as it was, whatever fusing would have done to it.
    rounds = request.fusion.dtype == "float16" and not request.per_teacher
    tokens = _FLOAT16 if rounds else _FLOAT32
    wanted = request.wanted
    return (
        tokens * ("tokens" in wanted) + _LABELS * ("labels" in wanted) + _CHRF * ("chrf" in wanted)
    )


def _parts(code: int) -> tuple[int, int, int]:
    """Distributions, label strings, chrF."""
    return code % _LABELS, code % _CHRF // _LABELS, code // _CHRF


def _answers(held: int, asked: int) -> bool:
    return all(has >= wants for has, wants in zip(_parts(held), _parts(asked), strict=True))


def _codes(codes: Sequence[int]) -> tuple[bytes, ...]:
    return tuple(bytes([code]) for code in codes)


_WIDER: Final = {
    _WRITTEN: _codes([_WRITTEN]),
    **{
        asked: _codes([asked, *(c for c in _SCORED if c != asked and _answers(c, asked))])
        for asked in _SCORED
    },
}
_NARROWER: Final = {
    _WRITTEN: _codes([]),
    **{held: _codes([c for c in _SCORED if c != held and _answers(held, c)]) for held in _SCORED},
}


def _heard(
    request: Score | Generate, reads: Literal["speech", "text"] | None, *, has_texts: bool
) -> list[NDArray[np.int16]] | None:
    """The waveforms, where they are among what is read."""
    rows, given = len(request.utterance_ids), len(request.audio.lengths)
    if reads == "text" or (reads is None and given == 0 and has_texts):
        return None
    if given != rows:
        raise ValueError(
            f"keys of teachers that hear need audio of {rows} utterances, and the request carries "
            f"{given}"
        )
    return request.audio.waveforms()


def _labels(
    request: Score | Generate, rows: int
) -> tuple[Sequence[IntArray], Sequence[IntArray | None]]:
    """What decoders read, and what errors are counted against, for each row."""
    given = request.references if isinstance(request, Score) else None
    references: Sequence[IntArray | None] = [None] * rows if given is None else given.strings()
    read: Labels | None = given if request.prefix is None else request.prefix
    # Without any prefix the decoder reads nothing but the begin symbol.
    nothing: IntArray = np.zeros(0, dtype=np.int64)
    return [nothing] * rows if read is None else read.strings(), references


def _add(hasher: "hashlib.blake2b", part: bytes | memoryview | None) -> None:
    """A part behind its length: parts of different cuts never read alike."""
    if part is None:
        hasher.update(_ABSENT)
    else:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)


def _view(view: View) -> bytes:
    return json.dumps([view.name, view.seed]).encode()


def _masks(masks: Masks, row: int) -> bytes:
    """What of a row is masked; masks that cover nothing say nothing."""
    spans = [each[row][each[row, :, 0] < each[row, :, 1]] for each in (masks.times_s, masks.mels)]
    return json.dumps([each.tolist() for each in spans]).encode()


def _writing(writing: Writing) -> bytes:
    return json.dumps(dataclasses.asdict(writing), sort_keys=True).encode()


def _samples(waveform: NDArray[np.int16]) -> memoryview:
    little_endian = waveform.astype("<i2", casting="equiv", copy=False)
    return np.ascontiguousarray(little_endian).view(np.uint8).data


def _ids(string: IntArray) -> bytes:
    return string.astype("<i8", casting="safe").tobytes()
