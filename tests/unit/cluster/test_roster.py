"""A client's hosts while its pool changes; no Ray."""

import asyncio
from pathlib import Path

from doubles import load_fake_teachers

from kd_ray.cluster.pool.address import HostAddress, PoolAddress
from kd_ray.cluster.pool.roster import Roster
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.contracts import TeachersInfo
from kd_ray.teachers.answers import Ledger


def address(host, version):
    infos = tuple(each.info for each in load_fake_teachers([Path("fakes/1")], "cpu"))
    hosts = (HostAddress(host, (0,), 1, "node"),)
    info = TeachersInfo(infos, source="pool")
    return PoolAddress("pools", hosts, info, PoolSettings(), version=version)


def test_the_old_hosts_are_asked_until_the_new_ones_are_found():
    before, after = address("old", 1), address("new", 2)

    async def change():
        roster = Roster(before, Ledger(before.info.teachers, 1.0, None))
        roster._handles["old"] = "a handle"
        seen = []

        async def find(host):
            # Requests may begin here, as long as the lookup takes.
            seen.append([each.name for each in roster.alive()])
            await asyncio.sleep(0)
            return f"a handle of {host.name}"

        roster._find = find
        await roster._take(after)
        seen.append([each.name for each in roster.alive()])
        await roster.close()
        return seen

    assert asyncio.run(change()) == [["old"], ["new"]]
