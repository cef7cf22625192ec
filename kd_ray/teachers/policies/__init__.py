"""What to do when: decisions about hosts, teachers, quorum and bytes, as plain functions.

They see a status and return a decision object with its reason; carrying it out (and logging it)
is the caller's part. Times in seconds, teachers by their index in the list.

    quorum.py     are the teachers that answered enough?
    requests.py   does a request go out, and how long is a host waited for?
    placement.py  which teachers live on which hosts
    scaling.py    how many hosts, how many replicas of a teacher
    health.py     when a host is suspected, started again, given up; which replica is asked
"""

from kd_ray.teachers.policies.placement import deal
from kd_ray.teachers.policies.quorum import (
    GiveUp,
    Proceed,
    judge_alone,
    judge_quorum,
    required_teachers,
)
from kd_ray.teachers.policies.requests import (
    Admit,
    KeepWaiting,
    LeaveOut,
    Refuse,
    judge_admission,
    judge_host,
)

__all__ = [
    "Admit",
    "GiveUp",
    "KeepWaiting",
    "LeaveOut",
    "Proceed",
    "Refuse",
    "deal",
    "judge_admission",
    "judge_alone",
    "judge_host",
    "judge_quorum",
    "required_teachers",
]
