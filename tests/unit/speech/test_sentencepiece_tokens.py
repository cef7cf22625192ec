"""SentencePiece tokens: exact inverses, the same bytes each time, no text that crashes a run."""

import json
import pickle
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.speech.tokens import SPECIALS, Tokens, TokensError

SENTENCES = [
    f"{who} {does} {what} {when}."
    for who in ("der große Hund", "die kleine Katze", "mein Nachbar", "Frau Müller")
    for does in ("sieht", "hört", "kauft", "verkauft", "übersetzt")
    for what in ("einen Apfel", "das alte Haus", "zwei Bücher", "nichts")
    for when in ("heute", "um 17 Uhr", "morgen früh")
]
SIZE = 48


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens.train(SENTENCES, "sentencepiece", SIZE)


def test_size_counts_what_is_learned(tokens: Tokens) -> None:
    assert len(tokens) == 3 + 256 + SIZE
    assert tokens.symbols[:3] == SPECIALS
    assert tokens.symbols[3] == "<0x00>"
    assert "<unk>" not in tokens.symbols


def test_same_texts_in_any_order_give_the_same_tokens(tokens: Tokens) -> None:
    shuffled = random.Random(1).sample(SENTENCES, len(SENTENCES))
    again = Tokens.train(shuffled, "sentencepiece", SIZE)
    assert again == tokens
    assert again.digest == tokens.digest


def test_words_are_what_error_rates_count(tokens: Tokens) -> None:
    text = "der große Hund hört zwei Bücher."
    ids = tokens.encode(text)
    assert tokens.words([1, *ids, 2, 0]) == text.split()
    assert tokens.decode([1, *ids, 2, 0]) == text
    assert len(ids) < len(text)
    assert "".join(tokens.pieces(ids)) == "▁" + text.replace(" ", "▁")


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_characters="▁", exclude_categories=("Cs", "Cc"))))
def test_any_text_comes_back(tokens: Tokens, text: str) -> None:
    expected = " ".join(unicodedata.normalize("NFC", text).split())
    assert tokens.decode(tokens.encode(text)) == expected


@pytest.mark.parametrize("text", ["<unk>", "<bos> <eos>", "<0x41>", "<s>", "日本 😀", "", "  "])
def test_markup_and_foreign_letters_are_only_text(tokens: Tokens, text: str) -> None:
    ids = tokens.encode(text)
    assert min(ids, default=3) >= 3
    assert tokens.decode(ids) == " ".join(text.split())


def test_broken_bytes_of_a_hypothesis_become_text(tokens: Tokens) -> None:
    assert tokens.decode([tokens.symbols.index("<0xC3>")]) == "\ufffd"
    with pytest.raises(TokensError, match="outside"):
        tokens.decode([len(tokens)])


def test_file_and_pickle_keep_the_model(tokens: Tokens, tmp_path: Path) -> None:
    tokens.encode("x")
    tokens.save(tmp_path / "tokens.json")
    assert Tokens.load(tmp_path / "tokens.json") == tokens
    assert Tokens.load(tmp_path / "tokens.json").digest == tokens.digest
    assert pickle.loads(pickle.dumps(tokens)) == tokens


def test_digest_covers_the_model(tokens: Tokens) -> None:
    words = Tokens("words", ("<blank>", "<bos>", "<eos>", "a"))
    other = Tokens.train([text.upper() for text in SENTENCES], "sentencepiece", SIZE)
    assert len({words.digest, tokens.digest, other.digest}) == 3


def test_model_and_inventory_must_belong_together(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="not in the inventory"):
        Tokens("sentencepiece", tokens.symbols[:-1], tokens.model)
    with pytest.raises(TokensError, match="needs a model"):
        Tokens("sentencepiece", tokens.symbols)
    with pytest.raises(TokensError, match="has no model"):
        Tokens("words", (*SPECIALS, "a"), tokens.model)
    with pytest.raises(TokensError, match="not a SentencePiece model"):
        Tokens("sentencepiece", tokens.symbols, b"nonsense")
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({**tokens.to_dict(), "model": "?"}))
    with pytest.raises(TokensError, match=r"tokens\.json: model is not base64"):
        Tokens.load(path)


def test_sizes_that_the_texts_do_not_give_are_explained() -> None:
    with pytest.raises(TokensError, match=r"size 5000: .* a size of at most 5\d"):
        Tokens.train(SENTENCES, "sentencepiece", 5000)
    with pytest.raises(TokensError, match=r"size 3: they have 3\d different characters, which"):
        Tokens.train(SENTENCES, "sentencepiece", 3)
    with pytest.raises(TokensError, match="no text"):
        Tokens.train([" "], "sentencepiece", 10)
    with pytest.raises(TokensError, match="needs a size"):
        Tokens.train(SENTENCES, "sentencepiece")
