"""How much memory torch holds at most while something runs."""

import os
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

_MEMORY = "[memory]"
"""Name of the profiler's events about an allocation or a release."""


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that `run` held at a time on the CPU, beyond those held before.

    Counted from every allocation and release of torch's own allocator: exact and repeatable, and
    other libraries' buffers are not in it.
    """
    # Else the profiler writes to the screen that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == _MEMORY]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
