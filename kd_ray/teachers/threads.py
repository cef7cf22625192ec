"""The threads of a host, and waiting for them from its event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")


class Thread:
    """One thread that calls functions, one after another, beside the event loop."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[..., R], *arguments: object) -> R:
        """What `function` returns or raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Give up what waits, and end once the call under way is over."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class HostThreads:
    """Those of a host: passes have one to themselves, other work goes beside."""

    def __init__(self) -> None:
        self.passes = Thread("teacher-pass")
        self.helper = Thread("teacher-helper")
        """Features and fusing."""
        self.memory = Thread("teacher-memory")
        """Looks up what is remembered; on its own, as a store may wait for the disk."""

    def close(self) -> None:
        """End all of them."""
        for thread in (self.passes, self.helper, self.memory):
            thread.close()


async def gather(work: Sequence[Coroutine[Any, Any, R]]) -> list[R]:
    """All results in order; waits for all of them before the first error is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
