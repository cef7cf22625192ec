"""What importers of other corpora share: rows with their faults, counts, text files and tables."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_ray.speech.checks import BadRow
from kd_ray.speech.manifest import Utterance


class CorpusError(ValueError):
    """A corpus that does not look as its importer expects."""


@dataclass(frozen=True)
class Imported:
    """One split as imported: every line of the source has a row, the broken ones too."""

    rows: list[Utterance]
    faults: list[BadRow] = field(default_factory=list)
    """What was wrong with a line; `row` is the place in `rows`."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why lines of the source have no row here, and how many: they belong to other splits, or the
    recipe that was called left them out."""


class Collector:
    """Collects the rows of a split and what is wrong with them."""

    def __init__(self) -> None:
        self.rows: list[Utterance] = []
        self.faults: list[BadRow] = []
        self.left_out: Counter[str] = Counter()

    def add(self, row: Utterance, *faults: str) -> None:
        """A row, with the faults that only its source shows."""
        self.faults += [BadRow(row.id, fault, len(self.rows)) for fault in faults]
        self.rows.append(row)

    def done(self) -> Imported:
        """What was collected."""
        return Imported(self.rows, self.faults, dict(self.left_out))


def count_rows(rows: Sequence[Utterance]) -> dict[str, int]:
    """Sizes of a split for its report: rows, repeated ids, repeated sentences, empty texts."""
    counts = {"rows": len(rows), "repeated ids": len(rows) - len({row.id for row in rows})}
    for column in ("transcript", "translation"):
        texts = [getattr(row, column) for row in rows]
        counts[f"no {column}"] = sum(text is None for text in texts)
        counts[f"empty {column}"] = sum(text is not None and not text.strip() for text in texts)
        known = [text for text in texts if text]
        counts[f"repeated {column}"] = len(known) - len(set(known))
    return counts


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends; the last one needs no end.

    Only line feeds end lines (with or without a carriage return): texts may hold other characters
    that Python's `splitlines` takes for ends, and one more line shifts all that follow.

    Raises:
        CorpusError: no such file, or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CorpusError(f"no file at {path}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: {error}") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_parallel(*paths: Path) -> list[tuple[str, ...]]:
    """The lines of files that belong together, line by line.

    Raises:
        CorpusError: files of different length: from the first missing line on, everything would be
            paired wrongly.
    """
    files = [read_lines(path) for path in paths]
    if len({len(lines) for lines in files}) > 1:
        sizes = ", ".join(
            f"{path} has {len(lines)}" for path, lines in zip(paths, files, strict=True)
        )
        raise CorpusError(f"lines do not pair up: {sizes}")
    return list(zip(*files, strict=True))


@dataclass(frozen=True)
class TableRow:
    """A line of a table, by names of columns; `fault` where it has too many or too few fields."""

    line: int
    """In the file, from 1; the header is line 1."""
    values: dict[str, str]
    fault: str | None = None


def read_table(path: Path, required: Sequence[str], *, escape: str | None = None) -> list[TableRow]:
    """A tab-separated table without quoting, whose columns go by the names in its first line.

    Args:
        path: the table.
        required: columns that must be there, in any order.
        escape: the character before a tab, line end or itself that belongs to a text.

    Raises:
        CorpusError: no such file, not UTF-8, no header, or a column that is missing or repeated.
    """
    lines = read_lines(path)
    if not lines:
        raise CorpusError(f"table {path} is empty")
    records = list(_records(lines, escape))
    names = records[0][1]
    missing = [name for name in required if name not in names]
    if missing:
        raise CorpusError(f"table {path} lacks the columns {missing}; it has {names}")
    repeated = [name for name in required if names.count(name) > 1]
    if repeated:
        raise CorpusError(f"table {path} has the columns {repeated} more than once")
    return [_table_row(names, number, fields) for number, fields in records[1:]]


def _records(lines: list[str], escape: str | None) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields; blank lines are passed over."""
    number = 0
    while number < len(lines):
        first, text = number + 1, lines[number]
        number += 1
        # An odd number of escapes before a line's end: it belongs to the text.
        while escape and _trailing(text, escape) % 2 and number < len(lines):
            text += "\n" + lines[number]
            number += 1
        if text:
            yield first, _fields(text, escape)


def _trailing(text: str, character: str) -> int:
    return len(text) - len(text.rstrip(character))


def _fields(text: str, escape: str | None) -> list[str]:
    if escape is None or escape not in text:
        return text.split("\t")
    # Either an escaped character, or a tab, or anything else.
    pieces = re.findall(rf"{re.escape(escape)}(?s:.)|\t|[^\t{re.escape(escape)}]+|(?s:.)", text)
    fields = [""]
    for piece in pieces:
        if piece == "\t":
            fields.append("")
        else:
            fields[-1] += piece[1:] if piece[0] == escape and len(piece) > 1 else piece
    return fields


def _table_row(names: list[str], line: int, fields: list[str]) -> TableRow:
    if len(fields) == len(names):
        return TableRow(line, dict(zip(names, fields, strict=True)))
    fault = f"line {line} has {len(fields)} fields, the header {len(names)}"
    return TableRow(line, dict(zip(names, fields, strict=False)), fault)


def below(path: Path, root: Path) -> str:
    """A path as manifests keep it: relative to the root where it lies below it."""
    absolute, top = path.absolute(), root.absolute()
    return (absolute.relative_to(top) if absolute.is_relative_to(top) else absolute).as_posix()
