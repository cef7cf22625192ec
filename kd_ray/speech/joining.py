"""Generated texts into manifests: by utterance id, with counts. Needs no torch."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kd_ray.config.data import TextColumn
from kd_ray.speech.manifest import COLUMNS, Utterance


class JoinError(ValueError):
    """Texts that do not belong to these rows."""


@dataclass(frozen=True)
class Joined:
    """Rows with new texts, in the order of the old ones, and what became of each."""

    rows: list[Utterance]
    replaced: int
    missing: tuple[str, ...]
    """Ids of rows for which there was no text; they keep what they had."""
    empty: tuple[str, ...]
    """Ids of rows whose new text is empty; they get it all the same: drop them or keep the old."""
    unused: tuple[str, ...]
    """Ids of texts for which there was no row."""

    def __str__(self) -> str:
        return (
            f"{self.replaced} of {len(self.rows)} rows replaced ({len(self.empty)} of them by an "
            f"empty text), {len(self.missing)} without a text, {len(self.unused)} texts unused"
        )


def replace_column(
    rows: Sequence[Utterance],
    texts: Mapping[str, str],
    column: TextColumn,
    *,
    keep_old_as: str | None = None,
) -> Joined:
    """Put texts into a column of the rows that have their ids.

    Args:
        rows: of one manifest.
        texts: utterance id to text.
        column: what is replaced.
        keep_old_as: name of an extra column that keeps the old text of every row that had one;
            a row that has it already (from an earlier replacement) keeps that one.

    Raises:
        JoinError: duplicate ids, no id in common, or `keep_old_as` is a known column.
    """
    if keep_old_as in COLUMNS:
        raise JoinError(f"keep_old_as: {keep_old_as!r} is a known column; choose another name")
    ids = {row.id for row in rows}
    if len(ids) != len(rows):
        raise JoinError(f"{len(rows) - len(ids)} rows repeat an id; texts are joined by id")
    if rows and texts and not ids & texts.keys():
        raise JoinError(
            f"no row has the id of a text: rows are named like {rows[0].id!r}, texts like "
            f"{next(iter(texts))!r}"
        )
    joined, missing, empty = [], [], []
    for row in rows:
        text = texts.get(row.id)
        if text is None:
            missing.append(row.id)
        elif not text.strip():
            empty.append(row.id)
        joined.append(_with_text(row, text, column, keep_old_as))
    unused = tuple(name for name in texts if name not in ids)
    return Joined(joined, len(rows) - len(missing), tuple(missing), tuple(empty), unused)


def drawn(texts: Mapping[str, str], *, share: float, seed: int) -> dict[str, str]:
    """About a share of the texts that are not empty, for a mix of old and new ones.

    Which ones depends on (seed, utterance id) alone, and a larger share takes more, not others.

    Raises:
        JoinError: a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise JoinError(f"share of generated texts is {share:g}; it must be in 0..1")
    return {
        name: text for name, text in texts.items() if text.strip() and _uniform(seed, name) < share
    }


@dataclass(frozen=True)
class GenerateLog:
    """What a `fairseq-generate` run wrote, by sentence number in its data set."""

    sources: dict[int, str] = field(default_factory=dict)
    """`S-`: text input alone has one."""
    targets: dict[int, str] = field(default_factory=dict)
    """`T-`: references."""
    hypotheses: dict[int, str] = field(default_factory=dict)
    """`H-`: the best one, as the model wrote it."""
    detokenized: dict[int, str] = field(default_factory=dict)
    """`D-`: the best one, after `--remove-bpe` and `--tokenizer`."""

    def texts(self, ids: Sequence[str], line: Literal["S", "T", "H", "D"] = "D") -> dict[str, str]:
        """Utterance id to text.

        Args:
            ids: of the whole data set that was decoded, in the order of its table or file: a
                sentence's number is its place there, whatever order the log has and whatever
                sentences were left out.
            line: which lines.

        Raises:
            JoinError: no such line, a number that the data set does not reach, repeated ids.
        """
        lines = {
            "S": self.sources,
            "T": self.targets,
            "H": self.hypotheses,
            "D": self.detokenized,
        }[line]
        if not lines:
            if line == "D" and self.hypotheses:
                raise JoinError("the log has H- lines, but no D- lines: set `log_lines: H`")
            raise JoinError(f"the log has no {line}- lines; was fairseq-generate run with --quiet?")
        if len(set(ids)) != len(ids):
            raise JoinError(f"{len(ids) - len(set(ids))} ids of the data set are repeated")
        if max(lines) >= len(ids):
            raise JoinError(
                f"the log has sentence {max(lines)}, the data set {len(ids)} rows (counted from "
                "0); give the ids of the data set that was decoded, with no row left out"
            )
        return {ids[number]: text for number, text in sorted(lines.items())}

    def disagreeing(self, references: Mapping[str, str], ids: Sequence[str]) -> tuple[str, ...]:
        """Ids whose `T-` line has other words than the reference: a sign of a wrong order.

        Compared without case, blanks and punctuation, as logs are tokenised.
        """
        return tuple(
            name
            for name, text in self.texts(ids, "T").items()
            if name in references and _bare(text) != _bare(references[name])
        )


_LINE = re.compile(r"(?P<kind>[STHD])-(?P<number>\d+)\t(?P<rest>.*)")


def read_generate_log(path: Path) -> GenerateLog:
    """Read the log of a `fairseq-generate` run.

    Of several hypotheses for a sentence (`--nbest`), the first is the best and is taken. Other
    lines are passed over.

    Raises:
        JoinError: no such file, no hypothesis in it, or two runs in one log.
    """
    log = GenerateLog()
    kinds = {
        "S": log.sources,
        "T": log.targets,
        "H": log.hypotheses,
        "D": log.detokenized,
    }
    try:
        # Only line feeds end lines: texts may hold other characters that `splitlines` cuts at.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise JoinError(f"log {path} cannot be read: {error}") from error
    for line in lines:
        match = _LINE.fullmatch(line.removesuffix("\r"))
        if match is None:
            continue
        kind, number, text = match["kind"], int(match["number"]), match["rest"]
        if kind in "HD":
            # An empty hypothesis may have lost its tab to an editor.
            score, _, text = text.partition("\t")
            if not _is_number(score):
                raise JoinError(f"log {path}: {line[:80]!r} has no score before its text")
        elif number in kinds[kind]:
            raise JoinError(
                f"log {path} has sentence {number} twice: it holds more than one run; cut it"
            )
        kinds[kind].setdefault(number, text.strip())
    if not log.hypotheses and not log.detokenized:
        raise JoinError(f"log {path} has no H- or D- lines; it is not of fairseq-generate")
    return log


def without(rows: Sequence[Utterance], ids: Collection[str]) -> list[Utterance]:
    """The rows but those of the ids: to drop what was joined empty, or not at all."""
    dropped = set(ids)
    return [row for row in rows if row.id not in dropped]


def _with_text(
    row: Utterance, text: str | None, column: TextColumn, keep_old_as: str | None
) -> Utterance:
    old, extra = row.text(column), dict(row.extra)
    if keep_old_as is not None and old is not None:
        extra.setdefault(keep_old_as, old)
    if text is None:
        return replace(row, extra=extra)
    match column:
        case "phones":
            return replace(row, phones=text, extra=extra)
        case "transcript":
            return replace(row, transcript=text, extra=extra)
        case "translation":
            return replace(row, translation=text, extra=extra)


def _uniform(seed: int, utterance_id: str) -> float:
    """A number in 0..1 that depends on both and nothing else."""
    content = json.dumps([seed, "mix", utterance_id])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:7], "big") / 2**56


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bare(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
