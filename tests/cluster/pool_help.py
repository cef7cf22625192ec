"""What the tests of pools share."""

import contextlib
import dataclasses
import os
import signal as signals
import time
from pathlib import Path

import numpy as np
from doubles import load_fake_teachers

from kd_ray.cluster.pool import PoolSource, TeacherPool, service
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.teachers.local_source import LocalSource

SETTINGS = PoolSettings(cpus_per_host=0.25, deadline_s=30, recover_s=0, max_deaths=0)
FOUR = [Path(f"fakes/{seed}") for seed in (1, 2, 3, 4)]


class Events(list):
    """Events of a client or a pool, in order."""

    def __call__(self, kind, **details):
        self.append((kind, details))

    @property
    def kinds(self):
        return [kind for kind, _ in self]


def start(folders, *, on_event=None, **settings):
    return TeacherPool.start(
        folders,
        SETTINGS.model_copy(update=settings),
        load=load_fake_teachers,
        on_event=on_event,
    )


def attach(pool, **settings):
    """A client with settings of its own, and the list of its events."""
    events = Events()
    address = dataclasses.replace(
        pool.address, settings=pool.address.settings.model_copy(update=settings)
    )
    return PoolSource(address, on_event=events), events


@contextlib.contextmanager
def stopped(pid):
    """A process that hangs."""
    os.kill(pid, signals.SIGSTOP)
    try:
        yield
    finally:
        # A test may kill it meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signals.SIGCONT)


def assert_same_signal(mine, expected):
    assert mine.utterance_ids == expected.utterance_ids
    assert mine.answered == expected.answered
    assert mine.fusing == expected.fusing
    np.testing.assert_allclose(
        np.exp(mine.tokens.log_probs), np.exp(expected.tokens.log_probs), atol=1e-6
    )
    np.testing.assert_array_equal(mine.tokens.lengths, expected.tokens.lengths)
    assert (mine.tokens.ids is None) == (expected.tokens.ids is None)
    if expected.tokens.ids is not None:
        np.testing.assert_array_equal(mine.tokens.ids, expected.tokens.ids)
        np.testing.assert_allclose(
            np.exp(mine.tokens.log_tail), np.exp(expected.tokens.log_tail), atol=1e-6
        )
    np.testing.assert_array_equal(mine.labels.labels, expected.labels.labels)
    np.testing.assert_array_equal(mine.labels.utterance, expected.labels.utterance)
    np.testing.assert_allclose(mine.labels.weights, expected.labels.weights, atol=1e-6)
    np.testing.assert_allclose(mine.weights_tokens, expected.weights_tokens, atol=1e-6)
    for name in ("ctc_errors", "decoder_errors", "reference_lengths"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(expected, name))


def local_signal(folders, one, teachers):
    """The local result over some of the teachers, numbered as among all."""
    source = LocalSource(load_fake_teachers(folders, "cpu"))
    others = set(range(len(folders))) - set(teachers)
    source._host._quarantined.update(dict.fromkeys(others, "left out by the test"))
    signal = source.ask(one).result(10)
    source.close()
    return signal


def is_alive(pid):
    """Whether a process runs; one that has ended is a zombie until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def is_gone(pid, within_s=60.0):
    limit = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    return not is_alive(pid)


def statuses(name):
    """What all hosts of a named pool say of themselves; a busy one says so a little later."""
    found = []

    def all_answer():
        found[:] = [host.status for host in service.status(name).hosts]
        return all(status is not None for status in found)

    until(all_answer)
    return found


def until(condition, within_s=240.0):
    """Wait for something to become true; a process that starts may take most of a minute."""
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
