"""How long a student waits for a signal: longer than the pool itself may take to get it."""

import pytest
import tiny

from kd_ray.students.assembly import _deadline_s, _patience_s


@pytest.mark.parametrize("recover_s", [0, 60, 900])
def test_lost_hosts_are_waited_for_as_long_as_the_pool_waits_for_them(recover_s):
    config = tiny.distill_config(
        "x", "t.txt", teachers__source={"type": "pool", "deadline_s": 20, "recover_s": recover_s}
    )
    assert _deadline_s(config) == 20
    # A host that hangs until its deadline, its return, and its answer at the last moment.
    assert _patience_s(config) > 20 + recover_s + 20


def test_sources_without_hosts_have_ten_minutes():
    assert _deadline_s(tiny.distill_config("x", "t.txt")) == 600
    assert _patience_s(tiny.train_config("x")) > 600
