"""What has to change in a running pool, so that it is what another configuration says."""

from dataclasses import dataclass
from pathlib import Path

from kd_ray.cluster.pool.changes import PoolChangeError
from kd_ray.cluster.pool.plan import PoolPlan, PoolSpec, next_plan, weight_bytes
from kd_ray.evaluation.system import system_name


@dataclass(frozen=True)
class Update:
    """Teachers by their folders."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]
    """Who leaves, and who takes the place."""
    kept: int
    hosts: int
    """New ones, in place of all that were there; 0: the hosts stay."""


def updated_plan(
    before: PoolSpec, now: PoolSpec, plan: PoolPlan, *, fresh_hosts: bool
) -> tuple[Update, PoolPlan]:
    """The difference, and the plan that makes it; the same plan where there is none.

    A teacher of the same name (of its run or checkpoint folder) with other weights takes the
    place of the one before, and its jobs go on with it.

    Args:
        before: what the pool was started with, or changed to last.
        now: what it shall be.
        plan: the one before.
        fresh_hosts: all teachers go to new hosts, with the new settings.

    Raises:
        PoolChangeError: other settings of hosts without `fresh_hosts`.
    """
    if not fresh_hosts and (before.config.hosts, before.recognizer) != (
        now.config.hosts,
        now.recognizer,
    ):
        raise PoolChangeError(
            f"the hosts of pool {now.config.name!r} run with other settings than the file has now; "
            "hosts are not changed while they run: start new ones beside them (kd-ray pool up "
            "CONFIG --replace), or take the settings back"
        )
    digests = _digests(before)
    free = dict(plan.teachers)
    added, replaced, kept = [], {}, 0
    for folder, digest in zip(now.folders, _padded(now), strict=True):
        same = [i for i, other in free.items() if other == folder]
        if same and _agree(digest, digests.get(folder)):
            del free[same[0]]
            kept += 1
            continue
        name = system_name(Path(folder))
        namesakes = same or [i for i, other in free.items() if _takes_place(other, name, now)]
        if namesakes:
            replaced[namesakes[0]] = folder
            del free[namesakes[0]]
        else:
            added.append(folder)
    update = Update(
        added=tuple(added),
        removed=tuple(free.values()),
        replaced=tuple((plan.teachers[i], folder) for i, folder in replaced.items()),
        kept=kept,
        hosts=0,
    )
    if not (added or free or replaced or fresh_hosts):
        return update, plan
    settings = now.config.hosts
    count = 0
    if fresh_hosts:
        count = min(settings.hosts, len(now.folders) * settings.replicas)
        update = Update(update.added, update.removed, update.replaced, update.kept, count)
    sizes = {index: weight_bytes(folder) for index, folder in plan.teachers.items()}
    coming = [*added, *replaced.values()]
    sizes |= {plan.next_teacher + i: weight_bytes(folder) for i, folder in enumerate(coming)}
    after = next_plan(
        plan,
        settings,
        sizes,
        add=added,
        remove=free,
        replace=replaced,
        more_hosts=count,
        without_hosts=plan.hosts if fresh_hosts else (),
    )
    return update, after


def _takes_place(other: str, name: str, now: PoolSpec) -> bool:
    return other not in now.folders and system_name(Path(other)) == name


def _padded(spec: PoolSpec) -> tuple[str | None, ...]:
    return spec.digests or (None,) * len(spec.folders)


def _digests(spec: PoolSpec) -> dict[str, str | None]:
    return dict(zip(spec.folders, _padded(spec), strict=True))


def _agree(one: str | None, other: str | None) -> bool:
    """Digests that are not known do not tell weights apart."""
    return one is None or other is None or one == other
