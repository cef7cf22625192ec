"""Further token files by name, as `prepare` makes them."""

from pathlib import Path
from typing import Any

import pytest
from corpus_trees import write_sound
from test_corpus_imports import run
from test_sentencepiece_tokens import SENTENCES

from kd_ray.config.commands import PrepareConfig
from kd_ray.config.load import ConfigError, check_as
from kd_ray.speech.manifest import Utterance, write_manifest
from kd_ray.speech.tokens import Tokens, TokensError

INVENTORIES = {
    "source": {"unit": "characters", "column": "transcript", "splits": ["train", "text_only"]},
    "target": {
        "unit": "sentencepiece",
        "size": 48,
        "column": "translation",
        "splits": ["train", "text_only"],
    },
}


def corpus(root: Path) -> dict[str, Any]:
    write_sound(root / "a.wav", 1.0)
    splits = {"train": SENTENCES[:20], "valid": SENTENCES[20:24], "text_only": SENTENCES[24:]}
    for split, texts in splits.items():
        audio = None if split == "text_only" else "a.wav"
        rows = [
            Utterance(f"{split}-{row}", audio=audio, transcript=f"the {row}", translation=text)
            for row, text in enumerate(texts)
        ]
        write_manifest(root / "in" / f"{split}.parquet", rows)
    return {"type": "manifest"} | {split: f"in/{split}.parquet" for split in splits}


def test_inventories_are_made_beside_the_tokens_and_repeat(tmp_path: Path) -> None:
    settings = {"tokens": {"unit": "characters", "column": "translation"}}
    prepared = run(tmp_path, corpus(tmp_path), inventories=INVENTORIES, **settings)
    assert {name: path.name for name, path in prepared.inventories.items()} == {
        "source": "tokens_source.json",
        "target": "tokens_target.json",
    }
    target = Tokens.load(prepared.inventories["target"])
    assert (target.unit, len(target)) == ("sentencepiece", 3 + 256 + 48)
    # Nine occurs in a number of the text-only split alone.
    assert "9" in Tokens.load(prepared.inventories["source"]).symbols
    content = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run(tmp_path, corpus(tmp_path), inventories=INVENTORIES, **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == content


def test_errors_name_the_inventory(tmp_path: Path) -> None:
    huge = {"target": {**INVENTORIES["target"], "size": 9000}}
    settings = {"tokens": {"unit": "characters", "column": "translation"}}
    with pytest.raises(TokensError, match=r"inventories\.target \(column translation of train, te"):
        run(tmp_path, corpus(tmp_path), inventories=huge, **settings)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"unit": "sentencepiece"}, r"tokens: unit sentencepiece with size None"),
        ({"unit": "words", "size": 9}, r"tokens: unit words with size 9"),
        ({"type": "fairseq", "unit": "words"}, r"dictionary.* required"),
        ({"type": "fairsec"}, r"fairsec.*allowed.*'train', 'fairseq'"),
    ],
    ids=["no size", "size of words", "fairseq", "misspelt"],
)
def test_token_settings_that_make_no_sense_are_refused(
    tokens: dict[str, Any], message: str
) -> None:
    content = {"command": "prepare", "folder": "x", "corpus": {"type": "demo"}, "tokens": tokens}
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        check_as(PrepareConfig, content, "test")
