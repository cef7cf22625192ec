"""Token inventories: ids mean the same wherever they are read."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.data import Unit
from kd_ray.speech.tokens import SPECIALS, Tokens, TokensError, UnknownSymbolError


def test_specials_come_first_then_sorted_symbols() -> None:
    tokens = Tokens.train(["b a", "c  a"], "phones")
    assert tokens.symbols == ("<blank>", "<bos>", "<eos>", "a", "b", "c")
    assert (tokens.blank, tokens.bos, tokens.eos, len(tokens)) == (0, 1, 2, 6)
    assert tokens.encode("c a\tb") == [5, 3, 4]


@pytest.mark.parametrize(
    ("unit", "text", "units"),
    [
        ("phones", " h ə  l ", ["h", "ə", "l"]),
        ("words", "ein Wort", ["ein", "Wort"]),
        ("characters", " ab  c ", ["a", "b", " ", "c"]),
    ],
)
def test_units_of_a_text(unit: Unit, text: str, units: list[str]) -> None:
    tokens = Tokens.train([text], unit)
    assert tokens.words(tokens.encode(text)) == units
    assert tokens.decode([1, *tokens.encode(text), 2, 0]) == " ".join(text.split())


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(["phones", "words", "characters"]),
    texts=st.lists(st.text(st.sampled_from("ab cäẞ \t"), min_size=1), min_size=1).filter(
        lambda texts: any(text.strip() for text in texts)
    ),
)
def test_decode_undoes_encode(unit: Unit, texts: list[str]) -> None:
    tokens = Tokens.train(texts, unit)
    for text in texts:
        assert tokens.decode(tokens.encode(text)) == " ".join(text.split())
    assert Tokens.train(reversed(texts), unit) == tokens


def test_two_spellings_of_one_character_are_one_symbol() -> None:
    tokens = Tokens.train(["a\u0308"], "characters")
    assert tokens.encode("\u00e4") == tokens.encode("a\u0308") == [3]


def test_unknown_symbols_are_all_named() -> None:
    tokens = Tokens.train(["a b"], "phones")
    with pytest.raises(UnknownSymbolError, match="unknown phones: 'x', 'y' in 'y a x'") as caught:
        tokens.encode("y a x")
    assert caught.value.symbols == ["x", "y"]
    with pytest.raises(UnknownSymbolError):
        tokens.encode("a <eos>")


def test_ids_outside_the_inventory_are_refused() -> None:
    tokens = Tokens.train(["a"], "phones")
    for wrong in (-1, 4):
        with pytest.raises(TokensError, match=rf"{wrong} is outside 0\.\.3"):
            tokens.decode([wrong])


def test_texts_may_not_hold_special_symbols_or_nothing() -> None:
    with pytest.raises(TokensError, match="<eos>"):
        Tokens.train(["a <eos>"], "words")
    with pytest.raises(TokensError, match="no characters"):
        Tokens.train(["  "], "characters")


def test_file_round_trip_keeps_the_digest(tmp_path: Path) -> None:
    tokens = Tokens.train(["ə b", "ç"], "phones")
    tokens.save(tmp_path / "new" / "tokens.json")
    loaded = Tokens.load(tmp_path / "new" / "tokens.json")
    assert loaded == tokens
    assert loaded.digest == tokens.digest
    assert pickle.loads(pickle.dumps(tokens)).digest == tokens.digest
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokens.json"]


def test_digest_sees_unit_and_order() -> None:
    digests = {
        Tokens("phones", (*SPECIALS, "a", "b")).digest,
        Tokens("phones", (*SPECIALS, "b", "a")).digest,
        Tokens("words", (*SPECIALS, "a", "b")).digest,
        Tokens("phones", (*SPECIALS, "a", "b", "c")).digest,
    }
    assert len(digests) == 4
    assert all(len(digest) == 16 for digest in digests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected format"),
        ({"version": 2}, "version 2"),
        ({"blank": 3}, "blank has the id 3, expected 0"),
        ({"symbols": ["a"]}, "must begin with"),
        ({"symbols": [*SPECIALS, "a", "a"]}, "more than once"),
        ({"symbols": [*SPECIALS, "a b"]}, "not one of the unit"),
        ({"symbols": "abc"}, "list of strings"),
        ({"unit": "syllables"}, "syllables"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "tokens.json"
    content = Tokens.train(["a b"], "phones").to_dict()
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(TokensError, match=message) as caught:
        Tokens.load(path)
    assert str(path) in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="no token file at"):
        Tokens.load(tmp_path / "tokens.json")
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(TokensError, match="not JSON"):
        Tokens.load(tmp_path / "tokens.json")
    (tmp_path / "tokens.json").write_text('{"format": "kd_ray tokens", "version": 1}')
    with pytest.raises(TokensError, match="missing"):
        Tokens.load(tmp_path / "tokens.json")


def test_manifest_and_tokens_import_no_torch() -> None:
    code = (
        "import sys, kd_ray.speech.manifest, kd_ray.speech.tokens; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
