"""Shares and rates from two readings of counters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import Unfinished
from vdsm.host.sampler import (
    StatisticsSampler,
    cpu_use,
    memory_statistics,
    node_memory,
    rate,
    reclaimable_kib,
)
from vdsm.host.statistics import CpuUse
from vdsm.system.procfs import PAGE_BYTES, CpuTicks

TICKS = st.builds(
    lambda user, system, idle, stolen: CpuTicks(user, system, idle, user + system + idle + stolen),
    *[st.integers(0, 10**9)] * 4,
)


def test_shares_are_of_the_time_between() -> None:
    before = CpuTicks(user=100, system=100, idle=800, total=1000)
    after = CpuTicks(user=125, system=110, idle=865, total=1100)
    assert cpu_use(before, after) == CpuUse(user=25.0, system=10.0, idle=65.0)


def test_stolen_time_is_not_idle() -> None:
    assert cpu_use(CpuTicks(0, 0, 0, 0), CpuTicks(0, 0, 50, 100)) == CpuUse(user=0.0, system=50.0, idle=50.0)


def test_a_cpu_that_has_not_ticked_is_idle() -> None:
    ticks = CpuTicks(1, 2, 3, 6)
    assert cpu_use(ticks, ticks) == CpuUse(user=0.0, system=0.0, idle=100.0)


@given(TICKS, TICKS)
def test_shares_are_percents_whatever_the_counters_do(before: CpuTicks, after: CpuTicks) -> None:
    use = cpu_use(before, after)
    assert all(0.0 <= share <= 100.0 for share in (use.user, use.system, use.idle))


@pytest.mark.parametrize(
    ("before", "after", "seconds", "expected"),
    [(100, 400, 3.0, 100.0), (400, 100, 3.0, 0.0), (100, 400, 0.0, 0.0)],
)
def test_rates_ignore_counters_that_began_anew(before: int, after: int, seconds: float, expected: float) -> None:
    assert rate(before, after, seconds) == expected


def test_memory_is_in_mib() -> None:
    memory = {
        b"MemTotal": 8 * 1024 * 1024,
        b"MemAvailable": 6 * 1024 * 1024,
        b"SwapTotal": 2048,
        b"SwapFree": 1024,
        b"AnonHugePages": 4096,
        b"Committed_AS": 10_240,
    }
    found = memory_statistics(memory, ksm_pages_sharing=1024 * 1024 * 3 // PAGE_BYTES)
    assert (found.total, found.free, found.used_percent, found.shared) == (8192, 6144, 25, 3)
    assert (found.swap_total, found.swap_free, found.anon_huge, found.committed) == (2, 1, 4, 10)


def test_a_nodes_free_memory_counts_what_it_can_give_back() -> None:
    memory = {b"MemTotal": 4096, b"MemFree": 1024, b"FilePages": 1500, b"Shmem": 500, b"SReclaimable": 24}
    assert reclaimable_kib(memory) == 2048
    node = node_memory(memory, 2048, "no/such/directory")
    assert (node.free_mib, node.used_percent, node.huge_pages_free) == (2, 50, {})


def test_a_node_without_memory_is_not_divided_by() -> None:
    assert node_memory({b"MemTotal": 0}, 0, "no/such/directory").used_percent == 0


def test_the_answer_comes_from_memory_and_is_new_only_when_sampled() -> None:
    sampler = StatisticsSampler(directories=())
    with pytest.raises(Unfinished):
        sampler.current(timeout_s=0.0)
    taken = sampler.sample()
    first, second = sampler.current(), sampler.current()
    assert first.statistics is second.statistics is taken
    assert first.age_s <= second.age_s
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d GMT", first.date_time)
    assert sampler.sample() is not taken
