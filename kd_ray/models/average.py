"""The mean of several checkpoints' weights, which is often better than each of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kd_ray.models.checkpoint import CheckpointError, load_model


def average_checkpoints(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The state dict of the mean model, on the CPU; sums are taken in float64.

    Args:
        folders: checkpoint folders of one architecture and vocabulary, e.g. the last k of a run.

    Raises:
        CheckpointError: no folder, one that cannot be read, or two that differ in architecture
            or token ids.
    """
    if not folders:
        raise CheckpointError("no checkpoint to average; name at least one folder")
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    described: dict[str, object] = {}
    for folder in folders:
        loaded = load_model(folder)
        mine = {key: loaded.config.get(key) for key in ("architecture", "tokens")}
        described = described or mine
        for key, value in mine.items():
            if value != described[key]:
                raise CheckpointError(
                    f"{folder} cannot be averaged with {folders[0]}: their {key} differ: "
                    f"{value} and {described[key]}"
                )
        for name, weight in loaded.model.state_dict().items():
            sums[name] = sums[name] + weight.double() if name in sums else weight.double()
            dtypes[name] = weight.dtype
    return {name: (total / len(folders)).to(dtypes[name]) for name, total in sums.items()}
