"""`kd-ray pool`: a pool of teachers that runs by itself, for any number of jobs."""

from typing import Literal

from pydantic import Field

from kd_ray.config.base import Section
from kd_ray.config.sources import HostSettings, PoolName
from kd_ray.config.teachers import OnTheFly


class PoolTeachers(Section):
    """Who lives in a pool."""

    list: str | tuple[str, ...]
    """As `teachers.list` of a distillation."""
    recognizer: OnTheFly | None = None
    """Transcribes for text teachers, where jobs set `reads: asr_transcript`."""


class PoolConfig(Section):
    """`kd-ray pool up | status | drain | down`."""

    command: Literal["pool"]
    name: PoolName
    """What jobs call it: `teachers.source: {type: pool, name: ...}`."""
    teachers: PoolTeachers
    hosts: HostSettings = HostSettings()
    lease_s: float = Field(30.0, ge=1)
    """A job that has not been heard of for so long is no longer attached."""
    idle_release_s: float | None = Field(None, gt=0)
    """Without any job for so long, hosts are ended; the next job starts them again. null: never."""
