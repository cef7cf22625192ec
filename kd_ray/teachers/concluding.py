"""From the outputs of a host's teachers to its answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.core import strategies
from kd_ray.core.contracts import Generate, Score, TeacherOutput, Written
from kd_ray.core.written import best_of
from kd_ray.teachers.answers import Call, HostAnswer, merge_partials
from kd_ray.teachers.rows import Output


@dataclass(frozen=True, eq=False)
class Done:
    """A teacher's output for a request or a piece of it, and what it cost.

    `seconds`: its share of the passes. `known`: utterances that were in the cache. `loads`: its
    share of the times that the teacher was loaded for them. `full`: why passes were done by halves,
    if they were.
    """

    output: Output
    seconds: float
    known: int = 0
    loads: float = 0.0
    full: str | None = None


@dataclass(frozen=True)
class Silent:
    """A teacher cannot answer this request, and why; None: it left the host meanwhile."""

    reason: str | None = None


def conclude(
    request: Score | Generate,
    call: Call,
    numbers: Mapping[int, int],
    answers: Mapping[int, Done | Silent],
    *,
    num_teachers: int,
    quarantined: Mapping[int, str],
) -> HostAnswer:
    """Fuse what a host's teachers said, numbered as the asking job does.

    Args:
        request: as it came.
        call: how it came.
        numbers: the teachers that were asked, by index in the pool, and what the job calls them.
        answers: of those that were asked, by index in the pool.
        num_teachers: of the job.
        quarantined: teachers of the host that are no longer asked, by index in the pool.
    """
    done = {index: each for index, each in answers.items() if isinstance(each, Done)}
    outputs = [_renumbered(each.output, numbers) for each in done.values()]
    scored = tuple(each for each in outputs if isinstance(each, TeacherOutput))
    written = tuple(each for each in outputs if isinstance(each, Written))
    if isinstance(request, Score) and not request.wanted & {"tokens", "labels"}:
        # Trust alone: a few numbers for each utterance, whatever the teachers wrote.
        scored = _without_strings(scored)
    fusable = scored
    if isinstance(request, Score) and "labels" not in request.wanted:
        # Some may have no CTC head, and nobody asked for what it says.
        fusable = _without_strings(scored)
    partial: strategies.Partial | Written | None = None
    fused: strategies.FusedTargets | None = None
    if isinstance(request, Score) and scored:
        partial = local = strategies.local(fusable, request.fusion, num_teachers)
        if call.finish and len(scored) == num_teachers:
            partial, fused = None, strategies.finish(local)
    elif written:
        partial = best_of(written)
    return HostAnswer(
        partial=partial,
        answered=(
            *(output.teacher for output in scored),
            *(int(output.teachers[0]) for output in written),
        ),
        quarantined={
            called: quarantined[index] for index, called in numbers.items() if index in quarantined
        },
        failed={
            numbers[index]: each.reason
            for index, each in answers.items()
            if isinstance(each, Silent) and each.reason and index not in quarantined
        },
        halved={numbers[index]: each.full for index, each in done.items() if each.full},
        teacher_s=sum(each.seconds for each in done.values()),
        outputs=(*scored, *written) if request.per_teacher else (),
        fused=fused,
        known_rows=sum(each.known for each in done.values()),
        loads=sum(each.loads for each in done.values()),
    )


def _without_strings(outputs: Sequence[TeacherOutput]) -> tuple[TeacherOutput, ...]:
    return tuple(dataclasses.replace(each, strings=()) for each in outputs)


def finish_partials(partials: Sequence[strategies.Partial]) -> strategies.FusedTargets:
    """The target of what several hosts made of one request."""
    return strategies.finish(merge_partials(partials))


def _renumbered(output: Output, numbers: Mapping[int, int]) -> Output:
    if isinstance(output, TeacherOutput):
        return dataclasses.replace(output, teacher=numbers[output.teacher])
    called = np.array([numbers[index] for index in output.teachers.tolist()], dtype=np.int64)
    return dataclasses.replace(output, teachers=called)
