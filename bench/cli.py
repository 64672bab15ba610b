"""vdscli: from the shell to its end.

python -m bench.cli
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.agents import ROOT, Agent, place
from bench.figures import Figure, finish, median_of, progress
from bench.quiet import rest

BOUND_S = 0.2


def timed(runs: int, *command: str) -> list[float]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    took = []
    for _ in range(runs + 1):
        rest(0.05)
        began_s = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT, timeout=30)
        took.append(time.monotonic() - began_s)
    return took[1:]  # the first one compiles modules where none are


def figures(*, runs: int = 15) -> list[Figure]:
    progress("vdscli")
    vdscli = str(ROOT / ".venv/bin/vdscli")
    with place() as where, Agent(where, 20) as agent:
        agent.wait_ready()
        time.sleep(2.0)
        socket = str(where.unix_socket)
        return [
            median_of("vdscli --help", timed(runs, vdscli, "--help"), "s", BOUND_S),
            median_of("vdscli vm list, 20 VMs", timed(runs, vdscli, "--socket", socket, "vm", "list"), "s", BOUND_S),
            median_of("python3 -c pass, in the same environment", timed(runs, sys.executable, "-c", "pass"), "s"),
        ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    return finish(figures(runs=parser.parse_args(argv).runs))


if __name__ == "__main__":
    sys.exit(main())
