"""A trained model with all it needs to hear and to write: weights, tokens, front end."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.models.checkpoint import load_model
from kd_ray.models.encoders import Encoded
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.tokens import Tokens


class UnusableSystem(ValueError):
    """A checkpoint, run folder, teacher list or split that cannot be used for what is asked."""


@dataclass(frozen=True, eq=False)
class System:
    """A frozen recogniser in evaluation mode."""

    model: RecognizerModel
    tokens: Tokens
    extractor: LogMelExtractor
    folder: Path
    digest: str
    name: str
    device: torch.device

    @torch.inference_mode()
    def encode(self, features: Tensor, lengths: Tensor) -> Encoded:
        """Un-normalised features (B, T, F) and frames (B,) to encoder states."""
        features, lengths = features.to(self.device), lengths.to(self.device)
        return self.model.encode(self.model.normalize(features, lengths), lengths)

    @torch.inference_mode()
    def encode_waveforms(self, waveforms: Sequence[NDArray[np.int16]]) -> Encoded:
        """Mono 16 kHz waveforms to encoder states."""
        return self.encode(*self.extractor(waveforms))

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_system(folder: Path, device: str | torch.device = "cpu") -> System:
    """Load a checkpoint folder, or the best model of a run folder."""
    checkpoint = resolve_checkpoint(folder)
    loaded = load_model(checkpoint, device=str(device))
    model = loaded.model
    if not isinstance(model, RecognizerModel):
        raise UnusableSystem(f"{checkpoint} holds a {model.config.type} model, not a recogniser")
    tokens = Tokens.from_dict(loaded.tokens)
    return System(
        model=model,
        tokens=tokens,
        extractor=LogMelExtractor(model.config.front_end),
        folder=checkpoint,
        digest=loaded.digest,
        name=system_name(checkpoint),
        device=torch.device(device),
    )


def resolve_checkpoint(folder: Path) -> Path:
    """A checkpoint folder itself, or `model/` of a run folder."""
    if (folder / "model.safetensors").exists():
        return folder
    if (folder / "model" / "model.safetensors").exists():
        return folder / "model"
    if (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
        raise UnusableSystem(
            f"{folder} is a run folder without a model yet: its training has not reached its "
            "first validation; let it run on"
        )
    if not folder.exists():
        raise UnusableSystem(
            f"{folder} does not exist; expected a checkpoint folder (with model.safetensors) or a "
            "run folder"
        )
    # Foreign checkpoints get the message that names the way out.
    return folder


def system_name(checkpoint: Path) -> str:
    """What a system is called in tables: its run's name."""
    return checkpoint.parent.name if checkpoint.name == "model" else checkpoint.name


def read_teacher_list(spec: str | Sequence[str], root: Path) -> list[Path]:
    """Checkpoint folders of a teacher list, in order.

    `spec` is a text file (one folder or glob a line; blank lines and `#` comments are fine) or a
    sequence of folders or globs. Relative paths start at `root`. A path that does not exist is an
    error that names its line; a folder named twice is refused.
    """
    if isinstance(spec, str):
        path = root / spec
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UnusableSystem(f"teacher list {path}: {error.strerror}") from error
        places = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]
    else:
        places = [(f"teacher list, entry {number}", line) for number, line in enumerate(spec, 1)]
    found: dict[Path, str] = {}
    for place, line in places:
        pattern = line.split("#", 1)[0].strip()
        if not pattern:
            continue
        matches = sorted(glob.glob(str(root / pattern)))
        if not matches:
            raise UnusableSystem(f"{place}: {pattern} does not exist (looked in {root})")
        for match in matches:
            folder = resolve_checkpoint(Path(match))
            if folder in found:
                raise UnusableSystem(f"{place}: {folder} is already named in {found[folder]}")
            found[folder] = place
    if not found:
        raise UnusableSystem(f"teacher list {spec!r} names no teacher")
    return list(found)
