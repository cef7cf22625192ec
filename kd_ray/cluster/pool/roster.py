"""What a client knows of a pool's hosts: who can be asked, who was left out, and who is back.

Everything here runs on the client's own event loop; only `open` and `close` are called from
outside.
"""

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from kd_ray.cluster.pool.address import (
    NAMESPACE,
    HostAddress,
    HostArrival,
    HostHandle,
    PoolAddress,
    manager_name,
)
from kd_ray.cluster.pool.views import view_after
from kd_ray.teachers.answers import Ledger
from kd_ray.teachers.routing import Route, route

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often a host that was left out is looked at again, at first."""
_LOOK_MOST_S = 5.0
_AVOID_MOST_S = 30.0
"""Longest time for which a host that comes back and is late again, again, is left alone."""
FOLLOW_S = 1.0
"""How often a named pool is asked whether it has changed."""
_ANSWER_S = 2.0
"""A host that is well says so within this time, however much work it has."""

# What Ray reports when the process or node of a host, or an answer kept there, is gone.
HOST_GONE = (
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)


class Roster:
    """The hosts of a pool as one client sees them.

    Args:
        address: where they were when the client was made; the newest one known.
        ledger: is told of losses and returns.
    """

    def __init__(self, address: PoolAddress, ledger: Ledger) -> None:
        self.address = address
        self.open_requests: Counter[str] = Counter()
        """Requests of this client that a host has not answered, by its name."""
        self.returns = 0
        """How often a host that was left out came back."""
        self._ledger = ledger
        self._handles: dict[str, HostHandle] = {}
        self._left_out: dict[str, str] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._lapses: Counter[str] = Counter()
        """How often a host was late since it last answered."""
        self._quarantined: set[tuple[str, int]] = set()
        """Hosts, and their teachers that they ask no more."""
        self._changed = asyncio.Event()
        self._follower = uuid.uuid4().hex[:12]
        self._following: asyncio.Task[None] | None = None
        self._manager: Any = None
        self._acting: Counter[int] = Counter()
        # Looking an actor up waits for Ray's control store.
        self._lookups = ThreadPoolExecutor(1, thread_name_prefix="pool-lookup")

    async def open(self) -> None:
        """Find the hosts; of a named pool, also follow its changes from now on."""
        for host in self.address.hosts:
            await self._meet(host)
        pool = self.address.settings.name
        if pool is not None:
            # From the first request on, what it asks for stays until this client knows better.
            await self._ask_for_news(pool)
            self._following = asyncio.create_task(self._follow(pool))

    async def close(self) -> None:
        """Stop looking after hosts, and let go of them."""
        tasks = [*self._watching.values(), *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._handles.clear()
        if self._manager is not None:
            self._manager.unfollow.remote(self._follower)
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def handle(self, host: HostAddress) -> HostHandle | None:
        """The actor; None if it is left out."""
        return self._handles.get(host.name)

    def alive(self) -> list[HostAddress]:
        """Hosts that can be asked."""
        return [host for host in self.address.hosts if host.name in self._handles]

    def route(self, teachers: Iterable[int], tried: Mapping[int, set[str]]) -> Route:
        """Which host to ask for which teachers (indices in the pool)."""
        hosts = {
            host.name: [
                index for index in host.teachers if (host.name, index) not in self._quarantined
            ]
            for host in self.alive()
        }
        return route(teachers, hosts, self.open_requests, tried)

    def answered(self, host: HostAddress, quarantined: Iterable[int]) -> None:
        """A host has answered; it is not asked for those teachers again."""
        self._lapses.pop(host.name, None)
        self._quarantined.update((host.name, index) for index in quarantined)

    @contextlib.contextmanager
    def acting(self) -> Iterator[PoolAddress]:
        """The newest address, for one request; the pool keeps what it names until it is done."""
        address = self.address
        self._acting[address.version] += 1
        try:
            yield address
        finally:
            self._acting[address.version] -= 1

    def named(self, name: str) -> HostAddress:
        """A host by its name."""
        return next(host for host in self.address.hosts if host.name == name)

    def may_return(self, teachers: Iterable[int]) -> bool:
        """Whether a host that was left out, and is looked for, has one of these teachers."""
        wanted = set(teachers)
        return any(
            wanted & set(host.teachers)
            for host in self.address.hosts
            if host.name in self._watching
        )

    async def await_change(self, timeout_s: float) -> None:
        """Wait until a host is back, at most `timeout_s`."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def leave_out(self, host: HostAddress, reason: str, *, late: bool = False) -> None:
        """Ask a host no more until it is back; told once, however many requests find out.

        `late`: it lives, so it would be back at once; it is left alone for longer each time.
        """
        if host.name in self._left_out or not self._is_here(host.name):
            return
        self._left_out[host.name] = reason
        self._handles.pop(host.name, None)
        self._ledger.host_left_out(host.name, self.address.numbers(host.teachers), reason)
        if self.address.settings.recover_s > 0:
            pause_s = min(_AVOID_MOST_S, LOOK_S * 2.0 ** self._lapses[host.name])
            self._lapses[host.name] += late
            self._watching[host.name] = asyncio.create_task(self._watch(host.name, pause_s))

    async def _watch(self, name: str, pause_s: float) -> None:
        """Look for a host until it answers again; it may be another process of the same name."""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_MOST_S)
            host = self.named(name)
            try:
                handle = await self._find(host)
                arrival = await asyncio.wait_for(_await(handle.arrive.remote()), _ANSWER_S)
            except (ValueError, TimeoutError, ray.exceptions.RayError):
                continue
            new = HostAddress(name, tuple(arrival.teachers), arrival.pid, arrival.node)
            if new.teachers != host.teachers:
                logger.info("host %s is back with other teachers: %s", name, new.teachers)
            self.address = self.address.with_host(new)
            self._note_changes(arrival)
            self._handles[name] = handle
            self._left_out.pop(name)
            self._watching.pop(name)
            fresh = new.pid != host.pid
            if fresh:
                self._quarantined -= {each for each in self._quarantined if each[0] == name}
            how = f"started again (pid {new.pid})" if fresh else "it answers again"
            self.returns += 1
            self._ledger.host_back(name, self.address.numbers(new.teachers), how, fresh=fresh)
            self._changed.set()
            return

    def _note_changes(self, arrival: HostArrival) -> None:
        """A host that was started again reads its folders anew; they may hold something else."""
        for info in arrival.infos:
            for number in self.address.numbers([info.index]):
                mine = self.address.info.teachers
                if mine[number].answers_digest != info.answers_digest:
                    new = dataclasses.replace(info, index=number)
                    teachers = (*mine[:number], new, *mine[number + 1 :])
                    own = dataclasses.replace(self.address.info, teachers=teachers)
                    self.address = dataclasses.replace(self.address, info=own)
                    self._ledger.replaced(number, new)

    async def _follow(self, pool: str) -> None:
        """Ask the pool's manager for changes all the time, and say which are known here."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            if not ray.is_initialized():
                # The command is over; looking an actor up would start a new Ray.
                return
            await self._ask_for_news(pool)

    async def _ask_for_news(self, pool: str) -> None:
        try:
            manager = self._manager or await self._actor(manager_name(pool), NAMESPACE)
            asked = manager.follow.remote(self._follower, self._known_version())
            self._manager = manager
            now = await asyncio.wait_for(_await(asked), _ANSWER_S)
        except (ValueError, TimeoutError, ray.exceptions.RayError):
            # The manager is away; hosts answer without it, and it will come back.
            self._manager = None
            return
        if now is not None and now.version > self.address.version:
            await self._take(now)

    def _known_version(self) -> int:
        """Requests that began earlier may still ask for what was there then."""
        open_versions = [version for version, count in self._acting.items() if count]
        return min([*open_versions, self.address.version])

    async def _take(self, now: PoolAddress) -> None:
        """The pool has changed."""
        # First the hosts that came: a request that begins meanwhile finds the old ones.
        found: dict[str, HostHandle] = {}
        lost: dict[str, str] = {}
        for host in now.hosts:
            if not self._is_here(host.name):
                try:
                    found[host.name] = await self._find(host)
                except ValueError as error:
                    lost[host.name] = f"not found ({error})"
        before = self.address
        self.address = view_after(before, now, self._ledger.replaced, self._ledger.removed)
        self._handles.update(found)
        for name, reason in lost.items():
            self.leave_out(self.named(name), reason)
        for host in before.hosts:
            if not self._is_here(host.name):
                self._handles.pop(host.name, None)
                self._left_out.pop(host.name, None)
                watching = self._watching.pop(host.name, None)
                if watching is not None:
                    watching.cancel()
        logger.info(
            "the pool has changed: version %d, %d hosts, %d teachers",
            now.version, len(now.hosts), len(now.info.teachers),
        )  # fmt: skip
        self._changed.set()

    async def _meet(self, host: HostAddress) -> None:
        try:
            self._handles[host.name] = await self._find(host)
        except ValueError as error:
            self.leave_out(host, f"not found ({error})")

    def _is_here(self, name: str) -> bool:
        return any(host.name == name for host in self.address.hosts)

    async def _find(self, host: HostAddress) -> HostHandle:
        return await self._actor(host.name, self.address.namespace)

    async def _actor(self, name: str, namespace: str) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._lookups, lambda: ray.get_actor(name, namespace=namespace)
        )


def one_line(error: BaseException) -> str:
    """What Ray says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


async def _await(reference: Any) -> Any:
    return await reference
