"""The check before a run that student and teachers mean the same by their numbers."""

from dataclasses import dataclass, field
from typing import Literal

from kd_ray import __version__
from kd_ray.core.contracts import PROTOCOL_VERSION, TeachersInfo, Wanted


@dataclass(frozen=True)
class StudentNeeds:
    """What the criterion takes for granted about its teachers."""

    tokens_digest: str
    vocabulary_size: int
    blank: int
    bos: int
    eos: int
    protocol: int = PROTOCOL_VERSION
    package: str = __version__
    wanted: frozenset[Wanted] = field(default=frozenset({"tokens", "labels"}))
    texts: bool = False
    """Whether its requests carry texts."""
    view: Literal["clean", "student"] = "clean"
    """What teachers that hear are to be shown."""


class HandshakeError(ValueError):
    """Student and teachers do not mean the same by their numbers."""


_TOKEN_FIELDS = {
    "tokens_digest": "token order (digest)",
    "vocabulary_size": "vocabulary size",
    "blank": "id of the CTC blank",
    "bos": "id of begin-of-sentence",
    "eos": "id of end-of-sentence",
}


def handshake(needs: StudentNeeds, offered: TeachersInfo) -> None:
    """Refuse teachers whose signals the student would misread; raises `HandshakeError`.

    Checks only what the criterion uses: order, size and special ids of the tokens, CTC heads where
    label strings are wanted, texts where a teacher reads text, and for a pool the versions of
    protocol and package. Every difference is listed with both values.
    """
    problems = []
    if not offered.teachers:
        problems.append("the source offers no teacher at all")
    if offered.source == "pool":
        for name in ("protocol", "package"):
            mine, theirs = getattr(needs, name), getattr(offered, name)
            if mine != theirs:
                problems.append(f"{name} version: student has {mine}, pool has {theirs}")
    if needs.view == "student" and not any(each.reads == "speech" for each in offered.teachers):
        problems.append(
            "teachers.view is 'student', and no teacher hears anything: text is not masked; set it "
            "to 'clean'"
        )
    for teacher in offered.teachers:
        for name, words in _TOKEN_FIELDS.items():
            mine, theirs = getattr(needs, name), getattr(teacher, name)
            if mine != theirs:
                problems.append(f"teacher {teacher.name}: {words} is {theirs}, student's is {mine}")
        if "labels" in needs.wanted and not teacher.has_ctc:
            problems.append(
                f"teacher {teacher.name} has no CTC head, and label strings are wanted "
                "(distillation.ctc_weight above 0)"
            )
        if teacher.reads == "text" and not needs.texts and offered.recognizer is None:
            problems.append(
                f"teacher {teacher.name} reads text, and the student says no column "
                "(teachers.reads: transcript), nor does a recogniser transcribe for it "
                "(teachers.recognizer)"
            )
    if problems:
        lines = "\n  ".join(problems)
        raise HandshakeError(
            f"student and teachers do not fit ({offered.source} source):\n  {lines}\n"
            "Ways out: let the student take the teachers' tokens (data.tokens: {type: "
            "from_teacher}, or the path of the tokens.json in a checkpoint folder); train the "
            "teachers on the student's tokens; take the teachers named above off the list; or "
            "learn from the text that a teacher writes, which the student cuts into its own tokens "
            "(`kd-ray translate` or `transcribe`, then `kd-ray train` on what it wrote)."
        )
