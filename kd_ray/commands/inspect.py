"""`kd-ray inspect CONFIG ID`: one utterance, and what everybody makes of it."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from kd_ray.commands.signals import expect_distillation, score_request
from kd_ray.config.base import Section
from kd_ray.config.commands import DistillConfig
from kd_ray.core.contracts import Fusion, Signal, TeacherInfo, TeacherOutput
from kd_ray.evaluation.decode import Hypothesis, decode_encoded
from kd_ray.evaluation.system import System, UnusableSystem, load_system, read_teacher_list
from kd_ray.evaluation.token_file import token_file
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import ManifestError, Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import load_teachers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherView:
    """What one teacher makes of the utterance."""

    name: str
    weight_tokens: float
    weight_labels: float
    ctc_errors: int
    decoder_errors: int
    confidence: float
    ctc: str
    along_reference: str
    """The decoder's likeliest token at each position along the reference."""


@dataclass(frozen=True)
class Inspection:
    """One utterance: reference, teachers, fused target, student."""

    utterance_id: str
    reference: str
    teachers: tuple[TeacherView, ...]
    strings: tuple[tuple[str, float], ...]
    """Label strings of the CTC target with their weights."""
    target: str
    """The fused decoder distribution's likeliest token at each position."""
    student: dict[str, str] | None
    """The student's own hypotheses (attention, ctc), if it is trained."""


def inspect(
    config: Section,
    utterance_id: str,
    root: Path,
    *,
    split: str | None = None,
    student: str | None = None,
) -> Inspection:
    """Ask every teacher about one utterance, in this process, and show what is made of it.

    Args:
        config: of `kd-ray distill`.
        utterance_id: looked for in `split`, else in the training and validation manifests.
        root: where relative paths start.
        split: another manifest.
        student: run or checkpoint folder; default: the run of this configuration, if it exists.
    """
    distill = expect_distillation(config, "inspect")
    manifests = [split] if split else [distill.data.train, distill.data.valid]
    utterance = _find(utterance_id, manifests, root)
    tokens = Tokens.load(token_file(distill, root))
    fusion = Fusion(
        strategy=distill.teachers.strategy,
        temperature=distill.distillation.temperature,
        compatibility=distill.distillation.compatibility,
        max_strings=distill.distillation.max_strings,
        dtype=distill.teachers.dtype,
        fusing=distill.distillation.fusing,
    )
    request = score_request(
        [utterance], root=root, tokens=tokens, config=distill, fusion=fusion, per_teacher=True
    )
    source = LocalSource(load_teachers(_folders(distill, root)))
    try:
        signal = source.ask(request).result(600.0)
        infos = source.describe().teachers
    finally:
        source.close()
    system = _student(distill, root, student)
    found = _assemble(utterance, tokens, distill, signal, infos, system, root)
    _show(found, distill)
    return found


def _find(utterance_id: str, manifests: list[str], root: Path) -> Utterance:
    for manifest in manifests:
        for row in read_manifest(root / manifest):
            if row.id == utterance_id:
                return row
    raise ManifestError(
        f"no utterance {utterance_id!r} in {', '.join(manifests)}; name another manifest with "
        "--split"
    )


def _folders(config: DistillConfig, root: Path) -> list[Path]:
    if config.teachers.list:
        return read_teacher_list(config.teachers.list, root)
    assert config.teachers.source.type == "store"
    store = TargetStore.open(root / config.teachers.source.path)
    return [Path(info.folder) for info in store.teachers]


def _student(config: DistillConfig, root: Path, folder: str | None) -> System | None:
    if folder is not None:
        return load_system(root / folder)
    try:
        return load_system(root / "runs" / config.name)
    except UnusableSystem:
        return None


def _assemble(
    utterance: Utterance,
    tokens: Tokens,
    config: DistillConfig,
    signal: Signal,
    infos: tuple[TeacherInfo, ...],
    system: System | None,
    root: Path,
) -> Inspection:
    assert signal.tokens is not None
    assert signal.labels is not None
    labels = signal.labels
    strings = tuple(
        (tokens.decode(row[:length]), float(weight))
        for row, length, weight in zip(labels.labels, labels.lengths, labels.weights, strict=True)
    )
    target = signal.tokens.log_probs[0, : signal.tokens.lengths[0]].argmax(-1)
    return Inspection(
        utterance_id=utterance.id,
        reference=utterance.text(config.data.column) or "",
        teachers=tuple(_view(output, infos, signal, tokens) for output in signal.outputs),
        strings=strings,
        target=_spell(target.tolist(), tokens),
        student=None if system is None else _decode(system, utterance, root),
    )


def _view(
    output: TeacherOutput, infos: tuple[TeacherInfo, ...], signal: Signal, tokens: Tokens
) -> TeacherView:
    index = output.teacher
    assert output.log_probs is not None
    along = output.log_probs[0, : output.positions[0]].argmax(-1).tolist()
    return TeacherView(
        name=infos[index].name,
        weight_tokens=float(signal.weights_tokens[index, 0]),
        weight_labels=float(signal.weights_labels[index, 0]),
        ctc_errors=int(output.ctc_errors[0]),
        decoder_errors=int(output.decoder_errors[0]),
        confidence=float(output.confidence[0]),
        ctc=tokens.decode(output.strings[0].tolist()),
        along_reference=_spell(along, tokens),
    )


def _spell(ids: list[int], tokens: Tokens) -> str:
    """Symbols one by one, special ones too: positions stay visible."""
    return " ".join(tokens.symbols[each] for each in ids)


def _decode(system: System, utterance: Utterance, root: Path) -> dict[str, str]:
    with torch.inference_mode():
        encoded = system.encode_waveforms([read_waveform(utterance, root)])
        found: Hypothesis = decode_encoded(system.model, encoded, [utterance.id])[0]
    return {
        "attention": system.tokens.decode(found.attention),
        "ctc": system.tokens.decode(found.ctc),
    }


def _show(found: Inspection, config: DistillConfig) -> None:
    console = Console()
    strategy = config.teachers.strategy.model_dump(exclude={"type"}, exclude_none=True)
    settings = ", ".join(f"{name} {value}" for name, value in strategy.items())
    console.print(
        f"[bold]{found.utterance_id}[/bold]  strategy {config.teachers.strategy.type}"
        + (f" ({settings})" if settings else ""),
        highlight=False,
    )
    console.print(f"reference  {found.reference}", highlight=False)
    table = Table()
    for title in ("teacher", "weight ctc", "weight dec.", "err. ctc", "err. dec.", "ctc output"):
        table.add_column(title, justify="left" if title in ("teacher", "ctc output") else "right")
    for view in found.teachers:
        table.add_row(
            view.name,
            f"{view.weight_labels:.3f}",
            f"{view.weight_tokens:.3f}",
            str(view.ctc_errors),
            str(view.decoder_errors),
            view.ctc,
        )
    console.print(table)
    for string, weight in found.strings:
        console.print(f"ctc target {weight:.3f}  {string}", highlight=False)
    console.print(f"decoder target (likeliest)  {found.target}", highlight=False, markup=False)
    if found.student is None:
        console.print("student: not trained yet")
    else:
        for head, text in found.student.items():
            console.print(f"student {head:<10} {text}", highlight=False)
