"""Host.getAllVmStats over STOMP and TLS while VMs are sampled at the normal intervals.

python -m bench.vm_stats                    100 and 500 VMs on the simulated hypervisor
python -m bench.vm_stats --real 50          and so many real ones, idle, on a libvirt of their own
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from bench import vms
from bench.agents import Agent, Process, place
from bench.client import request
from bench.figures import Figure, finish, median_of, progress
from bench.ping import Server, measure

# The original's requests a second by number of VMs, on a machine of this kind.
ORIGINAL = {100: 18.0, 500: 4.4}
FACTOR = 20


def answers(agent: Process, port: int, pki, count: int, name: str, runs: int, seconds: float) -> list[Figure]:
    """One connection that asks all the time."""
    server = Server(port, agent.pid, pki)
    message = request("Host.getAllVmStats")
    done = [measure(server, message, 1, seconds) for _ in range(runs)]
    original = ORIGINAL.get(count)
    return [
        median_of(
            f"getAllVmStats, {name}: requests a second",
            [run.rate for run in done],
            "/s",
            None if original is None else FACTOR * original,
            "at least",
            f"{done[0].size / 1000:.0f} kB" + (f"; the original {original:g}" if original else ""),
        ),
        median_of(f"getAllVmStats, {name}: server CPU", [run.cpu_ms for run in done], "ms"),
        median_of(f"getAllVmStats, {name}: 99th percentile", [run.p99_ms for run in done], "ms"),
    ]


def sampling(agent: Process, name: str, seconds: float) -> Figure:
    """What the agent costs when nobody asks."""
    before_s, began_s = agent.cpu_s(), time.monotonic()
    time.sleep(seconds)
    share = (agent.cpu_s() - before_s) / (time.monotonic() - began_s)
    return Figure(f"sampling, {name}: CPU when nobody asks", share * 100, "% of one")


def simulated(count: int, runs: int, seconds: float) -> list[Figure]:
    with place() as where, Agent(where, count) as agent:
        progress(f"getAllVmStats with {count} simulated VMs")
        agent.wait_ready()
        time.sleep(12.0)  # the first monitor round as well
        found = answers(agent, where.port, where.pki, count, f"{count} simulated VMs", runs, seconds)
        return [*found, sampling(agent, f"{count} simulated VMs", 12.0)]


def real(count: int, runs: int, seconds: float) -> list[Figure]:
    with vms.libvirt_host() as light, place(light.uri) as where, Agent(where) as agent:
        progress(f"{count} real VMs are being started")
        agent.wait_ready()
        connection = agent.connect(events=True)
        for number in range(count):
            vms.create(connection, vms.xml(f"bench-{number}"))
        connection.close()
        time.sleep(12.0)
        found = answers(agent, where.port, where.pki, 0, f"{count} real idle VMs", runs, seconds)
        return [*found, sampling(agent, f"{count} real idle VMs", 12.0)]


def figures(*, runs: int = 3, seconds: float = 5.0, real_vms: int = 0) -> list[Figure]:
    found = [figure for count in ORIGINAL for figure in simulated(count, runs, seconds)]
    return found + (real(real_vms, runs, seconds) if real_vms else [])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(argv)
    return finish(figures(runs=options.runs, seconds=options.seconds, real_vms=options.real))


if __name__ == "__main__":
    sys.exit(main())
