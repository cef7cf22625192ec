"""An update that went wrong, on disk, and taken again: where does what is not finite come from?

`failed_updates/update-00000123/` holds, for every worker, the model before the update, its
micro-batches with the teachers' targets, and what was found; `replay.yaml` is the configuration of
the command that takes it again. Nothing in it is pickled.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.load import check
from kd_ray.core.contracts import Labels, Signal
from kd_ray.core.criteria import Part
from kd_ray.core.exploration import TriedItems
from kd_ray.core.imitation import Items
from kd_ray.core.losses import LossSum
from kd_ray.core.targets import LabelStrings, TokenTarget
from kd_ray.evaluation.run_folder import RunFolder, write_atomically, write_json
from kd_ray.models.checkpoint import load_model, save_model
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.tokens import Tokens
from kd_ray.students.collective import Alone
from kd_ray.students.criterion import build_criterion
from kd_ray.students.data import Batch
from kd_ray.students.materials import Inventories
from kd_ray.students.pipeline import MicroBatch, Update
from kd_ray.students.step import Learner, TeacherForcing

KEEP = 8
"""Failed updates that a run keeps, the latest ones."""

_ITEM_COLUMNS = ("utterance", "on_policy", "kd_weight", "gold_weight", "asked")
_TRIED_COLUMNS = ("actions", "random", "ended", "rewards", "advantage", "counts")

Record = TypeVar("Record", Labels, TokenTarget, LabelStrings)


class ReplayError(ValueError):
    """A folder that holds no failed update."""


@dataclass(frozen=True)
class Replay:
    """What taking the update again gave; losses and norms over all workers, as in the run."""

    update: int
    loss: float
    grad_norm: float
    recorded_loss: float
    recorded_grad_norm: float
    utterances: dict[str, dict[str, float]]
    """By id, the sums of each part of the loss over this utterance alone."""
    bad_parameters: tuple[str, ...]
    """Parameters that are not finite before the update."""
    bad_gradients: tuple[str, ...]
    """Parameters whose gradient is not finite."""
    bad_features: tuple[str, ...]
    """Utterances whose features are not finite."""

    @property
    def bad_utterances(self) -> tuple[str, ...]:
        """Utterances with a part of the loss that is not finite."""
        return tuple(
            name
            for name, parts in self.utterances.items()
            if not all(math.isfinite(value) for value in parts.values())
        )


def dump_update(
    run: RunFolder,
    config: TrainConfig | DistillConfig,
    learner: Learner,
    inventories: Inventories,
    update: Update,
    signals: Sequence[Signal | None],
    counts: Mapping[Part, float],
    *,
    alpha: float | None,
    loss: float,
    grad_norm: float,
) -> Path:
    """Write this worker's share of an update, before any step was taken; returns its folder."""
    everything = run.path / "failed_updates"
    folder = everything / f"update-{update.index + 1:08d}"
    mine = folder / f"rank-{learner.collective.rank}"
    shutil.rmtree(mine, ignore_errors=True)
    if learner.collective.rank == 0:
        # Shares of a larger group, which came to this update before.
        for other in folder.glob("rank-*"):
            if int(other.name.split("-")[1]) >= learner.collective.world:
                shutil.rmtree(other, ignore_errors=True)
    source = inventories.source
    save_model(
        mine / "model", learner.model, tokens=inventories.target.to_dict(), extra={},
        source_tokens=None if source is None else source.to_dict(),
    )  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    for position, (micro, signal) in enumerate(zip(update.micro_batches, signals, strict=True)):
        arrays |= _micro_arrays(f"{position}.", micro, signal)
    save_file(arrays, mine / "batches.safetensors")
    described = {
        "update": update.index,
        "epoch": update.epoch,
        "ends_epoch": update.ends_epoch,
        "utterance_ids": list(update.utterance_ids),
        "micro_batches": [
            {
                "utterance_ids": list(micro.batch.utterance_ids),
                "part": micro.part,
                "ghost": micro.ghost,
            }
            for micro in update.micro_batches
        ],
        "world": learner.collective.world,
        "counts": dict(counts),
        "alpha": alpha,
        # JSON has no infinity.
        "loss": repr(loss),
        "grad_norm": repr(grad_norm),
        "config": config.model_dump(mode="json"),
    }
    write_json(mine / "update.json", described)
    name = f"runs/{run.name}/failed_updates/{folder.name}"
    write_atomically(folder / "replay.yaml", f"command: replay\nfolder: {name}\n")
    for old in sorted(everything.iterdir())[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def replay_update(folder: Path) -> Replay:
    """Take a failed update again, from its folder alone, on the CPU.

    Raises:
        ReplayError: the folder, or the share of one of its workers, is missing.
    """
    shares = sorted(folder.glob("rank-*"), key=lambda path: int(path.name.split("-")[1]))
    if not shares:
        raise ReplayError(f"{folder} holds no failed update (no folder rank-0 in it)")
    described = [_described(share) for share in shares]
    first = described[0]
    if len(shares) != first["world"]:
        raise ReplayError(
            f"{folder} holds the shares of {len(shares)} of {first['world']} workers; the update "
            "cannot be taken again as a whole"
        )
    loaded = load_model(shares[0] / "model")
    config = check(first["config"], "update.json")
    assert isinstance(config, TrainConfig | DistillConfig)
    model = loaded.model.requires_grad_(True)
    learner = _learner(config, model, Tokens.from_dict(loaded.tokens))
    parameters = dict(learner.model.named_parameters())
    loss = 0.0
    utterances: dict[str, dict[str, float]] = {}
    bad_features: list[str] = []

    def watch(
        micro: MicroBatch, signal: Signal | None, losses: Mapping[str, LossSum], logits: Tensor
    ) -> None:
        for row, name in enumerate(micro.batch.utterance_ids):
            utterances[name] = {
                part: float(each.rows[row].detach()) for part, each in losses.items()
            }

    for share, each in zip(shares, described, strict=True):
        update, signals = _read(share, each)
        sums = learner.accumulate_gradients(
            update, signals, each["counts"], alpha=each["alpha"], on_losses=watch
        )
        loss += sums["loss"]
        for micro in update.micro_batches:
            for row, utterance in enumerate(micro.batch.utterance_ids):
                if not micro.batch.inputs[row, : micro.batch.lengths[row]].isfinite().all():
                    bad_features.append(utterance)
    if first["update"] < config.training.freeze_encoder_updates:
        # As the run did, before it took the norm.
        learner.forget_encoder_gradients()
    gradients = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    norm = nn.utils.get_total_norm(list(gradients.values()))
    return Replay(
        update=first["update"] + 1,
        loss=loss,
        grad_norm=float(norm),
        recorded_loss=float(first["loss"]),
        recorded_grad_norm=float(first["grad_norm"]),
        utterances=utterances,
        bad_parameters=tuple(n for n, value in parameters.items() if not value.isfinite().all()),
        bad_gradients=tuple(n for n, value in gradients.items() if not value.isfinite().all()),
        bad_features=tuple(bad_features),
    )


def _described(share: Path) -> dict[str, Any]:
    path = share / "update.json"
    if not path.is_file():
        raise ReplayError(f"{share} lacks update.json: the run was killed while it wrote it")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _learner(config: TrainConfig | DistillConfig, model: SequenceModel, tokens: Tokens) -> Learner:
    return Learner(
        model=model,
        forward=TeacherForcing(model),
        criterion=build_criterion(config, tokens),
        collective=Alone(),
        augment=config.data.augment if model.reads == "speech" else None,
        device=torch.device("cpu"),
        seed=config.training.seed,
    )


def _micro_arrays(prefix: str, micro: MicroBatch, signal: Signal | None) -> dict[str, np.ndarray]:
    batch = micro.batch
    arrays = {
        f"{prefix}inputs": batch.inputs.numpy(),
        f"{prefix}lengths": batch.lengths.numpy(),
        **_record(f"{prefix}references.", batch.references),
    }
    if micro.items is not None:
        arrays |= _record(f"{prefix}prefix.", micro.items.prefix)
        for name in _ITEM_COLUMNS:
            arrays[f"{prefix}items.{name}"] = getattr(micro.items, name)
    if isinstance(micro.items, TriedItems):
        arrays |= _record(f"{prefix}tried.", micro.items.tried)
        for name in _TRIED_COLUMNS:
            arrays[f"{prefix}items.{name}"] = getattr(micro.items, name)
    if signal is not None and signal.tokens is not None:
        arrays |= _record(f"{prefix}tokens.", signal.tokens)
    if signal is not None and signal.labels is not None:
        arrays |= _record(f"{prefix}labels.", signal.labels)
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def _record(prefix: str, record: Labels | TokenTarget | LabelStrings) -> dict[str, np.ndarray]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {f"{prefix}{name}": value for name, value in values.items() if value is not None}


def _of(kind: type[Record], prefix: str, arrays: Mapping[str, np.ndarray]) -> Record | None:
    values = {name.removeprefix(prefix): value for name, value in arrays.items()
              if name.startswith(prefix)}  # fmt: skip
    return kind(**values) if values else None


def _read(share: Path, described: Mapping[str, Any]) -> tuple[Update, list[Signal | None]]:
    arrays = load_file(share / "batches.safetensors")
    micro_batches, signals = [], []
    for position, each in enumerate(described["micro_batches"]):
        references = _of(Labels, f"{position}.references.", arrays)
        assert references is not None
        batch = Batch(
            utterance_ids=tuple(each["utterance_ids"]),
            inputs=torch.from_numpy(arrays[f"{position}.inputs"]),
            lengths=torch.from_numpy(arrays[f"{position}.lengths"]),
            references=references,
            audio=None,
        )
        items = _items(f"{position}.", arrays)
        micro_batches.append(MicroBatch(batch, part=each["part"], ghost=each["ghost"], items=items))
        signals.append(_signal(f"{position}.", batch, arrays))
    update = Update(
        index=described["update"],
        epoch=described["epoch"],
        ends_epoch=described["ends_epoch"],
        utterance_ids=tuple(described["utterance_ids"]),
        micro_batches=micro_batches,
    )
    return update, signals


def _items(prefix: str, arrays: Mapping[str, np.ndarray]) -> Items | None:
    strings = _of(Labels, f"{prefix}prefix.", arrays)
    if strings is None:
        return None
    columns = {name: arrays[f"{prefix}items.{name}"] for name in _ITEM_COLUMNS}
    tried = _of(Labels, f"{prefix}tried.", arrays)
    if tried is None:
        return Items(prefix=strings, **columns)
    worth: dict[str, Any] = {name: arrays[f"{prefix}items.{name}"] for name in _TRIED_COLUMNS}
    return TriedItems(prefix=strings, tried=tried, own=None, **columns, **worth)


def _signal(prefix: str, batch: Batch, arrays: Mapping[str, np.ndarray]) -> Signal | None:
    tokens = _of(TokenTarget, f"{prefix}tokens.", arrays)
    labels = _of(LabelStrings, f"{prefix}labels.", arrays)
    if tokens is None and labels is None:
        return None
    rows = len(tokens.lengths) if tokens is not None else len(batch.utterance_ids)
    # Who said it is not part of the loss.
    nobody, unknown = np.zeros((0, rows)), np.zeros((0, rows), dtype=np.int64)
    return Signal(
        utterance_ids=batch.utterance_ids,
        tokens=tokens,
        labels=labels,
        weights_tokens=nobody,
        weights_labels=nobody,
        ctc_errors=unknown,
        decoder_errors=unknown,
        reference_lengths=np.full(rows, -1),
        answered=(),
        num_teachers=0,
    )
