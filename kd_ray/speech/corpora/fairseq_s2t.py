"""Import of fairseq speech-to-text data: tables of ready features, used without recomputing."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
import yaml

from kd_ray.config.data import FairseqSpeech
from kd_ray.speech.audio import read_header, unreadable
from kd_ray.speech.corpora.tables import (
    Collector,
    CorpusError,
    Imported,
    TableRow,
    below,
    read_table,
)
from kd_ray.speech.features import front_end_digest
from kd_ray.speech.imported_features import FeaturesError, read_features_header
from kd_ray.speech.manifest import COLUMNS, Utterance

logger = logging.getLogger(__name__)

_REQUIRED = ("id", "audio", "n_frames", "tgt_text")
_USED = {*_REQUIRED, "src_text", "speaker", "src_lang", "tgt_lang"}
_SOUND = {".wav", ".flac", ".ogg"}


def read_fairseq_s2t(corpus: FairseqSpeech, root: Path) -> dict[str, Imported]:
    """Rows of each split; columns go by name, in whichever order they stand.

    `audio` is `file.zip:offset:size` (a stored npy array), an npy file, a sound file, or
    `file.wav:first sample:samples`. Files are looked for under `audio_root`, or else under their
    own name beside the tables: data that were moved keep working. Other columns become extra ones.

    Raises:
        CorpusError: missing or broken tables or configuration, or features of another size than
            `corpus.front_end` makes.
    """
    folder = root / corpus.folder
    settings = read_data_config(folder / corpus.config)
    size = int(settings.get("input_feat_per_channel", 80)) * int(settings.get("input_channels", 1))
    if size != corpus.front_end.num_mels:
        raise CorpusError(
            f"{folder / corpus.config} describes features of {size} dimensions, corpus.front_end "
            f"makes {corpus.front_end.num_mels}; set corpus.front_end to what made them"
        )
    logger.info("%s: %s", corpus.config, describe(settings))
    tables = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    splits = {}
    for split, name in tables.items():
        if name is None:
            continue
        collector = Collector()
        path = folder / f"{name.removesuffix('.tsv')}.tsv"
        for row in read_table(path, _REQUIRED, escape="\\"):
            _add(collector, row, corpus, folder, str(settings.get("audio_root") or ""), root)
        splits[split] = collector.done()
    return splits


def read_ids(table: Path) -> list[str]:
    """The ids of a table in its order: what the sentence numbers of a decoding log count.

    A manifest may have fewer rows (bad and long ones are left out); the log counts all.

    Raises:
        CorpusError: no such table, or one without ids.
    """
    return [row.values.get("id", "") for row in read_table(table, ["id"], escape="\\")]


def read_data_config(path: Path) -> dict[str, Any]:
    """The data configuration of fairseq.

    Raises:
        CorpusError: no such file, or no YAML mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError(f"no data configuration at {path}") from error
    except yaml.YAMLError as error:
        raise CorpusError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise CorpusError(f"{path} holds {type(settings).__name__}, expected a mapping")
    return settings


def describe(settings: Mapping[str, Any]) -> str:
    """What a configuration means for a student, in one line."""
    transforms = settings.get("transforms") or {}
    used = {name for names in transforms.values() for name in names or ()}
    normalizer = "utterance" if "utterance_cmvn" in used else "global" if used else "none"
    bpe = settings.get("bpe_tokenizer") or {}
    cutter = bpe.get("sentencepiece_model") or bpe.get("bpe") or "none (its entries are words)"
    parts = [
        f"dictionary {settings.get('vocab_filename', 'dict.txt')}",
        f"texts cut by {cutter}",
        f"normalizer {normalizer}",
    ]
    if settings.get("pre_tokenizer"):
        parts.append(f"texts were tokenised before that by {settings['pre_tokenizer']}")
    if settings.get("prepend_tgt_lang_tag"):
        parts.append("targets began with a language tag, which is not imported")
    return "; ".join(parts)


def _add(
    collector: Collector,
    row: TableRow,
    corpus: FairseqSpeech,
    folder: Path,
    audio_root: str,
    root: Path,
) -> None:
    values = row.values
    faults = [] if row.fault is None else [row.fault]
    texts = {name: _unquoted(values[name]) for name in ("tgt_text", "src_text") if name in values}
    source = texts.get("src_text") if corpus.target_column == "translation" else None
    target = texts.get("tgt_text")
    place, fault = _place(values.get("audio", ""), corpus, folder, audio_root, root)
    if fault is not None:
        faults.append(fault)
    utterance = Utterance(
        id=values.get("id") or f"line-{row.line}",
        **place,
        transcript=source if corpus.target_column == "translation" else target,
        translation=target if corpus.target_column == "translation" else None,
        source_language=values.get("src_lang") or corpus.source_language,
        target_language=values.get("tgt_lang") or corpus.target_language,
        speaker=values.get("speaker") or None,
        extra={
            (f"fairseq_{name}" if name in COLUMNS else name): value
            for name, value in values.items()
            if name and name not in _USED and not name.startswith("Unnamed:")
        },
    )
    if utterance.features is not None:
        frames, found = _frames(values.get("n_frames", ""), utterance, corpus, root)
        faults += found
        shift_s, length_s = (
            corpus.front_end.frame_shift_ms / 1000,
            corpus.front_end.frame_length_ms / 1000,
        )
        duration_s = round((frames - 1) * shift_s + length_s, 6) if frames else None
        utterance = Utterance(**{**vars(utterance), "duration_s": duration_s})
    collector.add(utterance, *faults)


def _unquoted(text: str) -> str:
    """A text from a table that was written with CSV quotes though fairseq reads none.

    `"she said ""yes"" "` can only come from there: quotes around it, and each inside twice.
    """
    inner = text[1:-1]
    if len(text) > 2 and text[0] == text[-1] == '"' and '""' in inner:
        single = inner.replace('""', "\0")
        if '"' not in single:
            return single.replace("\0", '"')
    return text


def _place(
    audio: str, corpus: FairseqSpeech, folder: Path, audio_root: str, root: Path
) -> tuple[dict[str, Any], str | None]:
    """The fields of the utterance that say where its speech is, and what is wrong."""
    match = re.fullmatch(r"(?P<path>.+?)(?::(?P<first>\d+):(?P<count>\d+))?", audio)
    if match is None:
        return {}, "column audio is empty"
    path = _locate(match["path"], folder, audio_root)
    where = below(path, root)
    piece = None if match["first"] is None else (int(match["first"]), int(match["count"]))
    if path.suffix in _SOUND:
        if piece is None:
            return {"audio": where}, None
        try:
            rate = read_header(path).sample_rate
        except (soundfile.SoundFileError, OSError) as error:
            return {"audio": where}, f"audio {path}: {unreadable(path, error)}"
        offset_s, duration_s = piece[0] / rate, piece[1] / rate
        return {"audio": where, "offset_s": offset_s, "duration_s": duration_s}, None
    features: dict[str, Any] = {
        "path": where,
        "front_end_digest": front_end_digest(corpus.front_end),
    }
    if piece is not None:
        features |= {"offset": piece[0], "length": piece[1]}
    elif path.suffix != ".npy":
        return {}, f"{audio!r} is neither npy, sound nor file.zip:offset:size"
    return {"features": features}, None


def _locate(name: str, folder: Path, audio_root: str) -> Path:
    named = folder / audio_root / name
    beside = folder / Path(name).name
    return beside if not named.exists() and beside.exists() else named


def _frames(
    stated: str, utterance: Utterance, corpus: FairseqSpeech, root: Path
) -> tuple[int | None, list[str]]:
    """Frames of the features; the table's number must agree with what lies on disk."""
    try:
        header = read_features_header(utterance, root)
    except FeaturesError:
        # `prepare` checks every file and says why.
        return None, []
    faults = []
    if header.dimensions != corpus.front_end.num_mels:
        faults.append(
            f"features have {header.dimensions} dimensions, corpus.front_end makes "
            f"{corpus.front_end.num_mels}"
        )
    if stated != str(header.frames):
        faults.append(f"n_frames is {stated!r} in the table, {header.frames} in the features")
    return header.frames, faults
