"""What is wrong with a manifest's rows: found before a run, all at once, with reasons."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import soundfile

from kd_ray.config.data import AudioChecks, TextColumn
from kd_ray.core.errors import PortableError
from kd_ray.speech.audio import (
    SAMPLE_RATE,
    AudioError,
    Header,
    read_header,
    read_waveform,
    segment_duration_s,
    segment_fault,
    unreadable,
)
from kd_ray.speech.imported_features import (
    FeaturesError,
    front_end_fault,
    read_features,
    read_features_header,
)
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens, UnknownSymbolError

logger = logging.getLogger(__name__)

ANY_FRONT_END = "any"
"""For `check_rows`: imported features are good whichever front end made them."""

_MANY = 50
"""Rows with one and the same fault that a report sums up in a line."""
_THREADS = 8
"""libsndfile releases the interpreter lock; on network disks the waiting overlaps."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and one reason; a row with three faults appears three times."""

    id: str
    reason: str
    row: int
    """Place in the manifest, from 0: duplicates share their id."""


class BadRowsError(PortableError, ValueError):
    """Rows that cannot be used; the message is the report of all of them."""

    def __init__(self, bad_rows: Sequence[BadRow], what: str = "manifest") -> None:
        self.bad_rows = tuple(bad_rows)
        super().__init__(
            f"{what}: {report(bad_rows)}\n"
            "Ways out: correct these rows, or go on without them: `on_bad_row: skip` of `prepare`, "
            "`data.batches.on_bad_row: skip` of a training."
        )


def report(bad_rows: Sequence[BadRow]) -> str:
    """Every bad row, a line each, under a line that counts them; one line for a fault of many."""
    rows = len({bad.row for bad in bad_rows})
    by_reason: dict[str, list[BadRow]] = {}
    for bad in bad_rows:
        by_reason.setdefault(bad.reason, []).append(bad)
    # A fault that many rows share (a column that is not there) is one line, not a screenful.
    shared = {reason for reason, found in by_reason.items() if len(found) >= _MANY}
    lines = [
        f"  {len(by_reason[reason])} rows, from row {by_reason[reason][0].row}, "
        f"{by_reason[reason][0].id}, to row {by_reason[reason][-1].row}, "
        f"{by_reason[reason][-1].id}: {reason}"
        for reason in by_reason
        if reason in shared
    ]
    lines += [
        f"  row {bad.row}, {bad.id}: {bad.reason}" for bad in bad_rows if bad.reason not in shared
    ]
    words = (
        f"{rows} bad row{'s' * (rows != 1)}",
        f"{len(bad_rows)} fault{'s' * (len(bad_rows) != 1)}",
    )
    return "\n".join([", ".join(words), *lines])


def good_rows(
    utterances: Sequence[Utterance],
    bad_rows: Sequence[BadRow],
    *,
    on_bad_row: Literal["fail", "skip"],
    what: str = "manifest",
) -> list[Utterance]:
    """The rows without fault; with `fail`, `BadRowsError` if there is any fault.

    With `skip`, every row that is left out is logged. No row left at all is an error either way.
    """
    if bad_rows and on_bad_row == "fail":
        raise BadRowsError(bad_rows, what)
    left_out = {bad.row for bad in bad_rows}
    good = [utterance for row, utterance in enumerate(utterances) if row not in left_out]
    if bad_rows:
        logger.warning("%s: left out %s", what, report(bad_rows))
    if utterances and not good:
        raise BadRowsError(bad_rows, f"{what}: no good row is left")
    return good


def check_rows(
    utterances: Sequence[Utterance],
    *,
    root: Path,
    tokens: Tokens | None,
    column: TextColumn | None,
    checks: AudioChecks,
    frames_for: Callable[[float], int] | None,
    read_audio: bool,
    needs_audio: bool = True,
    further_texts: Mapping[TextColumn, Tokens] | None = None,
    features_of: str | None = None,
    on_checked: Callable[[int], None] = lambda count: None,
) -> list[BadRow]:
    """Every fault of every row, in the order of the rows.

    Looks for duplicate ids; missing, unreadable or empty audio, a segment or channel outside its
    file, durations outside the limits; imported features that cannot be read or were made
    by another front end; missing or empty text, unknown symbols, and targets longer
    than the CTC frames (one frame per label, and a blank between equal neighbours).

    Args:
        utterances: the rows of one manifest.
        root: where relative audio paths start.
        tokens: the inventory; None: the text is looked for, but not encoded.
        column: the text that is learned; None: rows need none (unlabelled speech).
        checks: limits of the duration.
        frames_for: encoder frames of an utterance of so many seconds; None: no CTC.
        read_audio: also decode every file: finds NaN and broken files, costs time. Otherwise
            only headers are read.
        needs_audio: a row with neither audio nor features is bad; False lets text-only rows pass.
        further_texts: more columns whose text must be there, with their inventories.
        features_of: digest of the front end whose imported features the model can read, or
            `ANY_FRONT_END`; None: it reads audio only.
        on_checked: hears how many more rows' audio was looked at.
    """
    faults: list[list[str]] = [[] for _ in utterances]
    first_row: dict[str, int] = {}
    for row, utterance in enumerate(utterances):
        first = first_row.setdefault(utterance.id, row)
        if first != row:
            faults[row].append(f"duplicate id, first at row {first}")
    audio: list[_AudioFinding] = []
    for finding in _check_audio(utterances, root, checks, read_audio, needs_audio, features_of):
        audio.append(finding)
        on_checked(1)
    for row, utterance in enumerate(utterances):
        found, duration_s = audio[row]
        faults[row].extend(found)
        if column is not None:
            frames = None
            if frames_for is not None and duration_s is not None:
                frames = frames_for(duration_s)
            faults[row].extend(_text_faults(utterance, column, tokens, frames))
        for name, inventory in (further_texts or {}).items():
            faults[row].extend(_text_faults(utterance, name, inventory, None))
    return [
        BadRow(utterance.id, reason, row)
        for row, utterance in enumerate(utterances)
        for reason in faults[row]
    ]


def ctc_frames_needed(labels: Sequence[int]) -> int:
    """Fewest frames that a CTC path of these labels has: a blank parts equal neighbours."""
    return len(labels) + sum(left == right for left, right in pairwise(labels))


_AudioFinding = tuple[list[str], float | None]
"""Faults of a row, and the seconds of its segment where they are known."""


def _check_audio(
    utterances: Sequence[Utterance],
    root: Path,
    checks: AudioChecks,
    read_audio: bool,
    needs_audio: bool,
    features_of: str | None,
) -> Iterator[_AudioFinding]:
    with ThreadPoolExecutor(_THREADS) as threads:
        # Many segments share one file (lectures): open each header once.
        paths = list(dict.fromkeys(row.audio for row in utterances if row.audio is not None))
        headers = dict(
            zip(paths, threads.map(lambda path: _header(root / path), paths), strict=True)
        )

        def check(utterance: Utterance) -> _AudioFinding:
            if utterance.audio is None:
                if utterance.features is not None and features_of is not None:
                    return _features(utterance, root, checks, read_audio, features_of)
                return _without_audio(utterance, needs_audio), None
            header = headers[utterance.audio]
            if isinstance(header, str):
                return [f"audio {root / utterance.audio}: {header}"], None
            return _segment(utterance, header, root, checks, read_audio)

        yield from threads.map(check, utterances)


def _header(path: Path) -> Header | str:
    """The header of a file, or why it cannot be read."""
    try:
        return read_header(path)
    except (soundfile.SoundFileError, OSError) as error:
        return unreadable(path, error)


def _without_audio(utterance: Utterance, needs_audio: bool) -> list[str]:
    if not needs_audio:
        return []
    if utterance.features is not None:
        return ["no audio: imported features alone cannot be read"]
    return ["no audio: the row is text only"]


def _features(
    utterance: Utterance, root: Path, checks: AudioChecks, read: bool, digest: str
) -> _AudioFinding:
    """Faults of imported features; their seconds are the manifest's, as only it knows them."""
    duration_s = utterance.duration_s
    try:
        if read:
            read_features(utterance, root)
        else:
            read_features_header(utterance, root)
    except FeaturesError as error:
        return [f"features {error.reason}"], duration_s
    fault = None if digest == ANY_FRONT_END else front_end_fault(utterance, digest)
    if fault is not None:
        return [fault], duration_s
    return [] if duration_s is None else _duration(duration_s, checks), duration_s


def _segment(
    utterance: Utterance,
    header: Header,
    root: Path,
    checks: AudioChecks,
    read_audio: bool,
) -> _AudioFinding:
    assert utterance.audio is not None
    path = root / utterance.audio
    fault = segment_fault(utterance, header)
    if fault is not None:
        return [f"audio {path}: {fault}"], None
    duration_s = segment_duration_s(utterance, header)
    if read_audio:
        try:
            duration_s = len(read_waveform(utterance, root)) / SAMPLE_RATE
        except AudioError as error:
            return [f"audio {path}: {error.reason}"], None
    return _duration(duration_s, checks), duration_s


def _duration(duration_s: float, checks: AudioChecks) -> list[str]:
    if duration_s < checks.min_duration_s:
        return [f"too short: {duration_s:.3f} s, at least {checks.min_duration_s:g} s"]
    if duration_s > checks.max_duration_s:
        return [f"too long: {duration_s:.3f} s, at most {checks.max_duration_s:g} s"]
    return []


def _text_faults(
    utterance: Utterance, column: TextColumn, tokens: Tokens | None, frames: int | None
) -> list[str]:
    text = utterance.text(column)
    if text is None:
        return [f"missing text: {column} is null"]
    if not text.strip():
        return [f"zero-length target: {column} is empty"]
    if tokens is None:
        return []
    try:
        labels = tokens.encode(text)
    except UnknownSymbolError as error:
        shown = ", ".join(repr(symbol) for symbol in error.symbols)
        return [f"unknown {tokens.unit} in {column}: {shown}"]
    needed = ctc_frames_needed(labels)
    if frames is not None and needed > frames:
        return [
            f"target longer than its CTC frames: {len(labels)} labels need {needed} frames, "
            f"the encoder has {frames}"
        ]
    return []
