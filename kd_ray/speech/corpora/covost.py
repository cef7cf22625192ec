"""Import of CoVoST 2 (Wang et al. 2020, arXiv 2007.10310) with Common Voice's audio."""

from collections.abc import Mapping
from pathlib import Path

from kd_ray.config.data import Covost
from kd_ray.speech.corpora.tables import (
    Collector,
    CorpusError,
    Imported,
    TableRow,
    below,
    read_table,
)
from kd_ray.speech.manifest import Utterance

_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
_FORMS = (".mp3", ".wav", ".flac")


def read_covost(corpus: Covost, root: Path) -> dict[str, Imported]:
    """Rows of each split; ids are the clips' names without extension, as fairseq has them.

    Everything is joined by the clip's name. Transcripts and speakers come from Common Voice's
    `validated.tsv` where the split tables lack them; a clip that is not there is a bad row, as is
    one whose file is missing. Clips may have been converted to wav or flac.

    Raises:
        CorpusError: missing tables or columns.
    """
    folder, voice = root / corpus.folder, root / corpus.common_voice
    pair = f"covost_v2.{corpus.source_language}_{corpus.target_language}"
    whole = folder / f"{pair}.tsv"
    tables: dict[str, list[TableRow]] = {}
    for split, name in _SPLITS.items():
        path = folder / f"{pair}.{name}.tsv"
        if path.exists() or not whole.exists():
            tables[split] = read_table(path, ["path", "translation"], escape="\\")
    if len(tables) < len(_SPLITS):
        rows = read_table(whole, ["path", "translation", "split"], escape="\\")
        for split, name in _SPLITS.items():
            # `train_covost` extends Common Voice's training split.
            names = {name, f"{name}_covost"}
            tables.setdefault(split, [row for row in rows if row.values.get("split") in names])
    voices = _voices(voice / "validated.tsv", tables)
    clips = voice / "clips"
    if not clips.is_dir():
        raise CorpusError(f"no folder {clips}; corpus.common_voice must hold clips/")
    return {split: _split(rows, corpus, voices, clips, root) for split, rows in tables.items()}


def _voices(path: Path, tables: Mapping[str, list[TableRow]]) -> Mapping[str, TableRow] | None:
    """Common Voice's rows by clip; None where every split table has what they would give."""
    needed = {"sentence", "client_id"}
    rows = [row for table in tables.values() for row in table if row.fault is None]
    if rows and all(needed <= row.values.keys() for row in rows):
        return None
    voices = read_table(path, ["path", *sorted(needed)], escape="\\")
    return {row.values.get("path", ""): row for row in voices}


def _split(
    rows: list[TableRow],
    corpus: Covost,
    voices: Mapping[str, TableRow] | None,
    clips: Path,
    root: Path,
) -> Imported:
    collector = Collector()
    for row in rows:
        name = row.values.get("path", "")
        values, faults = row.values, [] if row.fault is None else [row.fault]
        if voices is not None:
            voice = voices.get(name)
            if voice is None:
                faults.append(f"{name} is not in validated.tsv")
            elif voice.fault is not None:
                faults.append(f"validated.tsv: {voice.fault}")
            else:
                values = {**voice.values, **row.values}
        collector.add(
            Utterance(
                id=_stem(name) or f"line-{row.line}",
                audio=below(_clip(clips, name), root),
                transcript=values.get("sentence"),
                translation=values.get("translation"),
                source_language=corpus.source_language,
                target_language=corpus.target_language,
                speaker=values.get("client_id"),
            ),
            *faults,
        )
    return collector.done()


def _stem(name: str) -> str:
    for form in _FORMS:
        name = name.removesuffix(form)
    return name


def _clip(clips: Path, name: str) -> Path:
    """The clip's file: as named, or converted beside it; as named where there is none."""
    candidates = [clips / name, *(clips / f"{_stem(name)}{form}" for form in _FORMS)]
    return next((path for path in candidates if path.is_file()), candidates[0])
