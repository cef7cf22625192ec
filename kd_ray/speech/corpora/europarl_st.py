"""Import of Europarl-ST 1.1 (Iranzo-Sanchez et al. 2020, arXiv 1911.03167)."""

from collections import Counter
from pathlib import Path

from kd_ray.config.data import EuroparlSt
from kd_ray.speech.corpora.tables import (
    Collector,
    CorpusError,
    Imported,
    below,
    read_lines,
    read_parallel,
)
from kd_ray.speech.manifest import Utterance

_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
_NOISY = "train-noisy"
_AUDIO = (".wav", ".flac", ".m4a")
"""Forms of a recording, the readable ones first: the release has m4a, which libsndfile cannot
read."""


def read_europarl_st(corpus: EuroparlSt, root: Path) -> dict[str, Imported]:
    """Rows of each split.

    Segments are paired with their texts by line and with their speakers by the name of the speech.
    Ids are the speech's name and the place of the segment in it by time (`en.20080903.2_0`), as
    fairseq numbers them; those of the noisy part start with `noisy_`.

    Raises:
        CorpusError: missing files or files with different numbers of lines, with the way to
            convert recordings that are still m4a.
    """
    folder = root / corpus.folder / corpus.source_language
    audio = folder / "audios"
    if not audio.is_dir():
        raise CorpusError(
            f"no folder {audio}; corpus.folder must be the release's folder that holds "
            f"{corpus.source_language}/audios and {corpus.source_language}/{corpus.target_language}"
        )
    recordings = _recordings(audio, root)
    splits = {}
    for split, name in _SPLITS.items():
        collector = Collector()
        _collect(collector, folder / corpus.target_language / name, corpus, recordings, "clean")
        if split == "train" and corpus.noisy:
            noisy = folder / corpus.target_language / _NOISY
            _collect(collector, noisy, corpus, recordings, "noisy")
        splits[split] = collector.done()
    return splits


def _recordings(folder: Path, root: Path) -> dict[str, str]:
    """Name of a speech to its file, as manifests keep it."""
    found: dict[str, str] = {}
    for form in _AUDIO:
        # Names hold dots: `en.20080903.2`.
        for path in sorted(folder.glob(f"*{form}")):
            found.setdefault(path.name.removesuffix(form), below(path, root))
    if found and all(path.endswith(".m4a") for path in found.values()):
        raise CorpusError(
            f"{folder} holds m4a files only, which cannot be read; convert them beside themselves: "
            "for f in *.m4a; do ffmpeg -i $f -ac 1 -ar 16000 ${f%.m4a}.wav; done"
        )
    return found


def _collect(
    collector: Collector,
    folder: Path,
    corpus: EuroparlSt,
    recordings: dict[str, str],
    domain: str,
) -> None:
    segments = read_parallel(
        folder / "segments.lst",
        folder / f"segments.{corpus.source_language}",
        folder / f"segments.{corpus.target_language}",
    )
    speakers = _speakers(folder)
    times = [_times(line) for line, _, _ in segments]
    order = sorted(range(len(times)), key=lambda row: (times[row][0], times[row][1], row))
    count: Counter[str] = Counter()
    number = [0] * len(times)
    for row in order:
        number[row] = count[times[row][0]]
        count[times[row][0]] += 1
    prefix = "noisy_" if domain == "noisy" else ""
    for row, (line, source, target) in enumerate(segments):
        speech, start_s, end_s = times[row]
        faults = []
        if speech == "":
            faults.append(f"{folder / 'segments.lst'} line {row + 1}: {line!r} is not a segment")
        elif speech not in recordings:
            faults.append(f"no recording of {speech} in audios/")
        collector.add(
            Utterance(
                id=f"{prefix}{speech or 'line'}_{number[row]}",
                audio=recordings.get(speech, f"{speech}.wav"),
                offset_s=start_s,
                duration_s=round(end_s - start_s, 6),
                transcript=source.strip(),
                translation=target.strip(),
                source_language=corpus.source_language,
                target_language=corpus.target_language,
                speaker=speakers.get(speech),
                domain=domain,
            ),
            *faults,
        )


def _times(line: str) -> tuple[str, float, float]:
    """Speech, start and end in seconds of a segment; an empty name where the line is broken."""
    fields = line.split()
    try:
        speech, start, end = fields
        return speech, float(start), float(end)
    except ValueError:
        return "", 0.0, 0.0


def _speakers(folder: Path) -> dict[str, str]:
    """Speech to speaker, where the release names them."""
    speeches, speakers = folder / "speeches.lst", folder / "speakers.lst"
    if not speeches.exists() or not speakers.exists():
        return {}
    names, people = read_lines(speeches), read_lines(speakers)
    if len(names) != len(people):
        raise CorpusError(
            f"{speeches} has {len(names)} lines, {speakers} {len(people)}; speakers would be "
            "given to the wrong speeches"
        )
    return {name.strip(): person.strip() for name, person in zip(names, people, strict=True)}
