"""All measurements, or those named: a table, and JSON with --json FILE ("-": standard output)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench import cli, daemon, ping, storage, transfers, vm_start, vm_stats
from bench.figures import Figure, as_json, end_on_signals, finish

MEASUREMENTS: dict[str, Callable[[], list[Figure]]] = {
    "ping": ping.figures,
    "vm_stats": lambda: vm_stats.figures(real_vms=50),
    "daemon": daemon.figures,
    "cli": cli.figures,
    "vm_start": vm_start.figures,
    "storage": storage.figures,
    "transfers": transfers.figures,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all without")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    if unknown := set(options.names) - MEASUREMENTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    end_on_signals()
    before = os.getloadavg()[0]
    found = [figure for name in options.names or MEASUREMENTS for figure in MEASUREMENTS[name]()]
    found.append(Figure("load of the machine before", before, "", note="from others: makes figures worse"))
    if options.json == "-":
        sys.stdout.write(as_json(found) + "\n")
        return int(any(figure.holds is False for figure in found))
    if options.json:
        Path(options.json).write_text(as_json(found) + "\n")
    return finish(found)


if __name__ == "__main__":
    sys.exit(main())
