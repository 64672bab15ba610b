"""The source of capabilities: the last ones at once, errors only while there are none, changes told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import pytest

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Unfinished, Unreachable
from vdsm.host import cpu, kernel, numa
from vdsm.host.capabilities import AgentTraits, Capabilities, CapabilitiesSource, Settings
from vdsm.host.hardware import HbaInventory, HbaSource
from vdsm.host.hypervisor import GuestSupport
from vdsm.host.networks import IpFacts, NetworkFacts, Nic

WAIT_S = 20.0


def networks_with(address: str) -> NetworkFacts:
    nic = Nic("eno1", IpFacts(address=address), mtu=1500, mac="52:54:00:00:00:01")
    return NetworkFacts(networks={}, nics={"eno1": nic}, bridges={}, vlans={}, bondings={}, nameservers=())


def capabilities(address: str = "192.0.2.1") -> Capabilities:
    nodes = numa.gather()
    guests = GuestSupport(("pc",), (), (), None, tsc_scaling=False, libvirt_version="9", qemu_version="7")
    return Capabilities(
        taken_monotonic_s=monotonic_s(),
        kvm=False,
        cluster_levels=(),
        supported_engines=(),
        software_version="",
        software_revision="",
        version_name="",
        emulated_machines=("pc",),
        packages=(),
        cpu=cpu.gather(guests, nodes),
        numa_nodes=nodes,
        system=kernel.gather(),
        hba=HbaInventory("", ()),
        network=networks_with(address),
        agent=AgentTraits(),
        supported_block_sizes={},
        hooks={},
        openstack_binding_host_ids={},
    )


@dataclass
class Script:
    """A Collecting that does what the test says, one outcome per call; the last one stays."""

    outcomes: list[Capabilities | Exception]
    asked: list[bool] = field(default_factory=list)

    def collect(self, *, everything: bool) -> Capabilities:
        outcome = self.outcomes[min(len(self.asked), len(self.outcomes) - 1)]
        self.asked.append(everything)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


# no reading by itself during a test
SETTINGS = Settings(interval_s=3600.0, retry_s=3600.0)


@pytest.fixture
def sources() -> Iterator[list[CapabilitiesSource]]:
    made: list[CapabilitiesSource] = []
    yield made
    for source in made:
        source.stop()


def test_the_first_answer_is_waited_for_and_then_stays(sources: list[CapabilitiesSource]) -> None:
    script = Script([capabilities()])
    source = CapabilitiesSource(script, SETTINGS)
    sources.append(source)
    with pytest.raises(Unfinished):
        source.current(timeout_s=0.0)
    source.start()
    first = source.current(timeout_s=WAIT_S)
    assert first is source.current() is script.outcomes[0]
    assert script.asked == [False]


def test_a_refresh_asks_for_everything_and_returns_what_it_found(sources: list[CapabilitiesSource]) -> None:
    new = capabilities()
    script = Script([capabilities(), new])
    source = CapabilitiesSource(script, SETTINGS)
    sources.append(source)
    source.start()
    source.current(timeout_s=WAIT_S)
    assert source.refresh(timeout_s=WAIT_S) is new
    assert source.current() is new
    assert script.asked == [False, True]


def test_a_failed_reading_leaves_the_last_one_in_place(sources: list[CapabilitiesSource]) -> None:
    good = capabilities()
    script = Script([good, Unreachable(what="libvirt", reason="away"), ValueError("odd kernel"), good])
    source = CapabilitiesSource(script, SETTINGS)
    sources.append(source)
    source.start()
    assert source.current(timeout_s=WAIT_S) is good
    for message in ("libvirt cannot be reached: away", "odd kernel"):
        with pytest.raises(Exception, match=message):
            source.refresh(timeout_s=WAIT_S)
        assert source.current() is good
    assert source.refresh(timeout_s=WAIT_S) is good


def test_while_there_are_none_the_reason_is_told_at_once(sources: list[CapabilitiesSource]) -> None:
    source = CapabilitiesSource(Script([Unreachable(what="libvirt", reason="away"), capabilities()]), SETTINGS)
    sources.append(source)
    source.start()
    with pytest.raises(Unreachable):
        source.current(timeout_s=WAIT_S)
    assert source.refresh(timeout_s=WAIT_S) is source.current()


def test_changes_of_addresses_are_told_and_a_bad_listener_does_no_harm(sources: list[CapabilitiesSource]) -> None:
    told: SimpleQueue[NetworkFacts] = SimpleQueue()

    def listener(facts: NetworkFacts) -> None:
        told.put(facts)
        raise RuntimeError("the listener's own trouble")

    same, moved = capabilities(), capabilities("192.0.2.2")
    source = CapabilitiesSource(Script([same, replace(same), moved, moved]), SETTINGS, listener)
    sources.append(source)
    source.start()
    source.current(timeout_s=WAIT_S)
    for _ in range(4):  # the last one so that the third has been told of, if at all
        source.refresh(timeout_s=WAIT_S)
    assert told.get(timeout=WAIT_S) is moved.network
    assert told.empty()


def test_a_stopped_source_keeps_nobody_waiting() -> None:
    source = CapabilitiesSource(Script([capabilities()]), SETTINGS)
    source.stop()
    with pytest.raises(Unfinished):
        source.current(timeout_s=WAIT_S)


def test_the_initiators_last_known_name_stays_while_the_helper_is_away() -> None:
    answers = iter(["iqn.2000-01.org.example:a", Unreachable(what="supervdsm", reason="away")])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = HbaSource(ask)
    assert source.gather().initiator_name == source.gather().initiator_name == "iqn.2000-01.org.example:a"
