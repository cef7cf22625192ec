"""`kd-ray prepare`: a corpus becomes checked Parquet manifests and a token file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kd_ray.config.commands import PrepareConfig
from kd_ray.config.data import DemoCorpus, LhotseCorpus, ManifestCorpus, TokensFromTraining
from kd_ray.speech.audio import read_duration_s
from kd_ray.speech.checks import BadRow, BadRowsError, check_rows, good_rows
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens, TokensError

logger = logging.getLogger(__name__)

SUPERVISED = ("train", "valid", "test")
"""Splits whose rows must have a text; others (unlabelled, text_only) need none."""


@dataclass(frozen=True)
class Prepared:
    """What was written: split name to manifest, and the token files."""

    manifests: dict[str, Path]
    tokens: Path
    inventories: dict[str, Path]
    rows: dict[str, int]
    bad_rows: dict[str, list[BadRow]]


class UnusableCorpus(ValueError):
    """A corpus with bad rows; the text is the report of all of them."""


def prepare(config: PrepareConfig, root: Path) -> Prepared:
    """Make manifests and tokens in `config.folder`.

    Raises:
        UnusableCorpus: rows that cannot be used, all of them, where `on_bad_row` is `fail`; or an
            inventory of a split that the corpus does not have.
        TokensError: texts that do not give the tokens asked for.
    """
    folder = root / config.folder
    sources = _sources(config, folder, root)
    rows = {name: read_manifest(path, allow_duplicate_ids=True) for name, path in sources.items()}
    tokens = _train(config.tokens, rows, "tokens")
    inventories = {
        name: _train(wanted, rows, f"inventories.{name}")
        for name, wanted in config.inventories.items()
    }
    further = {
        wanted.column: inventories[name]
        for name, wanted in config.inventories.items()
        if wanted.column != config.tokens.column
    }
    bad_rows: dict[str, list[BadRow]] = {}
    for name, utterances in rows.items():
        supervised = name in SUPERVISED
        bad = check_rows(
            utterances,
            root=root,
            tokens=tokens if supervised else None,
            column=config.tokens.column if supervised else None,
            further_texts=further if supervised else None,
            checks=config.checks,
            frames_for=None,
            read_audio=not isinstance(config.corpus, DemoCorpus),
            needs_audio=supervised,
        )
        if bad:
            bad_rows[name] = bad
    if bad_rows and config.on_bad_row == "fail":
        raise UnusableCorpus(
            "\n".join(str(BadRowsError(bad, str(sources[name]))) for name, bad in bad_rows.items())
        )
    kept = {
        name: good_rows(utterances, bad_rows.get(name, ()), on_bad_row=config.on_bad_row, what=name)
        for name, utterances in rows.items()
    }
    kept = {name: [_timed(row, root) for row in utterances] for name, utterances in kept.items()}
    manifests = {
        name: _write(folder / f"{name}.parquet", utterances) for name, utterances in kept.items()
    }
    tokens.save(folder / "tokens.json")
    token_files = {name: folder / f"tokens_{name}.json" for name in inventories}
    for name, inventory in inventories.items():
        inventory.save(token_files[name])
    for name, path in manifests.items():
        seconds = sum(row.duration_s or 0.0 for row in kept[name])
        speech = f"{seconds / 60:.1f} min of speech" if seconds else "text only"
        logger.info("%-12s %6d rows, %s: %s", name, len(kept[name]), speech, path)
    for path, inventory in [
        (folder / "tokens.json", tokens),
        *((token_files[name], inventory) for name, inventory in inventories.items()),
    ]:
        logger.info("%-12s %6d %s: %s", "tokens", len(inventory), inventory.unit, path)
    return Prepared(
        manifests,
        folder / "tokens.json",
        token_files,
        {name: len(kept[name]) for name in kept},
        bad_rows,
    )


def _train(wanted: TokensFromTraining, rows: Mapping[str, Sequence[Utterance]], key: str) -> Tokens:
    unknown = sorted(set(wanted.splits) - set(rows))
    if unknown:
        raise UnusableCorpus(
            f"{key}.splits names {unknown}; the corpus has the splits {sorted(rows)}"
        )
    texts = [
        text for split in wanted.splits for row in rows[split] if (text := row.text(wanted.column))
    ]
    try:
        return Tokens.train(texts, wanted.unit, wanted.size)
    except TokensError as error:
        raise TokensError(
            f"{key} (column {wanted.column} of {', '.join(wanted.splits)}): {error}"
        ) from error


def _sources(config: PrepareConfig, folder: Path, root: Path) -> dict[str, Path]:
    corpus = config.corpus
    if isinstance(corpus, DemoCorpus):
        from kd_ray.speech.corpora.demo import build_demo_corpus

        return build_demo_corpus(corpus, folder, root, _Progress())
    if isinstance(corpus, ManifestCorpus):
        named = {
            "train": corpus.train,
            "valid": corpus.valid,
            "test": corpus.test,
            "unlabelled": corpus.unlabelled,
        }
        return {name: root / path for name, path in named.items() if path is not None}
    return _import_lhotse(corpus, folder, root)


def _import_lhotse(corpus: LhotseCorpus, folder: Path, root: Path) -> dict[str, Path]:
    from kd_ray.speech.corpora.lhotse_cuts import read_cuts

    named = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    manifests = {}
    for name, path in named.items():
        if path is not None:
            manifests[name] = folder / "imported" / f"{name}.parquet"
            rows = read_cuts(
                root / path,
                root=root,
                phones_key=corpus.phones_key,
                target_language=corpus.target_language,
            )
            write_manifest(manifests[name], rows)
    return manifests


class _Progress:
    """One line for every tenth of the work: reads well on a screen and in a job's log."""

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // max(1, total)
        if tenths > self._tenths:
            self._tenths = tenths
            logger.info("speaking the demo corpus: %d of %d utterances", done, total)


def _timed(row: Utterance, root: Path) -> Utterance:
    """The row with its duration: batches are cut by it."""
    if row.duration_s is not None or row.audio is None:
        return row
    return replace(row, duration_s=read_duration_s(row, root))


def _write(path: Path, kept: Sequence[Utterance]) -> Path:
    if not path.exists() or manifest_digest(path) != manifest_digest(kept):
        write_manifest(path, kept)
    return path
