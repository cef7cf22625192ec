"""Corpora prepared by lhotse (`lhotse prepare ...`): cuts, or recordings with supervisions.

lhotse is an optional extra and is imported only when a manifest of it is read.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray.speech.manifest import COLUMNS, Utterance

_RECORDINGS, _SUPERVISIONS = "recordings", "supervisions"
_HARMLESS_TRANSFORMS = frozenset({"Resample"})
"""kd_ray resamples by itself; every other transform would have to be applied to the audio."""


class LhotseError(ValueError):
    """A lhotse manifest that cannot be imported."""


def read_cuts(
    path: Path,
    *,
    root: Path,
    phones_key: str | None = None,
    target_language: str | None = None,
) -> list[Utterance]:
    """Utterances of a lhotse manifest: one for each supervision, over the supervision's span.

    The supervision gives id, transcript (`text`), source language, speaker and translation
    (`custom["translated_text"]`, a text or one text per language); gender and other plain custom
    values become extra columns. A cut without supervision becomes an utterance without text.

    Args:
        path: `*_cuts*.jsonl.gz`; or `*_recordings_*` or `*_supervisions_*`, whose partner of the
            same name must lie beside it.
        root: audio paths below it are stored relative to it. Paths that are relative already are
            taken to start there.
        phones_key: where the phones are: `text`, a custom field (text or list) or an alignment.
        target_language: which translation to take where there are several.

    Raises:
        LhotseError: lhotse is not installed; not such a manifest; audio that is not a plain file
            (pipes, archives, URLs, mixed cuts, transforms); phones or translation not found.
    """
    utterances = [
        utterance
        for cut in _load_cuts(path)
        for utterance in _utterances(cut, root, phones_key, target_language)
    ]
    if not utterances:
        raise LhotseError(f"lhotse manifest {path} holds no cuts")
    return utterances


def _load_cuts(path: Path) -> Any:
    try:
        lhotse = importlib.import_module("lhotse")
        serialization = importlib.import_module("lhotse.serialization")
    except ImportError as error:
        raise LhotseError(
            f"reading {path} needs lhotse ({error}); install it with: pip install kd-ray[lhotse]"
        ) from error

    def load(file: Path) -> Any:
        if not file.is_file():
            raise LhotseError(f"no lhotse manifest at {file}")
        try:
            return serialization.load_manifest_lazy_or_eager(file)
        except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
            raise LhotseError(f"{file} is not a lhotse manifest: {error}") from error

    manifest = load(path)
    if manifest is None:
        raise LhotseError(f"lhotse manifest {path} is empty")
    if isinstance(manifest, lhotse.CutSet):
        return manifest
    for kind, other in ((_RECORDINGS, _SUPERVISIONS), (_SUPERVISIONS, _RECORDINGS)):
        expected = lhotse.RecordingSet if kind == _RECORDINGS else lhotse.SupervisionSet
        if isinstance(manifest, expected):
            if kind not in path.name:
                raise LhotseError(
                    f"{path} holds {kind}; they need their {other}, which are looked for by "
                    f"replacing {kind!r} in the file's name. Rename it, or make cuts: "
                    "lhotse cut simple -r RECORDINGS -s SUPERVISIONS CUTS"
                )
            partner = load(path.with_name(path.name.replace(kind, other)))
            pair = {kind: manifest, other: partner}
            return lhotse.CutSet.from_manifests(**pair)
    raise LhotseError(
        f"{path} holds a {type(manifest).__name__}; expected cuts, or recordings and supervisions"
    )


def _utterances(
    cut: Any, root: Path, phones_key: str | None, target_language: str | None
) -> Iterator[Utterance]:
    if not hasattr(cut, "recording") or not cut.has_recording:
        raise LhotseError(
            f"cut {cut.id} is a {type(cut).__name__} without a recording of its own; "
            "only cuts of single recordings can be imported"
        )
    if not cut.supervisions:
        audio, channel = _source(cut, _first(cut.channel), root)
        yield Utterance(
            id=str(cut.id),
            audio=audio,
            offset_s=float(cut.start),
            duration_s=float(cut.duration),
            channel=channel,
        )
    for supervision in cut.supervisions:
        audio, channel = _source(cut, _first(supervision.channel), root)
        # Supervisions count from the cut's start and may reach beyond its ends.
        start_s = max(0.0, float(supervision.start))
        end_s = min(float(cut.duration), float(supervision.end))
        translation, language = _translation(supervision, target_language)
        yield Utterance(
            id=str(supervision.id),
            audio=audio,
            offset_s=round(float(cut.start) + start_s, 6),
            duration_s=round(end_s - start_s, 6),
            channel=channel,
            phones=None if phones_key is None else _phones(supervision, phones_key),
            transcript=supervision.text,
            translation=translation,
            source_language=supervision.language,
            target_language=language,
            speaker=supervision.speaker,
            extra=_extra(supervision, phones_key),
        )


def _first(channel: int | list[int]) -> int:
    return channel if isinstance(channel, int) else channel[0]


def _source(cut: Any, channel: int, root: Path) -> tuple[str, int]:
    """Path of the file that holds a channel of the cut, and the channel's place in the file."""
    recording = cut.recording
    for transform in recording.transforms or []:
        name = transform["name"] if isinstance(transform, dict) else type(transform).__name__
        if name not in _HARMLESS_TRANSFORMS:
            raise LhotseError(
                f"cut {cut.id}: recording {recording.id} has the transform {name}; import the "
                "cuts as they were before it, kd_ray augments by itself"
            )
    for source in recording.sources:
        if channel in source.channels:
            if source.type != "file":
                raise LhotseError(
                    f"cut {cut.id}: recording {recording.id} is a {source.type!r} source; only "
                    "plain files can be imported (lhotse's save_audios makes some)"
                )
            path = Path(source.source)
            if path.is_absolute() and path.is_relative_to(root.absolute()):
                path = path.relative_to(root.absolute())
            return path.as_posix(), list(source.channels).index(channel)
    raise LhotseError(f"cut {cut.id}: recording {recording.id} has no channel {channel}")


def _phones(supervision: Any, key: str) -> str | None:
    """Phones as one string; None where the supervision has no text either."""
    custom = supervision.custom or {}
    alignment = supervision.alignment or {}
    if key in custom:
        value = custom[key]
        return value if isinstance(value, str) else " ".join(str(item) for item in value)
    if key in alignment:
        return " ".join(item.symbol for item in alignment[key])
    if key == "text" or supervision.text is None:
        return None if supervision.text is None else str(supervision.text)
    raise LhotseError(
        f"supervision {supervision.id} has no {key!r} (corpus.phones_key); it has the custom "
        f"fields {sorted(custom)}, the alignments {sorted(alignment)}, and 'text'"
    )


def _translation(supervision: Any, wanted: str | None) -> tuple[str | None, str | None]:
    """Translation and its language, None where there is none."""
    value = (supervision.custom or {}).get("translated_text")
    if value is None or isinstance(value, str):
        return value, wanted if value is not None else None
    if wanted is None and len(value) == 1:
        wanted = next(iter(value))
    if wanted is None or wanted not in value:
        raise LhotseError(
            f"supervision {supervision.id} has translations into {sorted(value)}; "
            f"asked for {wanted!r}: name one of them as target language"
        )
    return value[wanted], wanted


def _extra(supervision: Any, phones_key: str | None) -> dict[str, Any]:
    values = {"gender": supervision.gender, **(supervision.custom or {})}
    return {
        (f"custom_{name}" if name in COLUMNS else name): value
        for name, value in values.items()
        if isinstance(value, str | int | float | bool)
        and name not in (phones_key, "translated_text")
    }
