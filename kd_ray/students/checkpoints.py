"""Training state on disk: everything that makes a resumed run equal to an uninterrupted one.

`checkpoints/update-00000120/` holds `model/` (a checkpoint folder like any other),
`optimizer.safetensors`, `state.json`, and `rollouts.json`: what the student had written for updates
that were in flight, and what it remembers of earlier ones. Nothing in it is pickled.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kd_ray.evaluation.run_folder import write_atomically, write_json
from kd_ray.models.checkpoint import CheckpointError, load_model, save_model
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.storage import publish, publish_folder, remove

_NAME = re.compile(r"update-(\d{8})$")
_LOOK_S = 0.5


class TrainingCheckpoints:
    """The checkpoints of one run; only rank 0 saves."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep

    def save(
        self,
        model: SequenceModel,
        optimizer: torch.optim.Optimizer,
        *,
        tokens: dict[str, Any],
        state: dict[str, Any],
        source_tokens: dict[str, Any] | None = None,
        rollouts: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint under its update number; it appears whole or not at all."""
        target = self.folder / f"update-{state['update']:08d}"
        part = self.folder / f".{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_model(
            part / "model", model, tokens=tokens, extra={"update": state["update"]},
            source_tokens=source_tokens,
        )  # fmt: skip
        tensors, plain = _split(optimizer.state_dict())
        save_file(tensors, part / "optimizer.safetensors")
        # Without indentation, which would give every token a line of its own.
        write_atomically(part / "rollouts.json", json.dumps(dict(rollouts or {})) + "\n")
        write_json(part / "state.json", {**state, "optimizer": plain})
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        # At an address: lines of updates behind the checkpoint are dropped at a resume, and missing
        # ones never made again; so they go first. With `state.json` the checkpoint counts as whole.
        publish(self.folder.parent / "metrics.jsonl")
        publish_folder(target, last=("state.json",))
        for old in self._numbered()[: -self.keep]:
            remove(old)
        return target

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._numbered()
        return found[-1] if found else None

    def await_named(self, name: str, timeout_s: float) -> Path:
        """The checkpoint of this name, whole; waits for it.

        Raises:
            CheckpointError: it is not to be seen.
        """
        limit_s = time.monotonic() + timeout_s
        folder = self.folder / name
        while folder not in self._numbered():
            if time.monotonic() >= limit_s:
                raise CheckpointError(
                    f"worker 0 goes on from {folder}, which is not on this node "
                    f"({socket.gethostname()}) after {timeout_s:g} s; run folders must be on a "
                    "disk that all nodes see, or at an address (KD_RAY_ROOT=s3://...)"
                )
            time.sleep(_LOOK_S)
        return folder

    def clean(self) -> None:
        """Remove what a killed run left half written."""
        for part in self.folder.glob(".update-*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def state(self, folder: Path) -> dict[str, Any]:
        """What stands in its `state.json`, to be looked at before anything is loaded.

        Raises:
            CheckpointError: the file is damaged; says what the same command does without it.
        """
        with self._whole(folder):
            content: dict[str, Any] = json.loads(
                (folder / "state.json").read_text(encoding="utf-8")
            )
        return content

    def restore(
        self,
        folder: Path,
        state: Mapping[str, Any],
        model: SequenceModel,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Load weights and optimiser in place; `state` is the checkpoint's own.

        Raises:
            CheckpointError: a file of it is damaged; says what the same command does without it.
        """
        with self._whole(folder):
            model.load_state_dict(load_model(folder / "model").model.state_dict())
            tensors = load_file(folder / "optimizer.safetensors")
            optimizer.load_state_dict(_join(tensors, state["optimizer"], optimizer))

    def rollouts(self, folder: Path) -> dict[str, Any]:
        """What the student had written when the checkpoint was made, as it was saved."""
        path = folder / "rollouts.json"
        if not path.exists():
            return {}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    @contextmanager
    def _whole(self, folder: Path) -> Iterator[None]:
        """Whatever cannot be read of a checkpoint is damage, and there is a way on."""
        try:
            yield
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            older = [each for each in self._numbered() if each.name < folder.name]
            then = f"goes on from {older[-1].name}" if older else "starts from the beginning"
            raise CheckpointError(
                f"checkpoint {folder} is damaged ({error}); remove that folder, and the same "
                f"command {then}"
            ) from error

    def _numbered(self) -> list[Path]:
        if not self.folder.exists():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if _NAME.search(path.name) and (path / "state.json").exists()
        )


def _split(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors and plain values."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                plain[f"{index}.{name}"] = value
    return tensors, plain


def _join(
    tensors: dict[str, torch.Tensor], plain: dict[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
