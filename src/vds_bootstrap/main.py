"""The command line: ``vds-bootstrap check|setup|guest|pki|run|clean``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vds_bootstrap import account, guest, janitor, layout, pki, relay, setup
from vds_bootstrap.clean import clean
from vds_bootstrap.hypervisor import NoAccess
from vds_bootstrap.layout import BadConfig
from vds_bootstrap.manifest import Manifest, UnknownManifest
from vds_bootstrap.processes import NotStarted
from vds_bootstrap.programs import ProgramFailed
from vds_bootstrap.progress import Progress
from vds_bootstrap.run import run
from vds_bootstrap.setup import NotPossible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vds_bootstrap.layout import Layout

FAILURES = (NotPossible, NoAccess, NotStarted, ProgramFailed, BadConfig, UnknownManifest, LookupError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 (it could not be done) or 2 (bad usage)."""
    options = _parser().parse_args(argv)
    progress = Progress()
    try:
        return int(options.function(options, progress) or 0)
    except FAILURES as error:
        print(f"vds-bootstrap {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _check(options: argparse.Namespace, progress: Progress) -> None:
    setup.check(_layout(options), progress)


def _setup(options: argparse.Namespace, progress: Progress) -> None:
    place = _layout(options)
    setup.check(place, progress)
    setup.tools(progress, dev=options.dev)
    if not options.tools_only:
        setup.host(place, progress)


def _guest(options: argparse.Namespace, progress: Progress) -> None:
    place = _layout(options)
    with progress.step("Tiny guest") as outcome:
        built = guest.build(options.out or place.guest_dir, options.cache or place.cache_dir)
        outcome.say(f"{built.kernel} and {built.initrd}")


def _pki(options: argparse.Namespace, progress: Progress) -> None:
    place = _layout(options)
    with progress.step(f"Certificates in {place.pki_dir}") as outcome:
        names = [*pki.own_names(), *options.name] if options.name else None
        outcome.say(pki.ensure(pki.Pki(place.pki_dir, account.ids(place)), Manifest(place.manifest), names))


def _run(options: argparse.Namespace, progress: Progress) -> int:
    return run(_layout(options), progress, stay=not options.once)


def _clean(options: argparse.Namespace, progress: Progress) -> None:
    clean(_layout(options), progress, images=options.images)


def _janitor(_options: argparse.Namespace, _progress: Progress) -> int:
    return janitor.serve()


def _relay(options: argparse.Namespace, _progress: Progress) -> int:
    return relay.serve(options.path, options.upstream, options.gid)


def _layout(options: argparse.Namespace) -> Layout:
    return layout.read(options.config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vds-bootstrap", description="Checks a machine and prepares it as a host.")
    parser.add_argument("--config", type=Path, help=f"the agent's configuration (default: {layout.DEFAULT_CONFIG})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: object, words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=f"{words}.") if words else commands.add_parser(name)
        added.set_defaults(function=function)
        return added

    command("check", _check, "check whether this machine can be a host")
    preparing = command("setup", _setup, "prepare this machine: packages, .venv, user, certificates, tiny guest")
    preparing.add_argument("--dev", action="store_true", help="also install what tests and checks need")
    preparing.add_argument("--tools-only", action="store_true", help="packages and .venv only")
    building = command("guest", _guest, "build the tiny guest")
    building.add_argument("--out", type=Path, help="directory for vmlinux and initrd.img")
    building.add_argument("--cache", type=Path, help="directory for downloaded packages")
    certifying = command("pki", _pki, "make or renew the host's certificates")
    certifying.add_argument("--name", action="append", default=[], help="a further name or address of this host")
    running = command("run", _run, "prepare the host, start the agent, show a VM, stay until Ctrl-C")
    running.add_argument("--once", action="store_true", help="do not stay: take everything down once the VM was shown")
    cleaning = command("clean", _clean, "take back what setup made (packages stay)")
    cleaning.add_argument("--images", action="store_true", help="also remove disk images")
    # Started by run only.
    command("janitor", _janitor, "")
    relaying = command("relay", _relay, "")
    relaying.add_argument("path", type=Path)
    relaying.add_argument("upstream", type=Path)
    relaying.add_argument("gid", type=int)
    return parser
