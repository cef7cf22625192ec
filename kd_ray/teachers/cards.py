"""Who the teachers of a pool are, known without loading their weights.

Hundreds of teachers share a few architectures and token files: `Blueprints` makes those once.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kd_ray.config.sources import Precision
from kd_ray.core.contracts import TeacherInfo
from kd_ray.evaluation.system import System, resolve_checkpoint, system_name
from kd_ray.models.checkpoint import (
    CONFIG,
    SOURCE_TOKENS,
    TOKENS,
    WEIGHTS,
    CheckpointError,
    check_fit,
    checkpoint_digest,
    read_config,
    read_weights,
)
from kd_ray.models.sequence_model import SequenceModel, SpeechModel
from kd_ray.models.shells import Shells
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.teacher import info_of

NO_STAMP = (-1, -1)
"""Of no file: the digest is taken anew before such a teacher is loaded."""


@dataclass(frozen=True)
class TeacherCard:
    """A teacher that may be loaded; `info.index` is its number in the pool."""

    info: TeacherInfo
    weight_bytes: int
    """Of its weights and buffers, in memory."""
    stamp: tuple[int, int]
    """Size and time of change (ns) of the file that `info.digest` was made of."""

    @property
    def index(self) -> int:
        """Its number in the pool."""
        return self.info.index

    @property
    def folder(self) -> Path:
        """Its checkpoint."""
        return Path(self.info.folder)


class Blueprints:
    """What checkpoints have in common: shells by architecture, token inventories by content."""

    def __init__(self) -> None:
        self.shells = Shells()
        self._tokens = functools.lru_cache(maxsize=32)(_tokens_of)

    def system(
        self, folder: Path, digest: str, *, weights: Mapping[str, Tensor] | None = None
    ) -> System:
        """What `load_system` makes of a checkpoint folder; without `weights` it cannot compute.

        Raises:
            CheckpointError: a file is missing or broken, or the weights do not fit.
        """
        config = read_config(folder)
        model: SequenceModel
        if weights is None:
            model = self.shells.of(folder, config)
        else:
            model = self.shells.filled(folder, config, weights)
        return System(
            model=model,
            tokens=self._read_tokens(folder / TOKENS),
            extractor=(
                LogMelExtractor(model.config.front_end) if isinstance(model, SpeechModel) else None
            ),
            folder=folder,
            digest=digest,
            name=system_name(folder),
            device=next(model.parameters()).device,
            source_tokens=(
                self._read_tokens(folder / SOURCE_TOKENS) if model.reads == "text" else None
            ),
        )

    def _read_tokens(self, path: Path) -> Tokens:
        try:
            return self._tokens(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as a token file: {error}") from error


def _tokens_of(content: str) -> Tokens:
    return Tokens.from_dict(json.loads(content))


def card_of(
    folder: Path,
    index: int,
    blueprints: Blueprints | None = None,
    precision: Precision = "float32",
) -> TeacherCard:
    """Read who a teacher is: `config.json`, token files, and the digest of its weights.

    The weights' names, shapes and types are checked, so that most broken files are found here.

    Args:
        folder: a checkpoint folder, or a run folder with one.
        index: the teacher's number in the pool.
        blueprints: shared by the cards of a pool, so that each costs little more than its digest.
        precision: in which it will compute.

    Raises:
        CheckpointError, UnusableSystem: a file is missing, broken or foreign, or the weights do
            not fit the architecture.
    """
    checkpoint = resolve_checkpoint(folder)
    stamp = stamp_of(checkpoint)
    system = (blueprints or Blueprints()).system(checkpoint, checkpoint_digest(checkpoint))
    weights = read_weights(checkpoint)
    check_fit(
        weights, system.model.state_dict(), f"{checkpoint / WEIGHTS} does not fit its own {CONFIG}"
    )
    size = sum(value.numel() * value.element_size() for value in weights.values())
    return TeacherCard(info_of(system, index, precision), size, stamp)


def stamp_of(folder: Path) -> tuple[int, int]:
    """Size and time of change (ns) of a checkpoint's weights.

    Raises:
        CheckpointError: there is no such file.
    """
    try:
        status = (folder / WEIGHTS).stat()
    except OSError as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    return status.st_size, status.st_mtime_ns
