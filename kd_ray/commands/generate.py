"""`kd-ray transcribe`, `kd-ray translate`: a manifest whose texts a system (or a log) wrote.

Sequence-level distillation, transcripts of a recogniser for the expert to read, and pseudo-labels
are all this: one manifest in, another out, joined by utterance id.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_ray.commands.decoders import decoders
from kd_ray.config.generation import TranscribeConfig, TranslateConfig
from kd_ray.core.scores import count_errors
from kd_ray.core.translation_scores import (
    TranslationCounts,
    count_translations,
    nearest_to_reference,
)
from kd_ray.evaluation.cascade import AnySystem, load_any
from kd_ray.evaluation.decode import Hypothesis, Search, batches_of_inputs, decode_batches
from kd_ray.evaluation.kept_texts import kept_texts
from kd_ray.report.progress import progress
from kd_ray.speech.joining import (
    Joined,
    drawn,
    read_generate_log,
    replace_column,
    without,
)
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest, write_manifest
from kd_ray.storage import fetch

logger = logging.getLogger(__name__)


@dataclass
class Choice:
    """What choosing among a beam's candidates came to, in rows."""

    others: int = 0
    """Rows for which another candidate than the beam's best was nearest to the old text."""
    without_reference: int = 0
    """Rows without an old text: they get the beam's best."""


@dataclass(frozen=True)
class Generated:
    """What was written, and how it compares with the texts that were there before."""

    manifest: Path
    rows: int
    joined: Joined
    mixed: int
    """Rows that have the generated text, where only a share was to have it."""
    left_out: int
    """Rows with an empty new text."""
    word_error_rate: float | None
    """Of transcripts, in percent, over the rows that had one before."""
    translation: TranslationCounts | None
    """Of translations, over the rows that had one before."""
    choice: Choice | None = None
    """Where `candidates` is `nearest_to_reference`."""


class NothingToRead(ValueError):
    """A manifest without rows."""


def transcribe(config: TranscribeConfig, root: Path) -> Generated:
    """Put a recogniser's hypotheses into the column `transcript`; writes `config.output`.

    Raises:
        UnusableSystem: the system cannot read the manifest, or decode as asked.
        JoinError: a log that does not belong to the manifest.
    """
    return _generate(config, root)


def translate(config: TranslateConfig, root: Path) -> Generated:
    """Put a translator's hypotheses into the column `translation`; writes `config.output`.

    Raises:
        UnusableSystem: the system cannot read the manifest, or decode as asked.
        JoinError: a log that does not belong to the manifest.
    """
    return _generate(config, root)


def _generate(config: TranscribeConfig | TranslateConfig, root: Path) -> Generated:
    rows = read_manifest(root / config.manifest)
    if not rows:
        raise NothingToRead(f"{root / config.manifest} has no rows")
    column = config.column
    choice = Choice() if config.candidates == "nearest_to_reference" else None
    texts = _texts(config, rows, root, choice)
    joined = replace_column(rows, texts, column, keep_old_as=config.keep_old_as)
    new, mixed = joined.rows, joined.replaced
    if config.share < 1.0:
        some = drawn(texts, share=config.share, seed=config.seed)
        mix = replace_column(rows, some, column, keep_old_as=config.keep_old_as)
        new, mixed = mix.rows, mix.replaced
    left_out = 0
    if config.empty == "leave_out":
        # Of a mix, a row whose new text is empty has its old one.
        empty = {row.id for row in new if not (row.text(column) or "").strip()}
        kept = without(new, empty & set(joined.empty))
        left_out, new = len(new) - len(kept), kept
    output = root / config.output
    write_manifest(output, new)
    result = _compare(config, rows, texts, output, len(new), joined, mixed, left_out, choice)
    logger.info("%s: %s", output, joined)
    if mixed != joined.replaced:
        logger.info("  %d rows have the new text, the others the old one", mixed)
    if choice is not None:
        logger.info(
            "  nearest to the old text by %s: %d rows another candidate than the beam's best, %d "
            "rows without an old text the best",
            config.nearest_by, choice.others, choice.without_reference,
        )  # fmt: skip
    if left_out:
        logger.info("  %d rows left out: their new text is empty", left_out)
    if result.word_error_rate is not None:
        logger.info("  word error rate against the old texts: %.2f %%", result.word_error_rate)
    if result.translation is not None:
        scores = (result.translation.score("bleu"), result.translation.score("chrf++"))
        logger.info("  against the old texts: BLEU %.1f, chrF++ %.1f", *scores)
    return result


def _texts(
    config: TranscribeConfig | TranslateConfig,
    rows: Sequence[Utterance],
    root: Path,
    choice: Choice | None,
) -> dict[str, str]:
    """New texts by utterance id; with `choice`, the candidates nearest to the old ones."""
    if config.log is not None:
        log = read_generate_log(fetch(root / config.log))
        return log.texts([row.id for row in rows], config.log_lines)
    found = _decoded(config, rows, root)
    if choice is not None:
        return _nearest(config, rows, found, choice)
    return {name: best for name, (best, *_) in found.items()}


def hypotheses_folder(config: TranscribeConfig | TranslateConfig, root: Path) -> Path:
    """Where a system's texts are kept, beside the manifest that is made of them."""
    output = root / config.output
    return output.with_name(output.name.removesuffix(".parquet") + ".hypotheses")


def _decoded(
    config: TranscribeConfig | TranslateConfig, rows: Sequence[Utterance], root: Path
) -> dict[str, tuple[str, ...]]:
    """A system's texts by utterance id, best first; those of an interrupted run are not made anew.

    Batches are the same whatever is known already: so are the texts.
    """
    assert config.system is not None, "the schema asks for a system or a log"
    reads = config.reads_column if isinstance(config, TranslateConfig) else "transcript"
    system = load_any(config.system, root, reads_column=reads)
    system.require(config.decoding)
    search = Search(
        (config.decoding,), config.beam_size, config.length_penalty, config.max_tokens,
        keep_candidates=config.candidates != "best",
    )  # fmt: skip
    written_by = {
        "system": system.digest,
        "manifest": manifest_digest(rows),
        "reads_column": reads,
        "decoding": config.decoding,
        "beam_size": search.beam_size,
        "length_penalty": search.length_penalty,
        "max_tokens": search.max_tokens,
        "keep_candidates": search.keep_candidates,
    }
    batches = batches_of_inputs(system, rows, root, config.batch_size)
    with kept_texts(hypotheses_folder(config, root), written_by) as kept:
        waiting = [batch for batch in batches if any(row.id not in kept.known for row in batch)]
        total = sum(map(len, waiting))
        if total < len(rows):
            logger.info("%d of %d texts are there already", len(rows) - total, len(rows))
        with progress("decoding", "utterances", total) as task, decoders(config, root) as of:
            elsewhere = of(config.system, system, reads)
            for found in decode_batches(system, waiting, root, search, elsewhere):
                kept.add({each.utterance_id: _texts_of(each, system, search) for each in found})
                task.advance(len(found))
        return kept.known


def _texts_of(found: Hypothesis, system: AnySystem, search: Search) -> list[str]:
    """Best first. An empty input has an empty hypothesis and no candidates."""
    (head,) = search.heads
    return [system.tokens.decode(ids) for ids in found.candidates or (found.by(head),)]


def _nearest(
    config: TranscribeConfig | TranslateConfig,
    rows: Sequence[Utterance],
    found: Mapping[str, Sequence[str]],
    choice: Choice,
) -> dict[str, str]:
    """Of each row's candidates the text nearest to its old one; counts in `choice`."""
    old = {row.id: (row.text(config.column) or "").strip() for row in rows}
    texts: dict[str, str] = {}
    for name, candidates in found.items():
        place = 0
        if old[name]:
            place = nearest_to_reference(candidates, old[name], config.nearest_by)
            choice.others += place > 0
        else:
            choice.without_reference += 1
        texts[name] = candidates[place]
    return texts


def _compare(
    config: TranscribeConfig | TranslateConfig,
    rows: Sequence[Utterance],
    texts: dict[str, str],
    output: Path,
    written: int,
    joined: Joined,
    mixed: int,
    left_out: int,
    choice: Choice | None,
) -> Generated:
    both = [row for row in rows if row.text(config.column) and row.id in texts]
    old = [row.text(config.column) or "" for row in both]
    new = [texts[row.id] for row in both]
    errors = counts = None
    if both and config.column == "transcript":
        errors = count_errors([text.split() for text in old], [text.split() for text in new]).rate
    if both and config.column == "translation":
        counts = count_translations(new, old)
    return Generated(output, written, joined, mixed, left_out, errors, counts, choice)
