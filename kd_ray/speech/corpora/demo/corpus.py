"""The demo corpus from its configuration: plan, speech, manifests."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import soundfile

from kd_ray.config.data import DemoCorpus
from kd_ray.speech.corpora.demo.errors import DemoCorpusError
from kd_ray.speech.corpora.demo.grammar import (
    GrammarExhaustedError,
    SentenceSource,
)
from kd_ray.speech.corpora.demo.patterns import SentencePair
from kd_ray.speech.corpora.demo.rendering import Job
from kd_ray.speech.corpora.demo.speakers import Speaker, cast
from kd_ray.speech.corpora.demo.synthesizer import espeak_version, transcribe
from kd_ray.speech.corpora.demo.worker import run_jobs
from kd_ray.speech.manifest import Utterance, atomic_path, write_manifest

logger = logging.getLogger(__name__)

CORPUS_VERSION = 4
"""Raised whenever the same configuration gives other bytes (grammar, voices, rendering)."""

SPOKEN_SPLITS = ("train", "valid", "test", "unlabelled")
"""Splits with audio."""

_STATE_FILE = "corpus.json"
_COVERAGE_POOL = 300
_BABBLE_UTTERANCES = 18
_PATIENCE = 1_000


@dataclass(frozen=True)
class Line:
    """A sentence of the corpus with its phones."""

    pair: SentencePair
    phones: str
    """Empty for sentences that nobody speaks."""

    @property
    def symbols(self) -> frozenset[str]:
        """Phones, and characters of both languages (as symbols of one letter with a prefix)."""
        letters = {f"'{letter}" for letter in self.pair.english + self.pair.german}
        return frozenset(self.phones.split()) | letters


def build_demo_corpus(
    config: DemoCorpus, folder: Path, root: Path, progress: Callable[[int, int], None]
) -> dict[str, Path]:
    """Make the corpus, or finish one that was interrupted, or find that it is there.

    Writes `audio/<split>/<id>.flac` (16 kHz, mono, int16), a manifest for each split that has
    rows (`train`, `valid`, `test`, `unlabelled`, `text_only`) and `corpus.json`. The same
    configuration gives the same bytes. Sentences and speakers are disjoint between the splits;
    each phone and character of valid, test and unlabelled occurs in train.

    Args:
        config: sizes, seed and difficulty.
        folder: where the corpus goes.
        root: audio paths in the manifests are relative to it where `folder` lies below it, and
            absolute elsewhere.
        progress: called with (utterances finished, utterances in all).

    Raises:
        DemoCorpusError: the folder holds another corpus, or the grammar has too few sentences.
        SynthesisError: espeak-ng is missing or failed.
    """
    sizes = _sizes(config)
    manifests = {split: folder / f"{split}.parquet" for split, size in sizes.items() if size}
    total = sum(sizes[split] for split in SPOKEN_SPLITS)
    state: dict[str, Any] = {"digest": corpus_digest(config), "config": config.model_dump()}
    missing = _missing_audio(folder, sizes)
    is_complete = not missing and all(path.exists() for path in manifests.values())
    if _is_finished(folder, state["digest"]) and is_complete:
        progress(total, total)
        return manifests
    _write_state(folder, state)
    for leftover in (folder / "audio").glob("*/.*.tmp"):
        leftover.unlink()
    lines = draw_lines(config)
    jobs = make_jobs(config, lines)
    progress(total - len(missing), total)
    finished = total - len(missing)

    def done(_id: str) -> None:
        nonlocal finished
        finished += 1
        progress(finished, total)

    run_jobs([job for job in jobs.values() if job.id in missing], babble_jobs(config), folder, done)
    statistics: dict[str, Any] = {}
    speaker_of = _speaker_of(config)
    for split, path in manifests.items():
        rows = [
            _row(split, index, line, folder, root, speaker_of)
            for index, line in enumerate(lines[split])
        ]
        write_manifest(path, rows)
        statistics[split] = _statistics(rows, lines[split])
        logger.info("demo corpus, %s: %s", split, statistics[split])
    _write_state(folder, state | {"finished": True, "statistics": statistics})
    return manifests


def corpus_digest(config: DemoCorpus) -> str:
    """16 hexadecimal digits over all that decides the bytes: settings and versions."""
    content = {
        # Settings that are not made use of do not count: older corpora know fewer of them.
        "config": config.model_dump(mode="json", exclude_none=True),
        "version": CORPUS_VERSION,
        "espeak": espeak_version(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(config: DemoCorpus) -> dict[str, int]:
    return {
        "train": config.train_utterances,
        "valid": config.valid_utterances,
        "test": config.test_utterances,
        "unlabelled": config.unlabelled_utterances,
        "text_only": config.text_only_sentences,
    }


def _id(split: str, index: int) -> str:
    return f"{split}-{index:05d}"


def _audio(split: str, index: int) -> str:
    return f"audio/{split}/{_id(split, index)}.flac"


# -- what is there already -------------------------------------------------------------------


def _missing_audio(folder: Path, sizes: Mapping[str, int]) -> set[str]:
    missing: set[str] = set()
    for split in SPOKEN_SPLITS:
        present = {path.stem for path in (folder / "audio" / split).glob("*.flac")}
        missing |= {_id(split, index) for index in range(sizes[split])} - present
    return missing


def _is_finished(folder: Path, digest: str) -> bool:
    """Whether the folder's corpus was finished.

    Raises:
        DemoCorpusError: the folder holds a corpus of other settings.
    """
    path = folder / _STATE_FILE
    if not path.exists():
        return False
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["digest"] != digest:
        raise DemoCorpusError(
            f"{folder} holds a demo corpus of other settings or versions (digest "
            f"{state['digest']}, asked for {digest}; its settings are in {path}); "
            "choose another folder, or delete this one to make it anew"
        )
    return bool(state.get("finished", False))


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    with atomic_path(folder / _STATE_FILE) as temporary:
        temporary.write_text(json.dumps(state, indent=2, ensure_ascii=False), encoding="utf-8")


# -- sentences -------------------------------------------------------------------------------


def draw_lines(config: DemoCorpus) -> dict[str, list[Line]]:
    """The sentences of each split with their phones; a function of the configuration.

    Raises:
        DemoCorpusError: the grammar has too few sentences of this length.
    """
    source = SentenceSource(config.seed, config.max_words, config.vocabulary)
    sizes = _sizes(config)
    lines: dict[str, list[Line]] = {}
    try:
        pool = _take(source, "train", max(config.train_utterances, _COVERAGE_POOL), minimum=1)
        lines["train"] = _covering(pool, config.train_utterances)
        known = frozenset[str]().union(*(line.symbols for line in lines["train"]))
        for split in ("valid", "test", "unlabelled"):
            lines[split] = _take_known(source, split, sizes[split], known)
        lines["text_only"] = [Line(source.next("text_only"), "") for _ in range(sizes["text_only"])]
    except GrammarExhaustedError as error:
        raise DemoCorpusError(f"demo corpus: {error}") from error
    if len(lines["train"]) < config.train_utterances:
        raise DemoCorpusError(
            f"demo corpus: train_utterances is {config.train_utterances}, but the grammar has only "
            f"{len(lines['train'])} training sentences with max_words {config.max_words}"
        )
    return lines


def _take(
    source: SentenceSource, split: str, count: int, *, minimum: int | None = None
) -> list[Line]:
    """`count` lines; fewer, but `minimum`, where the grammar gives no more."""
    pairs: list[SentencePair] = []
    try:
        while len(pairs) < count:
            pairs.append(source.next(split))
    except GrammarExhaustedError:
        if minimum is None or len(pairs) < minimum:
            raise
    phones = transcribe([pair.english for pair in pairs])
    return [Line(pair, text) for pair, text in zip(pairs, phones, strict=True)]


def _covering(pool: list[Line], count: int) -> list[Line]:
    """`count` lines of the pool, in its order, with as many of its symbols as they can have.

    Small training splits need it: a phone that training never shows cannot be learned, and is an
    unknown symbol everywhere else.
    """
    wanted = frozenset[str]().union(*(line.symbols for line in pool))
    if frozenset[str]().union(*(line.symbols for line in pool[:count])) == wanted:
        return pool[:count]
    chosen: set[int] = set()
    while wanted and len(chosen) < count:
        best = max(range(len(pool)), key=lambda index: (len(pool[index].symbols & wanted), -index))
        if not pool[best].symbols & wanted:
            break
        chosen.add(best)
        wanted -= pool[best].symbols
    for index in range(len(pool)):
        if len(chosen) >= count:
            break
        chosen.add(index)
    return [pool[index] for index in sorted(chosen)]


def _take_known(
    source: SentenceSource, split: str, count: int, known: frozenset[str]
) -> list[Line]:
    """Lines whose symbols all occur in training."""
    taken: list[Line] = []
    tried = 0
    while len(taken) < count:
        if tried > 20 * count + _PATIENCE:
            raise DemoCorpusError(
                f"demo corpus: {tried} sentences gave only {len(taken)} of {count} for {split!r} "
                "whose phones and characters all occur in train; raise train_utterances"
            )
        batch = _take(source, split, count - len(taken))
        tried += len(batch)
        taken += [line for line in batch if line.symbols <= known]
    return taken


# -- speech ----------------------------------------------------------------------------------


def _speaker_of(config: DemoCorpus) -> Callable[[str, int], Speaker]:
    speakers = cast(config)
    return lambda split, index: speakers[split][index % len(speakers[split])]


def make_jobs(config: DemoCorpus, lines: Mapping[str, list[Line]]) -> dict[str, Job]:
    """What is to be rendered, by utterance id."""
    speaker_of = _speaker_of(config)
    return {
        _id(split, index): make_job(
            config,
            _id(split, index),
            _audio(split, index),
            line.pair.english,
            speaker_of(split, index),
        )
        for split in SPOKEN_SPLITS
        for index, line in enumerate(lines[split])
    }


def make_job(config: DemoCorpus, name: str, path: str, text: str, speaker: Speaker) -> Job:
    """Draw an utterance's room, noise and level; a function of (seed, id) and the settings."""
    random = Random(f"{config.seed}/{name}")

    def between(low: float, high: float) -> float:
        return low + (high - low) * random.random()

    # Every number is drawn whether used or not, so that one setting does not change the others.
    return Job(
        id=name,
        path=path,
        text=text,
        voice=speaker.voice,
        seed=random.getrandbits(31),
        snr_db=between(*config.snr_db),
        noise_tilt=_unless(random.random() < 0.35, between(0.0, 2.0)),
        rt60_s=_unless(random.random() >= config.reverberation, between(0.15, 0.5)),
        direct_to_reverberant_db=between(3.0, 12.0),
        lead_s=between(0.05, 0.25),
        tail_s=between(0.05, 0.25),
        level_db=between(-34.0, -18.0),
    )


def _unless(absent: bool, value: float) -> float | None:
    return None if absent else value


def babble_jobs(config: DemoCorpus) -> list[Job]:
    """Utterances that are only heard in the background."""
    speakers = cast(config)["babble"]
    source = SentenceSource(config.seed, config.max_words, config.vocabulary)
    return [
        make_job(
            config,
            f"babble-{index:02d}",
            "",
            source.next("text_only").english,
            speakers[index % len(speakers)],
        )
        for index in range(_BABBLE_UTTERANCES)
    ]


# -- manifests -------------------------------------------------------------------------------


def _row(
    split: str,
    index: int,
    line: Line,
    folder: Path,
    root: Path,
    speaker_of: Callable[[str, int], Speaker],
) -> Utterance:
    pair = line.pair
    if split == "text_only":
        return Utterance(
            id=_id(split, index),
            transcript=pair.english,
            translation=pair.german,
            source_language="en",
            target_language="de",
            domain=pair.domain,
        )
    path = folder / _audio(split, index)
    info = soundfile.info(path)
    is_labelled = split != "unlabelled"
    return Utterance(
        id=_id(split, index),
        audio=_below(path, root),
        duration_s=info.frames / info.samplerate,
        phones=line.phones if is_labelled else None,
        transcript=pair.english if is_labelled else None,
        translation=pair.german if is_labelled else None,
        source_language="en",
        target_language="de",
        speaker=speaker_of(split, index).id,
        domain=pair.domain,
    )


def _below(path: Path, root: Path) -> str:
    absolute, top = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return (absolute.relative_to(top) if absolute.is_relative_to(top) else absolute).as_posix()


def _statistics(rows: list[Utterance], lines: list[Line]) -> dict[str, Any]:
    """Sizes of a split, for people."""
    phones = [line.phones.split() for line in lines]
    words = [line.pair.english.split() for line in lines]
    german = [line.pair.german.split() for line in lines]
    minutes = sum(row.duration_s or 0.0 for row in rows) / 60
    return {
        "rows": len(rows),
        "minutes": round(minutes, 2),
        "mean_duration_s": round(60 * minutes / len(rows), 2),
        "phones_per_row": round(sum(map(len, phones)) / len(rows), 1),
        "distinct_phones": len({phone for row in phones for phone in row}),
        "words_per_row": round(sum(map(len, words)) / len(rows), 1),
        "distinct_words": len({word for row in words for word in row}),
        "distinct_translated_words": len({word for row in german for word in row}),
        "speakers": len({row.speaker for row in rows if row.speaker}),
    }
