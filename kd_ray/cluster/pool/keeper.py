"""Looks after a pool's hosts: hears whether they live, ends those that hang, starts them again.

The decisions are `kd_ray.teachers.policies.judge_host_health`; here they are carried out. A host
comes back under its old name, so that clients find it by themselves.
"""

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_ray.cluster.pool.address import HostArrival, HostHandle
from kd_ray.cluster.pool.hosts import HostStarter
from kd_ray.cluster.pool.plan import PoolPlan
from kd_ray.cluster.pool.roster import HOST_GONE, one_line
from kd_ray.core.contracts import TeacherInfo
from kd_ray.teachers.answers import OnEvent
from kd_ray.teachers.policies.health import (
    Death,
    GiveUpHost,
    HealthLimits,
    HostRecord,
    Respawn,
    judge_host_health,
)

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


@dataclass(frozen=True)
class Restart:
    """A host that was started again."""

    at_s: float
    """Unix time."""
    reason: str
    """Why it had ended."""


@dataclass
class _Kept:
    """A host that is looked after; times by the monotonic clock."""

    name: str
    handle: HostHandle | None
    arrival: HostArrival | None
    question: Any = None
    """A sign of life that was asked for; of a host that starts: its arrival."""
    asked_s: float = 0.0
    """When it was asked for."""
    started_s: float = 0.0
    not_before_s: float = 0.0
    deaths: list[Death] = field(default_factory=list)
    memory_share: float = 1.0
    given_up: str | None = None
    lost_because: str = ""
    restart: Restart | None = None
    """The latest."""


class PoolKeeper:
    """Keeps the hosts of a pool up, from a thread of its own.

    Args:
        starter: starts hosts.
        plan: who lives where; a host that is started again follows the newest one.
        handles: the running hosts, by name.
        arrivals: what they said when their teachers were loaded.
        limits: how patient to be.
        on_event: gets `host_died`, `host_started_again`, `host_given_up`.
    """

    def __init__(
        self,
        starter: HostStarter,
        plan: PoolPlan,
        handles: Mapping[str, HostHandle],
        arrivals: Mapping[str, HostArrival],
        limits: HealthLimits,
        on_event: OnEvent | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """`deaths`, `respawns`, `given_up`."""
        self._starter = starter
        self._limits = limits
        self._on_event = on_event
        self._plan = plan
        self.known: dict[int, TeacherInfo] = {}
        """Who teachers are, by index, also those whose hosts are down."""
        self.recognizer: TeacherInfo | None = None
        """The one that transcribes for teachers, if the hosts have one."""
        for arrival in arrivals.values():
            self._note(arrival)
        self._hosts = {
            name: _Kept(name, handle, arrivals[name]) for name, handle in handles.items()
        }
        # So that a host that is let go is not started again at that very moment.
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool-keeper", daemon=True)
        self._thread.start()

    @property
    def handles(self) -> list[HostHandle]:
        """Hosts that live or are starting."""
        return list(self.named.values())

    @property
    def named(self) -> dict[str, HostHandle]:
        """Hosts that live or are starting, by name."""
        hosts = list(self._hosts.values())
        return {host.name: host.handle for host in hosts if host.handle is not None}

    @property
    def arrivals(self) -> dict[str, HostArrival | None]:
        """What hosts said when their teachers were loaded; None: down, or not yet."""
        return {name: host.arrival for name, host in list(self._hosts.items())}

    def start_by(self, starter: HostStarter) -> None:
        """From now on, hosts are started with other settings."""
        self._starter = starter

    def follow(self, plan: PoolPlan) -> None:
        """From now on, hosts that are started again have the teachers of this plan."""
        self._plan = plan

    def arrived(self, name: str, arrival: HostArrival) -> None:
        """A host says that it has other teachers now."""
        host = self._hosts.get(name)
        if host is not None and host.arrival is not None:
            host.arrival = arrival
            self._note(arrival)

    def take(self, name: str, handle: HostHandle, arrival: HostArrival) -> None:
        """Look after one host more."""
        self._note(arrival)
        # A new dictionary: another thread goes through the old one.
        self._hosts = {**self._hosts, name: _Kept(name, handle, arrival)}

    def let_go(self, name: str) -> HostHandle | None:
        """Look after a host no more; its handle, if it lives."""
        with self._looking:
            host = self._hosts.get(name)
            self._hosts = {other: kept for other, kept in self._hosts.items() if other != name}
        return None if host is None else host.handle

    @property
    def given_up(self) -> list[str]:
        """Hosts that are not started again."""
        return [host.name for host in list(self._hosts.values()) if host.given_up is not None]

    @property
    def restarts(self) -> dict[str, Restart | None]:
        """Each host's latest one."""
        return {name: host.restart for name, host in list(self._hosts.items())}

    def close(self) -> None:
        """Look no more; the hosts are left as they are."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for host in list(self._hosts.values()):
                try:
                    with self._looking:
                        if host.name in self._hosts:
                            self._look(host)
                except Exception:
                    # Whatever it is, the others are still to be looked after.
                    logger.exception("looking after host %s failed; going on", host.name)

    def _look(self, host: _Kept) -> None:
        """One look at one host."""
        now = time.monotonic()
        if host.given_up is not None:
            return
        if host.handle is None:
            if now >= host.not_before_s:
                self._start(host, now)
            return
        dead, out_of_memory = self._listen(host, now)
        if dead is not None:
            host.deaths.append(Death(now, out_of_memory))
        elif host.arrival is None:
            if now - host.started_s < self._starter.start_timeout_s:
                return
            dead = f"did not start within {self._starter.start_timeout_s:g} s"
            host.deaths.append(Death(now))
        # Silence counts from a question: this process may have been away itself.
        silent_s = 0.0 if host.question is None else now - host.asked_s
        record = HostRecord(host.name, silent_s, dead=dead, deaths=tuple(host.deaths))
        decision = judge_host_health(record, self._limits, now)
        if isinstance(decision, Respawn | GiveUpHost):
            if dead is None:
                host.deaths.append(Death(now))
            self._end(host)
            self._lost(host, decision, now)

    def _listen(self, host: _Kept, now: float) -> tuple[str | None, bool]:
        """Ask for a sign of life, take one that came; why the host is dead, and of memory?"""
        assert host.handle is not None
        if host.question is None:
            host.question, host.asked_s = host.handle.alive.remote(), now
        ready, _ = ray.wait([host.question], timeout=0)
        if not ready:
            return None, False
        question, host.question = host.question, None
        try:
            arrival: HostArrival | None = ray.get(question)
        except (*HOST_GONE, ray.exceptions.RayTaskError) as error:
            return one_line(error), isinstance(error, ray.exceptions.OutOfMemoryError)
        if arrival is not None:
            self.counts["respawns"] += 1
            seconds = now - host.started_s
            logger.warning("host %s is up again after %.1f s", host.name, seconds)
            self._tell("host_started_again", host=host.name, seconds=seconds, pid=arrival.pid)
            host.arrival = arrival
            host.restart = Restart(time.time(), host.lost_because)
            self._note(arrival)
        return None, False

    def _start(self, host: _Kept, now: float) -> None:
        try:
            host.handle = self._starter.start_host(
                self._plan, host.name, memory_share=host.memory_share, known=self.known
            )
        except ValueError:
            # Its name is free once Ray has buried the old one.
            host.not_before_s = now + _LOOK_S
            return
        host.arrival, host.question = None, host.handle.arrive.remote()
        host.started_s = now
        # Loading teachers keeps a host from answering: until it has arrived, silence is no sign.

    def _lost(self, host: _Kept, decision: Respawn | GiveUpHost, now: float) -> None:
        self.counts["deaths"] += 1
        host.lost_because = decision.reason
        logger.warning("%s", decision.reason)
        self._tell("host_died", host=host.name, reason=decision.reason)
        if isinstance(decision, Respawn):
            host.not_before_s = now + decision.wait_s
            host.memory_share = decision.memory_share
            return
        host.given_up = decision.reason
        self.counts["given_up"] += 1
        self._tell("host_given_up", host=host.name, reason=decision.reason)

    def _end(self, host: _Kept) -> None:
        """Make sure that the process is gone, also where it hangs and hears nothing."""
        assert host.handle is not None
        ray.kill(host.handle, no_restart=True)
        if host.arrival is not None:
            end_process(host.arrival.pid, host.arrival.node)
        host.handle = host.arrival = host.question = None

    def _note(self, arrival: HostArrival) -> None:
        """Who its teachers are, should a checkpoint be unreadable when its host starts again."""
        # A new dictionary: the old one may be on its way to a host.
        self.known = {**self.known, **{info.index: info for info in arrival.infos}}
        self.recognizer = arrival.recognizer

    def _tell(self, kind: str, **details: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind, **details)


def end_process(pid: int, node: str) -> None:
    """End a host's process on its node, if it is still there."""
    if node == ray.get_runtime_context().get_node_id():
        _end_here(pid)
        return
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    # Not waited for: the node may be gone, and the process with it.
    _end_remotely.options(scheduling_strategy=strategy).remote(pid)


def _end_here(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            # The number may belong to somebody else by now.
            if b"HostProcess" in file.read():
                os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


@ray.remote(num_cpus=0, max_retries=0)
def _end_remotely(pid: int) -> None:
    _end_here(pid)
