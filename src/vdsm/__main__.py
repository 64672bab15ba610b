"""vdsmd: the agent's process. ``vdsmd [--config FILE]``; SIGTERM ends it, SIGHUP has it read its certificates anew."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from vdsm.base import config as configuration
from vdsm.base import logs
from vdsm.base.config import Config
from vdsm.base.errors import VdsmError
from vdsm.wiring import Agent

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run vdsmd until SIGTERM or SIGINT; returns the exit status: 0, 1 (could not serve) or 2 (bad usage)."""
    parser = argparse.ArgumentParser(prog="vdsmd", description="The agent of a virtualization host.")
    parser.add_argument("--config", type=Path, help=f"configuration file (default: {configuration.DEFAULT_PATH})")
    parser.add_argument("--show-config", action="store_true", help="print the effective configuration and exit")
    options = parser.parse_args(argv)
    try:
        config = configuration.load(options.config)
    except VdsmError as error:
        sys.stderr.write(f"vdsmd: {error}\n")
        return 2
    if options.show_config:
        sys.stdout.write(configuration.show(config))
        return 0
    logs.configure(config.log.level, config.log_file("vdsm"))
    try:
        uvloop.run(_serve(config))
    except (VdsmError, OSError) as error:
        log.error("cannot serve: %s", error)  # noqa: TRY400 - the message says all
        sys.stderr.write(f"vdsmd: {error}\n")
        return 1
    return 0


async def _serve(config: Config) -> None:
    agent = Agent(config)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, agent.reload)
    agent.start()
    try:
        await ended.wait()
    finally:
        await agent.stop()


if __name__ == "__main__":
    sys.exit(main())
