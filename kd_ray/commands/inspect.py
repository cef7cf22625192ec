"""`kd-ray inspect CONFIG ID`: one utterance, and what everybody makes of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from kd_ray.commands.signals import expect_distillation, score_request
from kd_ray.config.base import Section
from kd_ray.config.commands import DistillConfig
from kd_ray.config.load import ConfigError
from kd_ray.config.strategies import Strategy
from kd_ray.core.contracts import CHRF_WHOLE, Signal, TeacherInfo, TeacherOutput, Wanted
from kd_ray.core.targets import likeliest
from kd_ray.evaluation.decode import decode_encoded
from kd_ray.evaluation.system import System, UnusableSystem, load_system, read_teacher_list
from kd_ray.evaluation.token_file import token_file
from kd_ray.report.console import log_console
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import ManifestError, Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.requests import fusion_of, strategy_of
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import load_transcriber, transcriber_spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherView:
    """What one teacher makes of the utterance."""

    name: str
    weight_tokens: float
    weight_labels: float
    ctc_errors: int | None
    """None without a CTC head."""
    decoder_errors: int
    chrf_error: float | None
    """1 - chrF of `said`; None where all teachers hear."""
    confidence: float
    ctc: str | None
    """None without a CTC head."""
    along_reference: str
    """The decoder's likeliest token at each position along the reference."""
    said: str
    """The text of these tokens up to the first end symbol."""


@dataclass(frozen=True)
class Inspection:
    """One utterance: reference, teachers, fused target, student."""

    utterance_id: str
    reference: str
    source_text: str | None
    """What text teachers read; None where all of them hear."""
    teachers: tuple[TeacherView, ...]
    strings: tuple[tuple[str, float], ...]
    """Label strings of the CTC target with their weights."""
    target: str
    """The fused decoder distribution's likeliest token at each position."""
    student: dict[str, str] | None
    """The student's own hypotheses (attention, ctc if it has it), if it is trained."""


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
        config: of `kd-ray distill`; its teachers may hear or read.
        utterance_id: looked for in `split`, else in the training and validation manifests.
        root: where relative paths start.
        split: another manifest.
        student: run or checkpoint folder; default: the run of this configuration, if it exists.

    Raises:
        ManifestError: no such utterance, or one that lacks the text which teachers read.
        TrustError: the strategy asks for trust that these teachers cannot give.
    """
    distill = expect_distillation(config, "inspect")
    manifests = [split] if split else [distill.data.train, distill.data.valid]
    utterance = _find(utterance_id, manifests, root)
    tokens = Tokens.load(token_file(distill, root))
    teachers = load_teachers(_folders(distill, root))
    infos = tuple(teacher.info for teacher in teachers)
    strategy = strategy_of(distill, infos, root)
    reading = any(info.reads == "text" for info in infos)
    text = _source_text(utterance, distill, root) if reading else None
    request = score_request(
        [utterance], root=root, tokens=tokens, config=distill,
        fusion=fusion_of(distill, strategy), per_teacher=True,
        texts=None if text is None else (text,),
        hear=any(info.reads == "speech" for info in infos),
        wanted=_wanted(infos),
    )  # fmt: skip
    source = LocalSource(teachers)
    try:
        signal = source.ask(request).result(600.0)
    finally:
        source.close()
    system = _student(distill, root, student)
    heard = None if system is None else _decode(system, utterance, root)
    found = _assemble(utterance, text, tokens, distill, signal, infos, heard)
    _show(found, strategy)
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
    if config.teachers.source.type != "store":
        raise ConfigError(
            "teachers.list is missing: the pool that teachers.source names knows its teachers, but "
            "this command loads them itself; name them (teachers.list=...)"
        )
    store = TargetStore.open(root / config.teachers.source.path)
    return [Path(info.folder) for info in store.teachers]


def _source_text(utterance: Utterance, config: DistillConfig, root: Path) -> str | None:
    """What text teachers read: a column of the manifest, or what the recogniser hears now.

    None where the configuration names neither; the teachers then say so themselves.
    """
    transcriber = load_transcriber(transcriber_spec(config.teachers, root))
    if transcriber is not None:
        [heard] = transcriber([utterance.id], [read_waveform(utterance, root)], 1)
        return heard
    column = config.teachers.column
    text = None if column is None else utterance.text(column)
    if column is not None and text is None:
        raise ManifestError(
            f"utterance {utterance.id!r} has no {column}, which the teachers read "
            "(teachers.reads); name another utterance or column"
        )
    return text


def _wanted(teachers: Sequence[TeacherInfo]) -> frozenset[Wanted]:
    """All that these teachers can say."""
    wanted: set[Wanted] = {"tokens"}
    if all(info.has_ctc for info in teachers):
        wanted.add("labels")
    if any(info.reads == "text" for info in teachers):
        wanted.add("chrf")
    return frozenset(wanted)


def _student(config: DistillConfig, root: Path, folder: str | None) -> System | None:
    column = config.data.source_column
    if folder is not None:
        return load_system(root / folder, reads_column=column)
    try:
        return load_system(root / "runs" / config.name, reads_column=column)
    except UnusableSystem:
        return None


def _decode(system: System, utterance: Utterance, root: Path) -> dict[str, str]:
    with torch.inference_mode():
        encoded = system.encode_inputs([utterance], root)
        [found] = decode_encoded(system.model, encoded, [utterance.id])
    return {head: system.tokens.decode(ids) for head, ids in found.ids.items()}


def _assemble(
    utterance: Utterance,
    source_text: str | None,
    tokens: Tokens,
    config: DistillConfig,
    signal: Signal,
    infos: Sequence[TeacherInfo],
    student: dict[str, str] | None,
) -> Inspection:
    assert signal.tokens is not None
    strings: tuple[tuple[str, float], ...] = ()
    if signal.labels is not None:
        rows = zip(signal.labels.labels, signal.labels.lengths, signal.labels.weights, strict=True)
        strings = tuple(
            (tokens.decode(row[:length]), float(weight)) for row, length, weight in rows
        )
    target = likeliest(signal.tokens)[0, : signal.tokens.lengths[0]]
    return Inspection(
        utterance_id=utterance.id,
        reference=utterance.text(config.data.column) or "",
        source_text=source_text,
        teachers=tuple(_view(output, infos, signal, tokens) for output in signal.outputs),
        strings=strings,
        target=_spell(target.tolist(), tokens),
        student=student,
    )


def _view(
    output: TeacherOutput, infos: Sequence[TeacherInfo], signal: Signal, tokens: Tokens
) -> TeacherView:
    index = output.teacher
    assert output.log_probs is not None
    along = output.log_probs[0, : output.positions[0]].argmax(-1).tolist()
    said = along[: along.index(tokens.eos)] if tokens.eos in along else along
    has_ctc = infos[index].has_ctc
    return TeacherView(
        name=infos[index].name,
        weight_tokens=float(signal.weights_tokens[index, 0]),
        weight_labels=float(signal.weights_labels[index, 0]),
        ctc_errors=int(output.ctc_errors[0]) if has_ctc else None,
        decoder_errors=int(output.decoder_errors[0]),
        chrf_error=None if output.chrf_errors is None else output.chrf_errors[0] / CHRF_WHOLE,
        confidence=float(output.confidence[0]),
        ctc=tokens.decode(output.strings[0].tolist()) if has_ctc else None,
        along_reference=_spell(along, tokens),
        said=tokens.decode(said),
    )


def _spell(ids: list[int], tokens: Tokens) -> str:
    """Symbols one by one, special ones too: positions stay visible."""
    return " ".join(tokens.symbols[each] for each in ids)


def _show(found: Inspection, strategy: Strategy) -> None:
    console = log_console()
    settings = ", ".join(
        f"{name} {value}"
        for name, value in strategy.model_dump(exclude={"type", "table"}, exclude_none=True).items()
    )
    console.print(
        f"[bold]{found.utterance_id}[/bold]  strategy {strategy.type}"
        + (f" ({settings})" if settings else ""),
        highlight=False,
    )
    if found.source_text is not None:
        console.print(f"teachers read  {found.source_text}", highlight=False, markup=False)
    console.print(f"reference  {found.reference}", highlight=False, markup=False)
    console.print(_table(found))
    for string, weight in found.strings:
        console.print(f"ctc target {weight:.3f}  {string}", highlight=False, markup=False)
    console.print(f"decoder target (likeliest)  {found.target}", highlight=False, markup=False)
    if found.student is None:
        console.print("student: not trained yet")
    else:
        for head, text in found.student.items():
            console.print(f"student {head:<10} {text}", highlight=False, markup=False)


def _table(found: Inspection) -> Table:
    """A line for each teacher: its CTC output if all have one, else what it says along."""
    by_ctc = all(view.ctc is not None for view in found.teachers)
    by_chrf = any(view.chrf_error is not None for view in found.teachers)
    columns = {
        "teacher": [view.name for view in found.teachers],
        "weight dec.": [f"{view.weight_tokens:.3f}" for view in found.teachers],
        "err. dec.": [str(view.decoder_errors) for view in found.teachers],
    }
    if by_ctc:
        columns["weight ctc"] = [f"{view.weight_labels:.3f}" for view in found.teachers]
        columns["err. ctc"] = [str(view.ctc_errors) for view in found.teachers]
    if by_chrf:
        columns["1 - chrF"] = [f"{view.chrf_error:.3f}" for view in found.teachers]
    columns["confidence"] = [f"{view.confidence:.3f}" for view in found.teachers]
    if by_ctc:
        columns["ctc output"] = [view.ctc or "" for view in found.teachers]
    else:
        columns["along the reference"] = [view.said for view in found.teachers]
    table = Table()
    for title in columns:
        left = title in ("teacher", "ctc output", "along the reference")
        table.add_column(title, justify="left" if left else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, row))
    return table
