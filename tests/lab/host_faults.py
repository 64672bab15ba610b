"""Faults of light hosts, each one call with an undo: the undo comes at the end of a ``with``, whatever happened in it.

    with cut(host): ...                          its cable is out (no carrier)
    with line(host, delay_s=0.2, loss=0.1): ...  its link is late, or loses frames; in both directions
    with throttled(host, 1_000_000): ...         its link carries so many bytes a second, each way
    with frozen(host): ...                       nothing in it runs; ``stopped`` one daemon, ``guest_stopped`` a QEMU
    with without_power(host): ...                killed as by power loss, booted afterwards
    with without(host, "vdsmd"): ...             a daemon was killed; started again afterwards
    with full(host, directory): ...              its file system has no block left
    with stalled(host, "images"): ...            a shared directory does not answer
    with certificate_expired(host): ...          also ``certificate_revoked``
    with clock_moved(host, 3600): ...            the agents' time of day

Kernels without netem (the development machine's) cannot delay or lose frames. So ``line`` puts a switch of this process
(fabric.py) into the cable, which is slower than the kernel's; ``throttled`` is the kernel's token bucket.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .fabric import Fabric, Line
from .guests import Guest
from .hosts import Host
from .lan import in_network

_AGENT: Final = ("supervdsmd", "vdsmd")
_BURST: Final = 32 << 10  # bytes that pass a throttled link at once


# -- links


@contextmanager
def cut(host: Host, network: int = 0) -> Iterator[None]:
    """Pull a cable: the host sees no carrier, its peers get no answer."""
    lan, cable = host.lab.lan, host.cable(network)
    lan.ip(f"link set {cable} down")
    try:
        yield
    finally:
        with suppress(RuntimeError):  # it was switched off meanwhile: it comes back with a cable
            lan.ip(f"link set {cable} up")


@contextmanager
def line(
    host: Host, network: int = 0, *, delay_s: float = 0.0, loss: float = 0.0, bytes_per_s: float | None = None
) -> Iterator[Line]:
    """Make a link bad, both ways: frames are late, are lost (share 0..1), are slow. The Line may be changed."""
    lan, cable = host.lab.lan, host.cable(network)
    inner, outer, bridge = (f"{cable}{letter}" for letter in "iob")
    fabric = Fabric(Path(tempfile.mkdtemp(prefix="line-", dir=host.lab.directory)) / "net")
    try:
        segment = fabric.network(cable)
        port = segment.plug_tap(inner, lan.pid)
        segment.plug_tap(outer, lan.pid)
        port.line = Line(delay_s, loss, bytes_per_s)
        lan.ip(
            f"link add {bridge} type bridge",
            f"link set {bridge} up",
            f"link set {inner} master {bridge} up",
            f"link set {outer} master net{network} up",
            f"link set {cable} master {bridge}",
        )
        yield port.line
    finally:
        with suppress(RuntimeError):
            lan.ip(f"link set {cable} master net{network}")
        fabric.close()
        with suppress(RuntimeError):
            lan.ip(f"link delete {bridge}")


@contextmanager
def throttled(host: Host, bytes_per_s: int, network: int = 0) -> Iterator[None]:
    """Make a link slow, in both directions."""
    ends = ((host.lab.lan.pid, host.cable(network)), (host.pid, f"eth{network}"))
    shape = ["tbf", "rate", f"{bytes_per_s * 8}bit", "burst", str(_BURST), "latency", "200ms"]
    try:
        for pid, device in ends:
            in_network(pid, "tc", "qdisc", "replace", "dev", device, "root", *shape)
        yield
    finally:
        for pid, device in ends:
            with suppress(RuntimeError):
                in_network(pid, "tc", "qdisc", "delete", "dev", device, "root")


# -- processes and hosts


@contextmanager
def stopped(host: Host, daemon: str) -> Iterator[None]:
    """Stop a daemon (vdsmd, supervdsmd, libvirtd) by SIGSTOP.

    Raises:
        LookupError: it does not run.
    """
    with _stopped(host, host.pid_of(daemon)):
        yield


@contextmanager
def guest_stopped(guest: Guest) -> Iterator[None]:
    """Stop a guest's QEMU by SIGSTOP."""
    with _stopped(guest.host, guest.pid):
        yield


@contextmanager
def _stopped(host: Host, pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            host.thaw_process(pid)


@contextmanager
def frozen(host: Host) -> Iterator[None]:
    """Stop everything in a host. Its kernel still takes connections, and nobody answers them."""
    try:
        host.freeze()
        yield
    finally:
        host.thaw()


@contextmanager
def without_power(host: Host) -> Iterator[None]:
    """Kill a host as by power loss; boot it at the end."""
    host.power_off()
    try:
        yield
    finally:
        host.power_on()


@contextmanager
def without(host: Host, daemon: str) -> Iterator[None]:
    """Kill a daemon (SIGKILL); start it at the end, and wait until the host is ready."""
    host.stop(daemon)
    try:
        yield
    finally:
        if daemon in _AGENT:
            host.start_agent(daemon)
        else:
            host.start_libvirtd()
        host.wait_ready()


# -- storage


@contextmanager
def full(host: Host, directory: str) -> Iterator[None]:
    """Fill the file system that a directory of a host is in, to the last block. For small ones (Host.mount_small)."""
    filler = f"{directory}/.lab-filler"
    # dd ends with "no space left".
    host.run(f"dd if=/dev/zero of={filler} bs=1M; dd if=/dev/zero of={filler}.rest bs=4k", check=False)
    try:
        yield
    finally:
        if host.is_on:
            host.run(["rm", "-f", filler, f"{filler}.rest"])


@contextmanager
def stalled(host: Host, shared: str) -> Iterator[None]:
    """Make a shared directory stand still on one host: who reads or writes there waits in the kernel."""
    with stopped(host, f"bindfs-{shared}"):
        yield


# -- certificates and clocks


@contextmanager
def certificate_expired(host: Host) -> Iterator[None]:
    """Give a host an expired certificate; its daemons take it at once."""
    before = host.identity
    host.install(host.authority.issue(host.name, [host.address], expired=True))
    try:
        yield
    finally:
        if host.is_on:
            host.install(before)


@contextmanager
def certificate_revoked(host: Host) -> Iterator[None]:
    """Revoke a host's certificate; libvirt on all hosts and the lab's own connections know. Then it gets a new one."""
    host.authority.revoke(host.identity)
    for one in host.lab:
        one.install(one.identity)
    try:
        yield
    finally:
        if host.is_on:
            host.install(host.authority.issue(host.name, [host.address]))


@contextmanager
def clock_moved(host: Host, seconds: float) -> Iterator[None]:
    """Move the time of day of a host's agents; timers and ages (monotonic clocks) go on as before.

    Raises:
        LookupError: the lab was not made with ``movable_clock``.
    """
    host.set_clock(seconds)
    try:
        yield
    finally:
        host.set_clock(0)
