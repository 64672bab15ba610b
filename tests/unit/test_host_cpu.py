"""What libvirt's XML says for guests, and the flags made from it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vdsm.base.errors import Failed
from vdsm.host import hypervisor
from vdsm.host.capabilities import cluster_levels, machine_names
from vdsm.host.cpu import combined_flags
from vdsm.host.hypervisor import GuestSupport

CAPABILITIES = """
<capabilities>
  <host>
    <cpu>
      <arch>x86_64</arch>
      <counter name='tsc' frequency='2596128000' scaling='yes'/>
    </cpu>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='i686'><machine>pc-q35-1.0</machine></arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <machine maxCpus='255'>pc-i440fx-7.2</machine>
      <machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>
      <machine maxCpus='288'>pc-q35-7.2</machine>
      <domain type='kvm'><machine maxCpus='288'>pc-q35-7.2</machine></domain>
    </arch>
  </guest>
</capabilities>
"""
DOMAIN_CAPABILITIES = """
<domainCapabilities>
  <cpu>
    <mode name='host-passthrough' supported='no'/>
    <mode name='host-model' supported='yes'>
      <model fallback='forbid'>EPYC</model>
      <feature policy='require' name='svme-addr-chk'/>
      <feature policy='require' name='svm'/>
      <feature policy='disable' name='rdseed'/>
    </mode>
    <mode name='custom' supported='yes'>
      <model usable='yes' vendor='Intel'>Nehalem</model>
      <model usable='no' vendor='AMD'>EPYC</model>
      <model usable='unknown' vendor='AMD'>Opteron_G5</model>
      <model usable='yes' vendor='unknown'>qemu64</model>
    </mode>
  </cpu>
</domainCapabilities>
"""


@dataclass
class Texts:
    """HypervisorFacts from texts."""

    capabilities: str = CAPABILITIES
    domain: str = DOMAIN_CAPABILITIES
    models: tuple[str, ...] = ()

    def capabilities_xml(self) -> str:
        return self.capabilities

    def domain_capabilities_xml(self) -> str:
        return self.domain

    def cpu_models(self) -> tuple[str, ...]:
        return self.models

    def versions(self) -> tuple[str, str]:
        return ("9.0.0", "7.2.22")


def test_what_guests_can_have() -> None:
    assert hypervisor.gather(Texts()) == GuestSupport(
        machines=("pc-i440fx-7.2", "pc", "pc-q35-7.2"),
        cpu_models=("Nehalem", "qemu64"),
        cpu_features=("svme_addr_chk",),
        tsc_frequency_hz=2_596_128_000,
        tsc_scaling=True,
        libvirt_version="9.0.0",
        qemu_version="7.2.22",
    )


def test_models_that_libvirt_cannot_name_are_left_out() -> None:
    assert hypervisor.gather(Texts(models=("Nehalem", "EPYC"))).cpu_models == ("Nehalem",)


def test_a_host_without_a_counter_has_no_frequency() -> None:
    support = hypervisor.gather(
        Texts(capabilities="<capabilities><host><cpu><arch>x</arch></cpu></host></capabilities>")
    )
    assert (support.tsc_frequency_hz, support.tsc_scaling, support.machines) == (None, False, ())


@pytest.mark.parametrize("text", ["", "<capabilities>", "not XML"])
def test_what_is_no_xml_is_a_failure(text: str) -> None:
    with pytest.raises(Failed, match="libvirt's capabilities"):
        hypervisor.gather(Texts(capabilities=text))


def test_flags_are_the_kernels_then_libvirts_then_models() -> None:
    flags = combined_flags(("fpu", "vmx", "nx"), hypervisor.gather(Texts()))
    assert flags == ("fpu", "vmx", "nx", "svme_addr_chk", "model_Nehalem", "model_qemu64")


def test_emulated_virtualization_does_not_look_like_the_hosts() -> None:
    assert not {"svm", "vmx"} & set(combined_flags(("fpu",), hypervisor.gather(Texts())))


def test_aliases_count_where_qemu_has_their_target() -> None:
    aliases = {"pc-q35-rhel9.6.0": "pc-q35-7.2", "pc-i440fx-rhel7.6.0": "pc-i440fx-2.11"}
    machines = machine_names(hypervisor.gather(Texts()), aliases)
    assert machines == ("pc", "pc-i440fx-7.2", "pc-q35-7.2", "pc-q35-rhel9.6.0")


def test_cluster_level_4_8_needs_a_machine_that_its_managers_accept() -> None:
    old = ("4.2", "4.3", "4.4", "4.5", "4.6", "4.7")
    assert cluster_levels(("pc-q35-7.2",)) == old
    assert cluster_levels(("pc-q35-7.2", "pc-q35-rhel9.6.0")) == (*old, "4.8")
