"""Which host is asked for which teacher, where several could."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """Hosts to ask, each with the teachers it is asked for, and teachers that no host is left for.

    Teachers by their indices in the pool, in ascending order.
    """

    hosts: Mapping[str, tuple[int, ...]]
    nowhere: tuple[int, ...]


def route(
    teachers: Iterable[int],
    hosts: Mapping[str, Sequence[int]],
    open_requests: Mapping[str, int],
    tried: Mapping[int, set[str]],
) -> Route:
    """Deal a request's teachers to hosts: to the least busy one that has them and was not tried.

    Args:
        teachers: to ask.
        hosts: those that can be asked, with the teachers that live there.
        open_requests: of the asking client, by host.
        tried: hosts that were asked for a teacher already, by teacher.
    """
    places: dict[int, list[str]] = {}
    for name, residents in hosts.items():
        for index in residents:
            places.setdefault(index, []).append(name)
    dealt: dict[str, list[int]] = {}
    nowhere = []
    for index in sorted(teachers):
        left = [name for name in places.get(index, ()) if name not in tried.get(index, ())]
        if not left:
            nowhere.append(index)
            continue
        # Among equally busy hosts the one with least of this request, then the first.
        best = min(left, key=lambda name: (open_requests.get(name, 0), len(dealt.get(name, ()))))
        dealt.setdefault(best, []).append(index)
    return Route({name: tuple(given) for name, given in dealt.items()}, tuple(nowhere))
