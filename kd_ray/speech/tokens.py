"""Token inventories: text to ids and back. Needs no torch.

The first three ids are `<blank>` (CTC), `<bos>` and `<eos>`; then come the symbols: sorted, or in
the order of a SentencePiece model.
"""

import base64
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from kd_ray.config.data import Unit
from kd_ray.core.errors import PortableError
from kd_ray.speech.manifest import atomic_path
from kd_ray.speech.pieces import UNKNOWN, Pieces, PiecesError, train_pieces
from kd_ray.storage import fetch, shown

SPECIALS = ("<blank>", "<bos>", "<eos>")
_FORMAT = "kd_ray tokens"
_VERSION = 1


class TokensError(ValueError):
    """A token inventory that cannot be made, read or used."""


class UnknownSymbolError(PortableError, TokensError):
    """A text holds symbols that the inventory does not have."""

    def __init__(self, symbols: list[str], text: str, unit: Unit, size: int) -> None:
        self.symbols = symbols
        self.text = text
        shown = ", ".join(repr(symbol) for symbol in symbols)
        super().__init__(
            f"unknown {unit}: {shown} in {text[:200]!r}; the inventory has {size} entries. "
            "Make it from texts that hold them, or correct the text"
        )


def split_units(text: str, unit: Unit) -> list[str]:
    """Cut a text into units, after Unicode composition (NFC).

    `phones` and `words` split at white space; `characters` are single code points, where runs of
    white space count as one blank and the ends are trimmed. `sentencepiece` needs its model: here
    it gives the words.
    """
    return list(normalized(text)) if unit == "characters" else normalized(text).split()


def normalized(text: str) -> str:
    """The text as all units see it: composed (NFC), one blank between words, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True)
class Tokens:
    """An ordered inventory of symbols; the id of a symbol is its place.

    `train` sorts the symbols; an imported inventory may have another order after the specials.
    The unit `sentencepiece` has a model that cuts texts into pieces, and only it has one.
    """

    unit: Unit
    symbols: tuple[str, ...]
    model: bytes | None = field(default=None, repr=False)
    blank: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise TokensError(f"unit {self.unit!r} of tokens; allowed are {list(get_args(Unit))}")
        if self.symbols[: len(SPECIALS)] != SPECIALS:
            raise TokensError(
                f"tokens must begin with {SPECIALS}, got {self.symbols[: len(SPECIALS)]}"
            )
        repeated = [name for name, count in Counter(self.symbols).items() if count > 1]
        if repeated:
            raise TokensError(f"symbols occur more than once: {repeated}")
        if (self.unit == "sentencepiece") != (self.model is not None):
            raise TokensError(
                f"the unit {self.unit} {'needs a' if self.model is None else 'has no'} model"
            )
        if self.unit == "sentencepiece":
            self._check_model()
            return
        for symbol in self.symbols[len(SPECIALS) :]:
            if split_units(symbol, self.unit) != [symbol] and (self.unit, symbol) != (
                "characters",
                " ",
            ):
                raise TokensError(f"symbol {symbol!r} is not one of the unit {self.unit}")

    def _check_model(self) -> None:
        try:
            pieces = self._pieces.inventory()
        except PiecesError as error:
            raise TokensError(str(error)) from error
        missing = sorted(set(pieces) - set(self.symbols))
        if missing and self._unknown is None:
            raise TokensError(
                f"{len(missing)} pieces of the SentencePiece model are not in the inventory, the "
                f"first is {missing[0]!r}; model and inventory belong to different runs"
            )

    @classmethod
    def train(cls, texts: Iterable[str], unit: Unit, size: int | None = None) -> Self:
        """Collect the symbols of texts, or train a SentencePiece model on them.

        Args:
            texts: any order gives the same tokens.
            unit: what a token is.
            size: pieces to learn, for `sentencepiece` alone; the special symbols and 256 bytes
                come on top, which spell characters that the texts do not have.

        Raises:
            TokensError: no symbol at all, a text that holds one of the special symbols, or a size
                that the texts do not give.
        """
        if unit == "sentencepiece":
            if size is None:
                raise TokensError("the unit sentencepiece needs a size")
            try:
                model = train_pieces(map(normalized, texts), size)
            except PiecesError as error:
                raise TokensError(str(error)) from error
            return cls(unit, SPECIALS + tuple(Pieces(model).inventory()), model)
        found = {symbol for text in texts for symbol in split_units(text, unit)}
        if not found:
            raise TokensError(f"no {unit} in the texts to make tokens from")
        clash = sorted(found & set(SPECIALS))
        if clash:
            raise TokensError(f"the texts hold {clash}, which are names of special tokens")
        return cls(unit, SPECIALS + tuple(sorted(found)))

    @classmethod
    def from_fairseq(cls, dictionary: Path, sentencepiece_model: Path | None) -> Self:
        """Take over a fairseq dictionary: kd_ray's special symbols, `<unk>`, then its entries.

        fairseq's own four special symbols stand in no dictionary file; kd_ray's entries from id 4
        on are fairseq's from id 4 on, in the same order.

        Args:
            dictionary: `dict.txt`: an entry and a count on each line.
            sentencepiece_model: what cuts texts into entries; None: entries are words.

        Raises:
            TokensError: files that are missing or hold something else.
        """
        try:
            lines = fetch(dictionary).read_text(encoding="utf-8").split("\n")
            model = None if sentencepiece_model is None else fetch(sentencepiece_model).read_bytes()
        except (OSError, UnicodeDecodeError) as error:
            raise TokensError(f"fairseq dictionary cannot be imported: {error}") from error
        entries = []
        for number, line in enumerate(lines, start=1):
            fields = line.removesuffix(" #fairseq:overwrite").rsplit(" ", 1)
            if len(fields) == 2 and fields[0] and fields[1].strip().isdigit():
                entries.append(fields[0])
            elif line.strip():
                raise TokensError(
                    f"{dictionary} line {number}: {line[:80]!r}; expected an entry and its count"
                )
        unit: Unit = "words" if model is None else "sentencepiece"
        try:
            return cls(unit, (*SPECIALS, UNKNOWN, *entries), model)
        except TokensError as error:
            raise TokensError(f"{dictionary}: {error}") from error

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _ids(self) -> dict[str, int]:
        first = len(SPECIALS)
        return {symbol: first + place for place, symbol in enumerate(self.symbols[first:])}

    @cached_property
    def _unknown(self) -> int | None:
        """The id of what the inventory does not have: only imported ones have one."""
        place = len(SPECIALS)
        return place if self.symbols[place : place + 1] == (UNKNOWN,) else None

    @cached_property
    def _pieces(self) -> Pieces:
        assert self.model is not None
        return Pieces(self.model)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the fields, not what was derived from them."""
        return {"unit": self.unit, "symbols": self.symbols, "model": self.model}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end symbols.

        Raises:
            UnknownSymbolError: names every symbol that the inventory does not have; never for
                `sentencepiece` tokens (bytes) or imported ones (`<unk>`).
        """
        ids = self._ids
        if self.unit == "sentencepiece":
            units = self._pieces.cut(normalized(text))
        else:
            units = split_units(text, self.unit)
        if self._unknown is not None:
            return [ids.get(symbol, self._unknown) for symbol in units]
        try:
            return [ids[symbol] for symbol in units]
        except KeyError:
            unknown = sorted({symbol for symbol in units if symbol not in ids})
            raise UnknownSymbolError(unknown, text, self.unit, len(self)) from None

    def words(self, ids: Iterable[int]) -> list[str]:
        """What error rates count, specials dropped: the symbols; for `sentencepiece` the words."""
        symbols = self.pieces(ids)
        return self._pieces.join(symbols).split() if self.unit == "sentencepiece" else symbols

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Symbols of ids, specials dropped."""
        symbols = []
        for number in ids:
            place = int(number)
            if not 0 <= place < len(self.symbols):
                raise TokensError(f"token id {place} is outside 0..{len(self.symbols) - 1}")
            if place >= len(SPECIALS):
                symbols.append(self.symbols[place])
        return symbols

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, specials dropped."""
        if self.unit == "sentencepiece":
            return self._pieces.join(self.pieces(ids))
        return ("" if self.unit == "characters" else " ").join(self.words(ids))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that two inventories share only if every id means the same."""
        content: list[Any] = [self.unit, list(self.symbols), self.blank, self.bos, self.eos]
        if self.model is not None:
            content.append(hashlib.sha256(self.model).hexdigest())
        text = json.dumps(content, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """What the token file holds."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "unit": self.unit,
            "blank": self.blank,
            "bos": self.bos,
            "eos": self.eos,
            "symbols": list(self.symbols),
        }
        if self.model is not None:
            content["model"] = base64.b64encode(self.model).decode("ascii")
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            TokensError: another format, missing keys, special ids other than 0, 1, 2.
        """
        if content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise TokensError(
                f"expected format {_FORMAT!r} version {_VERSION}, got "
                f"{content.get('format')!r} version {content.get('version')!r}"
            )
        missing = [key for key in ("unit", "symbols", "blank", "bos", "eos") if key not in content]
        if missing:
            raise TokensError(f"keys {missing} are missing")
        for name, expected in (("blank", cls.blank), ("bos", cls.bos), ("eos", cls.eos)):
            if content[name] != expected:
                raise TokensError(f"{name} has the id {content[name]!r}, expected {expected}")
        symbols = content["symbols"]
        if not isinstance(symbols, list) or not all(isinstance(name, str) for name in symbols):
            raise TokensError("symbols must be a list of strings")
        try:
            model = (
                base64.b64decode(content["model"], validate=True) if "model" in content else None
            )
        except (TypeError, ValueError) as error:
            raise TokensError(f"model is not base64: {error}") from error
        return cls(content["unit"], tuple(symbols), model)

    def save(self, path: Path) -> None:
        """Write the token file (JSON); it appears complete or not at all."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a token file.

        Raises:
            TokensError: no such file, or not a token file; names the path.
        """
        try:
            content = json.loads(fetch(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TokensError(
                f"no token file at {shown(path)}; `kd-ray prepare` makes one"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TokensError(f"token file {path} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise TokensError(f"token file {path} holds {type(content).__name__}, not an object")
        try:
            return cls.from_dict(content)
        except TokensError as error:
            raise TokensError(f"token file {path}: {error}") from error


def source_ids(tokens: Tokens, text: str) -> list[int]:
    """What a text reader is fed: the tokens of a text and the end symbol, so never nothing."""
    return [*tokens.encode(text), tokens.eos]
