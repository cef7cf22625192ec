"""Checkpoint folders of every kind of model, averages, and encoders that start others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_doubles import BLANK, BOS, EOS, VOCABULARY
from pydantic import TypeAdapter
from safetensors.torch import load_file
from sequence_doubles import KINDS, SECTIONS, encode, make

from kd_ray.config.model import Model
from kd_ray.models.average import average_checkpoints
from kd_ray.models.build import build_model
from kd_ray.models.checkpoint import (
    CheckpointError,
    checkpoint_digest,
    load_encoder,
    load_model,
    save_model,
)
from kd_ray.models.sequence_model import SequenceModel

TOKENS = {"symbols": ["<blank>", "<bos>", "<eos>", "ä"]}
SOURCE_TOKENS = {"symbols": ["<blank>", "<bos>", "<eos>", "a"]}


def saved(folder: Path, kind: str, seed: int = 3) -> Path:
    model = make(kind, seed)
    source_tokens = SOURCE_TOKENS if kind == "text" else None
    save_model(folder, model, tokens=TOKENS, extra={}, source_tokens=source_tokens)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_went(tmp_path: Path, kind: str) -> None:
    model, loaded = make(kind), load_model(saved(tmp_path / "best", kind))
    assert loaded.model.config == model.config
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokens == TOKENS
    assert loaded.source_tokens == (SOURCE_TOKENS if kind == "text" else None)
    prefix, lengths = torch.tensor([[3, 4]] * 5), torch.tensor([2] * 5)
    with torch.no_grad():
        mine, theirs = (
            each.decoder_logits(encode(each), prefix, lengths) for each in (model, loaded.model)
        )
    assert torch.equal(mine, theirs)


def test_a_recogniser_without_type_and_its_digest_stay_what_they_were(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best", "recognizer_gru")
    config = json.loads((folder / "config.json").read_text())
    assert sorted(config["tokens"]) == ["blank", "bos", "eos", "vocabulary_size"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokens.json",
    ]
    del config["architecture"]["type"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder).model.config.type == "recognizer"


def test_source_tokens_belong_to_text_readers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="with its source tokens"):
        save_model(tmp_path / "a", make("text"), tokens=TOKENS, extra={})
    with pytest.raises(CheckpointError, match="reads speech and is saved without source tokens"):
        save_model(
            tmp_path / "a", make("berard"), tokens=TOKENS, extra={}, source_tokens=SOURCE_TOKENS
        )
    folder = saved(tmp_path / "best", "text")
    (folder / "source_tokens.json").unlink()
    with pytest.raises(CheckpointError, match="source_tokens"):
        load_model(folder)


def test_the_digest_knows_the_size_of_the_source_vocabulary(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best", "text")
    before = checkpoint_digest(folder)
    config = json.loads((folder / "config.json").read_text())
    config["tokens"]["source_vocabulary_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint_digest(folder) != before
    with pytest.raises(CheckpointError, match=r"source_embedding\.weight"):
        load_model(folder)


def variant(**changes: Any) -> SequenceModel:
    return build_model(
        TypeAdapter(Model).validate_python({**SECTIONS["speech_transformer"], **changes}),
        vocabulary_size=VOCABULARY + 4,
        blank=BLANK,
        bos=BOS,
        eos=EOS,
    )


def test_a_translators_encoder_starts_from_a_recognisers(tmp_path: Path) -> None:
    folder = saved(tmp_path / "asr", "speech_transformer")
    encoder = {**SECTIONS["speech_transformer"]["encoder"], "attention_dropout": 0.3}
    model = variant(ctc=False, encoder=encoder)
    heads = {name: value.clone() for name, value in model.state_dict().items()}
    load_encoder(model, folder)
    theirs = load_file(folder / "model.safetensors")
    for name, value in model.state_dict().items():
        expected = theirs if name.startswith("encoder.") else heads
        assert torch.equal(value, expected[name]), name
    assert any(name.startswith("encoder.stack.layers.1.") for name in heads)


def test_an_encoder_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "asr", "recognizer_gru")
    with pytest.raises(CheckpointError, match=r"encoder\.type: asr has 'crdnn', the model 'trans"):
        load_encoder(variant(), folder)
    with pytest.raises(CheckpointError, match="cannot start a text_to_text model"):
        load_encoder(make("text"), folder)
    with pytest.raises(CheckpointError, match=r"front_end\.num_mels: text has None"):
        load_encoder(variant(), saved(tmp_path / "text", "text"))


def test_an_average_is_the_mean_of_each_weight(tmp_path: Path) -> None:
    folders = [saved(tmp_path / str(seed), "text", seed) for seed in (3, 4, 5)]
    models = [load_model(folder).model.state_dict() for folder in folders]
    averaged = average_checkpoints(folders)
    for name, value in averaged.items():
        expected = torch.stack([model[name].double() for model in models]).mean(0).float()
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-7)
        assert value.dtype == models[0][name].dtype
    make("text").load_state_dict(averaged)
    (one,) = [average_checkpoints(folders[:1])]
    assert all(torch.equal(one[name], models[0][name]) for name in one)


def test_checkpoints_that_differ_are_not_averaged(tmp_path: Path) -> None:
    folders = [saved(tmp_path / kind, kind) for kind in ("text", "berard")]
    with pytest.raises(CheckpointError, match=r"berard cannot be averaged .*architecture differ"):
        average_checkpoints(folders)
    with pytest.raises(CheckpointError, match="at least one"):
        average_checkpoints([])
