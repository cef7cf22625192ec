import json
from pathlib import Path

import pytest
import torch
from model_doubles import batch, tiny_model
from safetensors.torch import load_file, save_file

from kd_ray.models import checkpoint
from kd_ray.models.checkpoint import (
    CheckpointError,
    checkpoint_digest,
    load_encoder,
    load_model,
    save_model,
)

TOKENS = {"unit": "phones", "symbols": ["<blank>", "<bos>", "<eos>", "ʃ", "a"]}


def saved(folder: Path, seed: int = 3, **settings: str) -> Path:
    save_model(folder, tiny_model(seed, **settings), tokens=TOKENS, extra={"per": 12.5})
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_loaded_model_says_what_the_saved_one_said(tmp_path: Path) -> None:
    model = tiny_model(normalizer="global").eval()
    model.set_normalizer(torch.ones(8), torch.full((8,), 3.0))
    save_model(tmp_path / "a" / "teacher", model, tokens=TOKENS, extra={"per": 12.5})
    loaded = load_model(tmp_path / "a" / "teacher")
    features, lengths = batch([9, 5])
    for one in (model, loaded.model):
        assert one.normalize(features, lengths).abs().sum() > 0
    mine, theirs = (
        m.ctc_logits(m.encode(m.normalize(features, lengths), lengths))
        for m in (model, loaded.model)
    )
    assert torch.equal(mine, theirs)
    assert loaded.tokens == TOKENS
    assert loaded.config["extra"] == {"per": 12.5}
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.digest == checkpoint_digest(tmp_path / "a" / "teacher")


def test_saving_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    saved(tmp_path / "best")
    saved(tmp_path / "best", seed=4)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokens.json",
    ]


def test_digest_names_weights_and_architecture_and_nothing_else(tmp_path: Path) -> None:
    first = checkpoint_digest(saved(tmp_path / "a"))
    assert len(first) == 16
    int(first, 16)
    assert checkpoint_digest(saved(tmp_path / "b")) == first
    change(tmp_path / "b" / "config.json", extra={"per": 99}, versions={})
    assert checkpoint_digest(tmp_path / "b") == first
    assert checkpoint_digest(saved(tmp_path / "c", seed=4)) != first
    change(tmp_path / "b" / "config.json", tokens={"blank": 1})
    assert checkpoint_digest(tmp_path / "b") != first


@pytest.mark.parametrize("stage", ["write", "between renames"])
def test_a_killed_save_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    folder = saved(tmp_path / "best")
    digest = checkpoint_digest(folder)
    target = "_write_json" if stage == "write" else "os.rename"
    renames = []

    def fail(*arguments: object) -> None:
        renames.append(arguments)
        if stage == "write" or len(renames) == 2:
            raise KeyboardInterrupt
        Path(arguments[0]).replace(arguments[1])

    with monkeypatch.context() as patch:
        patch.setattr(f"{checkpoint.__name__}.{target}", fail)
        with pytest.raises(KeyboardInterrupt):
            saved(folder, seed=4)
    assert checkpoint_digest(folder) == digest
    assert load_model(folder).digest == digest
    saved(folder, seed=4)
    assert checkpoint_digest(folder) != digest
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="not overwritten"):
        saved(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


@pytest.mark.parametrize("name", ["model.ckpt", "checkpoint_best.pt", "pytorch_model.bin"])
def test_a_foreign_checkpoint_is_named_and_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04anything")
    for read in (load_model, checkpoint_digest):
        with pytest.raises(CheckpointError, match=name) as caught:
            read(tmp_path)
        assert "model.safetensors + config.json + tokens.json" in str(caught.value)
        with pytest.raises(CheckpointError, match=name):
            read(tmp_path / name)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nothing")
    folder = saved(tmp_path / "best")
    (folder / "tokens.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokens\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": "other"}, "'other'"),
        ({"format_version": 99}, "version 99"),
        ({"architecture": {"type": "recognizer", "encoder": {"rnn": "tcn"}}}, "tcn"),
        ({"tokens": {"vocabulary_size": 11}}, "blank"),
        ({"tokens": {"vocabulary_size": 12, "blank": 0, "bos": 1, "eos": 2}}, r"ctc\.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    tmp_path: Path, values: dict[str, object], words: str
) -> None:
    folder = saved(tmp_path / "best")
    change(folder / "config.json", **values)
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best")
    weights = load_file(folder / "model.safetensors")
    weights["surplus"] = weights.pop("ctc.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ctc\.bias is missing; surplus is not known"):
        load_model(folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_model(folder)


def test_an_encoder_starts_from_another_models(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best", seed=8)
    model = tiny_model(seed=9)
    heads = {name: value.clone() for name, value in model.state_dict().items()}
    load_encoder(model, folder)
    theirs = load_file(folder / "model.safetensors")
    for name, value in model.state_dict().items():
        expected = theirs if name.startswith("encoder.") else heads
        assert torch.equal(value, expected[name]), name


def test_an_encoder_of_an_older_version_has_the_new_defaults(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best", seed=8)
    config = json.loads((folder / "config.json").read_text())
    del config["architecture"]["front_end"]["snip_edges"]
    (folder / "config.json").write_text(json.dumps(config))
    load_encoder(tiny_model(), folder)


def test_an_encoder_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best", rnn="lstm")
    with pytest.raises(CheckpointError, match=r"encoder\.rnn: best has 'lstm', the model 'gru'"):
        load_encoder(tiny_model(), folder)
