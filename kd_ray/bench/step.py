"""What distillation costs a student: a step from the store against a supervised step.

Both students are the same architecture on the same batches; their updates alternate, so that
whatever else the machine does hits both alike. Medians over updates; the ratio is of medians.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_ray.config.commands import BenchStepConfig, DistillConfig, TrainConfig
from kd_ray.config.sources import StoreSource as StoreSection
from kd_ray.config.training import Supervised, Training
from kd_ray.core.contracts import Audio, Fusion, Labels, Score, TeacherOutput, TeacherSource
from kd_ray.core.losses import token_cross_entropy, token_tensors
from kd_ray.core.strategies import fuse
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.evaluation.token_file import token_file
from kd_ray.speech.manifest import Utterance, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.assembly import build_student
from kd_ray.students.collective import Alone
from kd_ray.students.loop import Progress, Student, take_update
from kd_ray.teachers.temporary import temporary_store

_BATCHES = 8
"""Different batches that the measurement goes round in."""


def measure_step(config: BenchStepConfig, root: Path) -> dict[str, Any]:
    """Seconds of a supervised and of a store-distilled update, and of the decoder's KD loss."""
    torch.set_num_threads(config.threads)
    assert config.teachers.list is not None
    folders = read_teacher_list(config.teachers.list, root)
    rows = read_manifest(root / config.data.train)[: config.data.batches.batch_size * _BATCHES]
    with temporary_store(
        folders,
        rows,
        root=root,
        tokens=token_file(config, root),
        column=config.data.column,
        dtype=config.teachers.dtype,
    ) as source:
        steps = _measure_updates(config, root, rows, source)
        loss = _measure_decoder_loss(config, root, rows, source)
    supervised, distilled = (statistics.median(steps[name]) for name in ("supervised", "store"))
    return {
        "threads": config.threads,
        "teachers": len(folders),
        "batch_size": config.data.batches.batch_size,
        "updates": config.repeats,
        "supervised_step_s": supervised,
        "store_step_s": distilled,
        "store_to_supervised": distilled / supervised,
        "all_s": steps,
        "decoder_loss": loss,
    }


def _measure_updates(
    config: BenchStepConfig, root: Path, rows: Sequence[Utterance], source: TeacherSource
) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="kd-ray-bench-") as temporary:
        manifest = Path(temporary) / "few.parquet"
        write_manifest(manifest, rows)
        data = config.data.model_copy(update={"train": str(manifest), "valid": str(manifest)})
        total = config.warmup + config.repeats
        training = Training(epochs=total // _BATCHES + 1, max_updates=total)
        distillation = config.distillation
        supervised = TrainConfig(
            command="train",
            name="supervised",
            data=data,
            model=config.model,
            loss=Supervised(
                ctc_weight=distillation.ctc_weight, label_smoothing=distillation.label_smoothing
            ),
            training=training,
        )
        distilled = DistillConfig(
            command="distill",
            name="store",
            data=data,
            model=config.model,
            teachers=config.teachers.model_copy(update={"source": StoreSection(path="-")}),
            distillation=distillation,
            training=training,
        )
        updates = {
            each.name: _updates(each, root, Path(temporary), signals)
            for each, signals in ((supervised, None), (distilled, source))
        }
        seconds: dict[str, list[float]] = {name: [] for name in updates}
        for position in range(total):
            for name, steps in updates.items():
                started = time.perf_counter()
                next(steps)
                if position >= config.warmup:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def _updates(
    config: TrainConfig | DistillConfig,
    root: Path,
    temporary: Path,
    source: TeacherSource | None,
) -> Iterator[None]:
    """The student's updates, one for each `next`: data, signals, losses, gradients, step."""
    run = RunFolder(temporary, config.name)
    student: Student
    student, _ = build_student(config, run, root, Alone(), torch.device("cpu"), source=source)
    progress = Progress()
    for update in student.pipeline.updates(0):
        take_update(student, progress, update)
        yield


def _measure_decoder_loss(
    config: BenchStepConfig, root: Path, rows: Sequence[Utterance], source: TeacherSource
) -> dict[str, Any]:
    """The decoder's distillation loss, forward and backward, and the fusing before it.

    More teachers than there are: copies of their outputs with small noise stand in for them.
    """
    batch = rows[: config.data.batches.batch_size]
    tokens = Tokens.load(token_file(config, root))
    fusion = Fusion(strategy=config.teachers.strategy, temperature=config.distillation.temperature)
    request = Score(
        utterance_ids=tuple(row.id for row in batch),
        audio=Audio.of([]),
        references=Labels.of([tokens.encode(row.text(config.data.column) or "") for row in batch]),
        fusion=fusion,
        per_teacher=True,
    )
    outputs = source.ask(request).result(600.0).outputs
    figures: dict[str, Any] = {}
    for count in config.teacher_counts:
        many = _multiply(outputs, count)
        started = time.perf_counter()
        targets = fuse(many, fusion, count)
        fuse_s = time.perf_counter() - started
        assert targets.tokens is not None
        target = token_tensors(targets.tokens)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(targets.tokens.log_probs.shape, generator=generator)
        seconds = []
        for _ in range(config.warmup + config.repeats):
            leaf = logits.clone().requires_grad_()
            started = time.perf_counter()
            loss = token_cross_entropy(leaf, target, temperature=fusion.temperature)
            loss.mean.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
        figures[str(count)] = {
            "loss_s": statistics.median(seconds[config.warmup :]),
            "fuse_s": fuse_s,
            "target_bytes": targets.tokens.log_probs.nbytes,
        }
    return figures


def _multiply(outputs: Sequence[TeacherOutput], count: int) -> list[TeacherOutput]:
    generator = np.random.default_rng(0)
    many = []
    for index in range(count):
        output = outputs[index % len(outputs)]
        assert output.log_probs is not None
        noise = generator.normal(0.0, 0.1, output.log_probs.shape).astype(np.float32)
        logits = torch.from_numpy(output.log_probs + noise)
        log_probs = torch.log_softmax(logits, dim=-1).numpy()
        many.append(replace(output, teacher=index, log_probs=log_probs))
    return many
