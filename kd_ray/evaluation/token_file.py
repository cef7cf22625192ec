"""Which token file a student writes with: one of its own, or that of its first teacher."""

from pathlib import Path

from kd_ray.config.commands import BenchStepConfig, DistillConfig, TrainConfig
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.models.checkpoint import TOKENS


def token_file(config: TrainConfig | DistillConfig | BenchStepConfig, root: Path) -> Path:
    """The file that `data.tokens` means.

    With `{type: from_teacher}` it is the one in the checkpoint folder of the first teacher: same
    tokens, same order, same special ids. Whether the other teachers have the same ones, the
    handshake says.

    Raises:
        UnusableSystem: the list of teachers names no teacher, or one that does not exist.
    """
    if isinstance(config.data.tokens, str):
        return root / config.data.tokens
    assert not isinstance(config, TrainConfig), "the schema asks for teachers"
    assert config.teachers.list is not None, "the schema asks for a list"
    return read_teacher_list(config.teachers.list, root)[0] / TOKENS
