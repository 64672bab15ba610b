"""The daemons themselves: start to port and to ready, memory when idle, memory per VM, the way back after kill -9.

python -m bench.daemon
python -m bench.daemon --real 20            and with so many real VMs
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from bench import vms
from bench.agents import Agent, Helper, Place, place
from bench.figures import Figure, finish, median_of, progress
from bench.quiet import rest

START_BOUND_S = 1.0
IDLE_BOUND_MIB = 60.0
HELPER_BOUND_MIB = 25.0
PER_VM_BOUND_MIB = 0.1
# Two rounds of everything that is sampled or gathered.
SETTLE_S = 22.0


def start_figures(name: str, starts: Sequence[Agent], bound: float | None = START_BOUND_S) -> list[Figure]:
    return [
        median_of(f"start to port, {name}", [agent.port_s for agent in starts], "s"),
        median_of(f"start to Host.ping, {name}", [agent.ping_s for agent in starts], "s"),
        median_of(f"start to ready, {name}", [agent.ready_s for agent in starts], "s", bound),
        median_of(f"start to ready, {name}: CPU", [agent.ready_cpu_s for agent in starts], "s"),
        median_of(f"start to Host.getCapabilities, {name}", [agent.capabilities_s for agent in starts], "s"),
    ]


def starts(make: Callable[[], Agent], runs: int) -> list[Agent]:
    """Start the agent several times, and end it as a crash does."""
    done = []
    for _ in range(runs + 1):
        rest(0.3)
        with make() as agent:
            done.append(agent.wait_ready())
            agent.kill()
    return done[1:]  # the first one compiles modules where none are


def memory(where: Place, simulated: int) -> float:
    """RSS of the agent with so many simulated VMs, after a manager has asked for everything."""
    with Agent(where, simulated) as agent:
        agent.wait_ready()
        ask_everything(agent)
        time.sleep(SETTLE_S)
        return agent.rss_mib()


def ask_everything(agent: Agent) -> None:
    """What a manager asks for at first and then all the time."""
    connection = agent.connect()
    for verb in ("Host.getCapabilities", "Host.getStats", "Host.getVMList", "Host.getAllVmStats", "Host.dumpxmls"):
        connection.ask(verb)
    connection.close()


def simulated_figures(runs: int) -> list[Figure]:
    with place() as where:
        progress("start with 100 simulated VMs, after kill -9")
        found = start_figures("100 simulated VMs to adopt", starts(lambda: Agent(where, 100), runs))
    used = {}
    for count in (0, 100, 500):
        progress(f"memory with {count} simulated VMs")
        with place() as where:
            used[count] = memory(where, count)
            found.append(Figure(f"RSS of vdsmd, {count} simulated VMs", used[count], "MiB"))
    for count in (100, 500):
        each = (used[count] - used[0]) / count
        found.append(Figure(f"RSS per VM, {count} simulated VMs", each, "MiB", PER_VM_BOUND_MIB))
    return found


def real_figures(runs: int, count: int) -> list[Figure]:
    with vms.libvirt_host() as light, place(light.uri) as where, Helper(where) as helper:
        progress("start, no VMs")
        found = start_figures("no VMs", starts(lambda: Agent(where), runs))
        progress("memory, no VMs")
        with Agent(where) as agent:
            agent.wait_ready()
            ask_everything(agent)
            time.sleep(SETTLE_S)
            idle_mib = agent.rss_mib()
            found.append(Figure("RSS of vdsmd, idle", idle_mib, "MiB", IDLE_BOUND_MIB))
            found.append(Figure("RSS of vdsmd, idle: not shared", agent.private_mib(), "MiB"))
            found.append(Figure("threads of vdsmd, idle", agent.threads(), ""))
            before_s, began_s = agent.cpu_s(), time.monotonic()
            time.sleep(SETTLE_S)
            share = (agent.cpu_s() - before_s) / (time.monotonic() - began_s)
            found.append(Figure("CPU of vdsmd, idle", share * 100, "% of one"))
            found.append(Figure("RSS of supervdsmd, idle", helper.rss_mib(), "MiB", HELPER_BOUND_MIB))
            if not count:
                return found
            progress(f"{count} real VMs are being started")
            connection = agent.connect(events=True)
            for number in range(count):
                vms.create(connection, vms.xml(f"bench-{number}"))
            ask_everything(agent)
            time.sleep(SETTLE_S)
            each = (agent.rss_mib() - idle_mib) / count
            found.append(Figure(f"RSS of vdsmd, {count} real VMs", agent.rss_mib(), "MiB"))
            found.append(Figure(f"RSS per VM, {count} real VMs, all in", each, "MiB"))
            agent.kill()
        progress(f"start with {count} real VMs, after kill -9")
        found += start_figures(f"{count} real VMs to adopt", starts(lambda: Agent(where), runs))
        with Agent(where) as agent:
            agent.wait_ready()
            connection = agent.connect()
            adopted = len(connection.ask("Host.getVMList"))
            found.append(Figure("real VMs adopted", adopted, "", count, "at least"))
            ask_everything(agent)
            time.sleep(SETTLE_S)
            each = (agent.rss_mib() - idle_mib) / count
            found.append(Figure(f"RSS per VM, {count} real VMs adopted", each, "MiB", PER_VM_BOUND_MIB))
        return found


def figures(*, runs: int = 5, real_vms: int = 20) -> list[Figure]:
    return real_figures(runs, real_vms) + simulated_figures(runs)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    return finish(figures(runs=options.runs, real_vms=options.real))


if __name__ == "__main__":
    sys.exit(main())
