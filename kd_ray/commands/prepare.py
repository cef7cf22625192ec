"""`kd-ray prepare`: a corpus becomes checked Parquet manifests and a token file."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kd_ray.config.commands import PrepareConfig
from kd_ray.config.data import (
    Covost,
    DemoCorpus,
    EuroparlSt,
    FairseqSpeech,
    LhotseCorpus,
    ManifestCorpus,
    MustC,
    ParallelText,
    TedLium,
    TextColumn,
    TokensFromFairseq,
    TokenSource,
)
from kd_ray.config.places import address_of, local_path
from kd_ray.report.progress import progress
from kd_ray.speech.audio import read_duration_s
from kd_ray.speech.checks import ANY_FRONT_END, BadRow, BadRowsError, check_rows, good_rows
from kd_ray.speech.corpora.tables import Imported, count_rows
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest, write_manifest
from kd_ray.speech.shards import write_shards
from kd_ray.speech.tokens import Tokens, TokensError
from kd_ray.storage import publish_folder

logger = logging.getLogger(__name__)

UNSUPERVISED = ("unlabelled", "text_only")
"""Splits whose rows need neither text nor speech."""


@dataclass(frozen=True)
class Prepared:
    """What was written: split name to manifest, and the token files."""

    manifests: dict[str, Path]
    tokens: Path
    inventories: dict[str, Path]
    rows: dict[str, int]
    counts: dict[str, dict[str, int]]
    """Sizes of each split as it was imported: repeated ids, empty texts, what was left out."""
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
    folder = local_path(root / config.folder)
    splits = _read(config, folder, root)
    rows = {name: split.rows for name, split in splits.items()}
    counts = {name: count_rows(split.rows) | split.left_out for name, split in splits.items()}
    for name, found in counts.items():
        shown = ", ".join(f"{what}: {count}" for what, count in found.items() if count)
        logger.info("%-12s read %s", name, shown)
    tokens = _tokens(config.tokens, rows, root, "tokens")
    inventories = {
        name: _tokens(wanted, rows, root, f"inventories.{name}")
        for name, wanted in config.inventories.items()
    }
    further = {
        wanted.column: inventories[name]
        for name, wanted in config.inventories.items()
        if wanted.column != config.tokens.column
    }
    with progress("checking rows", "rows", sum(map(len, rows.values()))) as task:
        bad_rows = _bad_rows(config, root, splits, tokens, further, task.advance)
    if bad_rows and config.on_bad_row == "fail":
        raise UnusableCorpus(
            "\n".join(str(BadRowsError(bad, name)) for name, bad in bad_rows.items())
        )
    kept = {
        name: good_rows(utterances, bad_rows.get(name, ()), on_bad_row=config.on_bad_row, what=name)
        for name, utterances in rows.items()
    }
    kept = {name: [_timed(row, root) for row in utterances] for name, utterances in kept.items()}
    kept["train"], too_long = _within(kept["train"], config.max_train_duration_s)
    if too_long:
        counts["train"]["longer than max_train_duration_s"] = too_long
        logger.info("%-12s left out %d rows longer than max_train_duration_s", "train", too_long)
    kept = _placed(config, kept, folder, root)
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
        counts,
        bad_rows,
    )


def _placed(
    config: PrepareConfig, kept: Mapping[str, list[Utterance]], folder: Path, root: Path
) -> dict[str, list[Utterance]]:
    """The rows with their audio where every reader finds it: in shards, or at an address."""
    if config.shard_mib is None:
        if isinstance(config.corpus, DemoCorpus):
            publish_folder(folder)
        return {name: [_addressed(row) for row in rows] for name, rows in kept.items()}
    packed = {
        name: write_shards(
            rows, folder / "shards", name,
            root=root, place=f"{config.folder.rstrip('/')}/shards", shard_mib=config.shard_mib,
        )
        for name, rows in kept.items()
    }  # fmt: skip
    if isinstance(config.corpus, DemoCorpus) and address_of(folder) is not None:
        # Spoken here, in the local cache, which cannot know that nobody needs them any more.
        shutil.rmtree(folder / "audio", ignore_errors=True)
    return packed


def _addressed(row: Utterance) -> Utterance:
    """With an address in place of this node's copy."""
    address = None if row.audio is None else address_of(Path(row.audio))
    return row if address is None else replace(row, audio=str(address))


def _bad_rows(
    config: PrepareConfig,
    root: Path,
    splits: Mapping[str, Imported],
    tokens: Tokens,
    further: Mapping[TextColumn, Tokens],
    on_checked: Callable[[int], None],
) -> dict[str, list[BadRow]]:
    """Faults by split, in the order of the rows; splits without any are left out."""
    bad_rows: dict[str, list[BadRow]] = {}
    for name, split in splits.items():
        supervised = name not in UNSUPERVISED
        bad = split.faults + check_rows(
            split.rows,
            root=root,
            tokens=tokens if supervised else None,
            column=config.tokens.column if supervised else None,
            further_texts=further if supervised else None,
            features_of=ANY_FRONT_END,
            checks=config.checks,
            frames_for=None,
            read_audio=not isinstance(config.corpus, DemoCorpus),
            needs_audio=supervised and not isinstance(config.corpus, ParallelText),
            on_checked=on_checked,
        )
        if bad:
            bad_rows[name] = sorted(bad, key=lambda fault: fault.row)
    return bad_rows


def _tokens(
    wanted: TokenSource, rows: Mapping[str, Sequence[Utterance]], root: Path, key: str
) -> Tokens:
    if isinstance(wanted, TokensFromFairseq):
        model = wanted.sentencepiece_model
        return Tokens.from_fairseq(
            root / wanted.dictionary, None if model is None else root / model
        )
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


def _read(config: PrepareConfig, folder: Path, root: Path) -> dict[str, Imported]:
    """The splits of the corpus, with every row, bad ones too."""
    # Importers are loaded when they are needed: some need lhotse or torch.
    corpus = config.corpus
    match corpus:
        case DemoCorpus():
            from kd_ray.speech.corpora.demo import build_demo_corpus

            with progress("speaking the demo corpus", "utterances") as task:
                return _manifests(build_demo_corpus(corpus, folder, root, task.at))
        case ManifestCorpus():
            names = ("train", "valid", "test", "unlabelled", "text_only")
            return _manifests(_named(corpus, names, root))
        case LhotseCorpus():
            from kd_ray.speech.corpora.lhotse_cuts import read_cuts

            cuts = partial(
                read_cuts,
                root=root,
                phones_key=corpus.phones_key,
                target_language=corpus.target_language,
            )
            named = _named(corpus, ("train", "valid", "test"), root)
            return {name: Imported(cuts(path)) for name, path in named.items()}
        case MustC():
            from kd_ray.speech.corpora.lhotse_recipes import read_must_c

            return read_must_c(corpus, root)
        case TedLium():
            from kd_ray.speech.corpora.lhotse_recipes import read_tedlium

            return read_tedlium(corpus, root)
        case Covost():
            from kd_ray.speech.corpora.covost import read_covost

            return read_covost(corpus, root)
        case EuroparlSt():
            from kd_ray.speech.corpora.europarl_st import read_europarl_st

            return read_europarl_st(corpus, root)
        case ParallelText():
            from kd_ray.speech.corpora.parallel_text import read_parallel_text

            return read_parallel_text(corpus, root)
        case FairseqSpeech():
            from kd_ray.speech.corpora.fairseq_s2t import read_fairseq_s2t

            return read_fairseq_s2t(corpus, root)


def _named(
    corpus: ManifestCorpus | LhotseCorpus, splits: Sequence[str], root: Path
) -> dict[str, Path]:
    paths = {name: getattr(corpus, name) for name in splits}
    return {name: root / path for name, path in paths.items() if path is not None}


def _manifests(paths: Mapping[str, Path]) -> dict[str, Imported]:
    return {
        name: Imported(read_manifest(path, allow_duplicate_ids=True))
        for name, path in paths.items()
    }


def _within(rows: list[Utterance], limit_s: float | None) -> tuple[list[Utterance], int]:
    """Rows that are not longer than the limit, and how many are."""
    if limit_s is None:
        return rows, 0
    kept = [row for row in rows if (row.duration_s or 0.0) <= limit_s]
    if rows and not kept:
        raise UnusableCorpus(
            f"every training utterance is longer than max_train_duration_s = {limit_s:g}"
        )
    return kept, len(rows) - len(kept)


def _timed(row: Utterance, root: Path) -> Utterance:
    """The row with its duration: batches are cut by it."""
    if row.duration_s is not None or row.audio is None:
        return row
    return replace(row, duration_s=read_duration_s(row, root))


def _write(path: Path, kept: Sequence[Utterance]) -> Path:
    if not path.exists() or manifest_digest(path) != manifest_digest(kept):
        write_manifest(path, kept)
    return path
