"""Checkpoint folders: safetensors weights and JSON; nothing in them is ever unpickled.

    model.safetensors   weights and normaliser statistics
    config.json         architecture, front end, special token ids, versions, extra
    tokens.json         the vocabulary
    source_tokens.json  the vocabulary that is read, of models that read text

A folder appears whole or not at all: it is written beside its place, flushed, and renamed.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kd_ray import __version__
from kd_ray.config.model import Model
from kd_ray.config.places import local_path
from kd_ray.models.build import build_model
from kd_ray.models.sequence_model import SequenceModel, SpeechModel
from kd_ray.models.text_to_text import TextToTextModel
from kd_ray.storage import fetch_folder, publish_folder, shown

FORMAT = "kd_ray checkpoint"
FORMAT_VERSION = 1
WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.json", "tokens.json"
SOURCE_TOKENS = "source_tokens.json"
_FILES = (WEIGHTS, CONFIG, TOKENS)
_FOREIGN_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".th"}
_MODELS: TypeAdapter[Model] = TypeAdapter(Model)
_PREVIOUS = re.compile(r"\.(.+)\.previous")
_SHOWN = 8
"""How many names an error lists before it says how many more there are."""


class CheckpointError(ValueError):
    """A folder that is no readable kd_ray checkpoint, or does not fit the model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model as its checkpoint folder holds it: in eval mode, frozen."""

    model: SequenceModel
    tokens: dict[str, Any]
    config: dict[str, Any]
    digest: str
    source_tokens: dict[str, Any] | None = None
    """What a text reader reads; None for speech."""


def save_model(
    folder: Path,
    model: SequenceModel,
    *,
    tokens: Mapping[str, Any],
    extra: Mapping[str, Any],
    source_tokens: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder, atomically; an older one of that name is replaced.

    Args:
        folder: where to; parents are made.
        model: whose weights, buffers and configuration are stored.
        tokens: the vocabulary as JSON, becomes `tokens.json`.
        extra: anything else worth keeping (data digest, scores, front-end digest), as JSON.
        source_tokens: the vocabulary that is read, for models that read text and them alone.

    Raises:
        CheckpointError: `folder` exists and is not a checkpoint folder, or source tokens are
            missing or come with a model that reads speech.
    """
    if (source_tokens is None) != (model.reads == "speech"):
        raise CheckpointError(
            f"{folder}: a {model.config.type} model reads {model.reads} and is saved "
            f"{'without' if model.reads == 'speech' else 'with its'} source tokens"
        )
    folder = local_path(folder)
    previous = _previous(folder)
    if folder.exists() and not _may_be_replaced(folder):
        raise CheckpointError(
            f"{folder} exists and is not a {FORMAT} folder, so it is not overwritten; "
            "name another folder or move it away"
        )
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": model.config.model_dump(mode="json"),
        "front_end": (
            model.config.front_end.model_dump(mode="json")
            if isinstance(model, SpeechModel)
            else None
        ),
        "tokens": _special_ids(model),
        "versions": {"kd_ray": __version__, "torch": str(torch.__version__)},
        "extra": dict(extra),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in _state(model).items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        save_file(weights, fresh / WEIGHTS)
        _write_json(fresh / CONFIG, config)
        _write_json(fresh / TOKENS, dict(tokens))
        if source_tokens is not None:
            _write_json(fresh / SOURCE_TOKENS, dict(source_tokens))
        for path in (*fresh.iterdir(), fresh):
            _flush(path)
        if folder.exists():
            # Between the two renames readers find the older folder under its other name.
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(folder, previous)
        os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _flush(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)
    publish_folder(folder, last=(CONFIG,))


def load_model(folder: Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Read a checkpoint folder; the model is in eval mode and needs no gradient.

    Raises:
        CheckpointError: a file is missing, unreadable or foreign, or the weights do not fit the
            architecture that `config.json` names.
    """
    folder = _existing(folder)
    config = read_config(folder)
    tokens = _read_json(folder / TOKENS)
    model = described_model(folder, config)
    source_tokens = _read_json(folder / SOURCE_TOKENS) if model.reads == "text" else None
    weights = read_weights(folder)
    check_fit(weights, _state(model), f"{folder / WEIGHTS} does not fit its own {CONFIG}")
    model.load_state_dict(weights)
    model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokens, config, _digest(folder, config), source_tokens)


def described_model(folder: Path, config: Mapping[str, Any]) -> SequenceModel:
    """The model that a checkpoint's `config.json` describes, with fresh weights.

    Raises:
        CheckpointError: it describes none that this version knows.
    """
    try:
        ids = config["tokens"]
        return build_model(
            _MODELS.validate_python(config["architecture"]),
            vocabulary_size=ids["vocabulary_size"],
            blank=ids["blank"],
            bos=ids["bos"],
            eos=ids["eos"],
            source_vocabulary_size=ids.get("source_vocabulary_size"),
        )
    except (KeyError, TypeError, ValidationError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} does not describe a model that kd_ray {__version__} knows "
            f"(it was written by {config.get('versions')}): {error!r}"
        ) from error


def load_encoder(model: SequenceModel, folder: Path) -> None:
    """Start `model`'s encoder from a checkpoint's; heads, vocabulary and normaliser stay its own.

    A speech translator starts from a recogniser of the same kind (`speech_to_text`, with or without
    a CTC head).

    Raises:
        CheckpointError: front end or encoder of the two differ, the model reads text, or the
            folder cannot be read.
    """
    if not isinstance(model, SpeechModel):
        raise CheckpointError(
            f"the encoder of {folder} cannot start a {model.config.type} model: only models that "
            "read speech start from another's encoder"
        )
    folder = _existing(folder)
    theirs = _filled_in(read_config(folder).get("architecture", {}))
    mine = model.config.model_dump(mode="json")
    differences = [
        f"{part}.{key}: {folder.name} has {theirs.get(part, {}).get(key)!r}, the model {value!r}"
        for part in ("front_end", "encoder")
        for key, value in mine[part].items()
        if "dropout" not in key and theirs.get(part, {}).get(key) != value
    ]
    if differences:
        raise CheckpointError(
            f"the encoder of {folder} cannot start this model:\n  "
            + "\n  ".join(differences)
            + "\nGive the model the same front_end and encoder settings, or start from scratch."
        )
    weights = {
        name.removeprefix("encoder."): value
        for name, value in read_weights(folder).items()
        if name.startswith("encoder.")
    }
    check_fit(weights, model.encoder.state_dict(), f"the encoder in {folder / WEIGHTS} is broken")
    model.encoder.load_state_dict(weights)


def load_weights(
    model: SequenceModel,
    folder: Path,
    *,
    tokens: Mapping[str, Any],
    source_tokens: Mapping[str, Any] | None = None,
) -> None:
    """Start `model` from a checkpoint of the same architecture and tokens, normaliser included.

    Raises:
        CheckpointError: architecture (but for dropout) or tokens of the two differ, or the folder
            cannot be read.
    """
    folder = _existing(folder)
    theirs = _flat(_filled_in(read_config(folder).get("architecture", {})))
    mine = _flat(model.config.model_dump(mode="json"))
    differences = [
        f"{key}: {folder.name} has {theirs.get(key)!r}, the model {mine.get(key)!r}"
        for key in sorted(mine.keys() | theirs.keys())
        if "dropout" not in key and theirs.get(key) != mine.get(key)
    ]
    if _read_json(folder / TOKENS) != dict(tokens):
        differences.append("tokens: those of the folder are others than those of data.tokens")
    # Without differences so far, the folder is of a text reader too.
    if (
        source_tokens is not None
        and not differences
        and _read_json(folder / SOURCE_TOKENS) != dict(source_tokens)
    ):
        differences.append("source tokens: others than those of data.source_tokens")
    if differences:
        raise CheckpointError(
            f"{folder} cannot start this model:\n  "
            + "\n  ".join(differences)
            + "\nGive the model the same settings and tokens, or start from scratch."
        )
    weights = read_weights(folder)
    check_fit(weights, _state(model), f"{folder / WEIGHTS} does not fit its own {CONFIG}")
    model.load_state_dict(weights)


def _flat(section: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _filled_in(architecture: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of keys that an older version did not know, if it is known at all."""
    try:
        return _MODELS.validate_python(architecture).model_dump(mode="json")
    except ValidationError:
        return architecture


def checkpoint_digest(folder: Path) -> str:
    """16 hex digits made of weights, architecture and special ids, and of nothing else."""
    folder = _existing(folder)
    return _digest(folder, read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, checked to be one of ours; loads no weights."""
    folder = _existing(folder)
    config = _read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG} is not of a {FORMAT}: its `format` is {config.get('format')!r}. "
            f"Only kd_ray checkpoint folders ({' + '.join(_FILES)}) are read."
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format version {config.get('format_version')!r}; "
            f"kd_ray {__version__} reads version {FORMAT_VERSION}"
        )
    return config


def _state(model: SequenceModel) -> dict[str, Tensor]:
    return dict(model.state_dict())


def _special_ids(model: SequenceModel) -> dict[str, int]:
    ids = {
        "vocabulary_size": model.vocabulary_size,
        "blank": model.blank,
        "bos": model.bos,
        "eos": model.eos,
    }
    if isinstance(model, TextToTextModel):
        ids["source_vocabulary_size"] = model.source_vocabulary_size
    return ids


def _digest(folder: Path, config: Mapping[str, Any]) -> str:
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    described = {"architecture": config.get("architecture"), "tokens": config.get("tokens")}
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def standing(folder: Path) -> Path:
    """The folder; the older one, moved aside, if its writer was killed before the new one stood."""
    return _previous(folder) if not folder.exists() and _previous(folder).is_dir() else folder


def original_name(folder: Path) -> str:
    """What a checkpoint folder is called, also where it stands aside."""
    aside = _PREVIOUS.fullmatch(folder.name)
    return folder.name if aside is None else aside[1]


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _may_be_replaced(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / CONFIG).is_file() or not any(folder.iterdir())


def _existing(folder: Path) -> Path:
    """The folder as it stands, if all files are in it; else says what is wrong."""
    asked, folder = folder, standing(fetch_folder(folder, only=lambda name: "/" not in name))
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not missing:
        return folder
    only = f"Only kd_ray checkpoint folders ({' + '.join(_FILES)}) are read"
    if not folder.exists():
        raise CheckpointError(f"{shown(asked)} does not exist. {only}.")
    names = [folder.name] if folder.is_file() else sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if Path(name).suffix in _FOREIGN_SUFFIXES]
    if foreign:
        raise CheckpointError(
            f"{folder} holds {_some(foreign)}, a checkpoint of another toolkit. {only}, and "
            "nothing is unpickled; train the teacher with `kd-ray train-teachers`."
        )
    raise CheckpointError(
        f"{folder} lacks {', '.join(missing)}; it holds {_some(names) or 'nothing'}. {only}."
    )


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that lack something, or have another shape or type.

    Raises:
        CheckpointError: `what`, and the first differences.
    """
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not known" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype}, "
        f"must be {tuple(value.shape)} {value.dtype}"
        for name, value in wanted.items()
        if name in found and (found[name].shape, found[name].dtype) != (value.shape, value.dtype)
    ]
    if problems:
        raise CheckpointError(f"{what}: {_some(problems, '; ')}")


def _some(names: list[str], separator: str = ", ") -> str:
    rest = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Weights and buffers by name, on the CPU, backed by a mapping of the file (not copied).

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
