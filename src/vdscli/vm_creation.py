"""VMs defined, created and forgotten: from options to a description."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory, units, vm_disks, vm_power
from vdscli.client import quoted
from vdscli.failures import USAGE, WRONG_STATE, CliError
from vdscli.inventory import Vm

if TYPE_CHECKING:
    from argparse import Namespace

    from vdscli.session import Session

_UUID: Final = re.compile(r"<uuid>\s*([0-9A-Fa-f-]{36})\s*</uuid>")
_MAX_XML: Final = 8 << 20
_DISK_OPTIONS: Final = frozenset({"format", "bus", "device", "serial"})
_NIC_OPTIONS: Final = frozenset({"network", "mac", "model"})


def create(session: Session) -> None:
    """``vm create``."""
    args = session.args
    if args.xml is not None:
        _create_from_xml(session)
    elif args.transient:
        if args.no_start or args.autostart:
            raise CliError(
                "--transient: such a VM has no definition, so --no-start and --autostart mean nothing", USAGE
            )
        with vm_disks.resolved(session, described(args, local=session.client.is_local)) as body:
            stats = session.client.post("/vms", {**body, **_ident(args)})
        vm_power.started(session, _live(stats, defined=False), stats)
    elif args.no_start:
        define(session)
    else:
        _create_defined(session)


def _create_defined(session: Session) -> None:
    with vm_disks.resolved(session, described(session.args, local=session.client.is_local)) as body:
        definition = _define(session, body)
        path = f"/definitions/{quoted(definition['name'])}"
        try:
            stats = session.client.post(f"{path}/start")
        except CliError:
            session.client.delete(path)
            raise
    vm_power.started(session, _live(stats, defined=True), stats)


def _create_from_xml(session: Session) -> None:
    args = session.args
    given = [
        flag
        for flag, value in (
            ("NAME", args.name),
            ("--memory", args.memory),
            ("--vcpus", args.vcpus),
            ("--disk", args.disk),
            ("--cdrom", args.cdrom),
            ("--nic", args.nic),
            ("--kernel", args.kernel),
            ("--no-start", args.no_start),
            ("--autostart", args.autostart),
        )
        if value
    ]
    if given:
        raise CliError(f"--xml: says all of a VM that is started from it, so {given[0]} cannot be given too", USAGE)
    xml = _text(args.xml)
    found = _UUID.search(xml)
    vm_id = args.id or (found[1].lower() if found else None)
    if vm_id is None:
        raise CliError("--xml: the XML has no <uuid>; add one, or give --id", USAGE)
    stats = session.client.post("/vms", {"xml": xml, "vm_id": vm_id})
    vm_power.started(session, _live(stats, defined=False), stats)


def _live(stats: dict[str, Any], *, defined: bool) -> Vm:
    return Vm(stats["vm_name"], stats["vm_id"], stats["status"], live=True, defined=defined)


def define(session: Session) -> None:
    """``vm define``."""
    with vm_disks.resolved(session, described(session.args, local=session.client.is_local)) as body:
        definition = _define(session, body)
    session.out.done(f"{definition['name']}: defined ({definition['vm_id']})", definition)


def _define(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    args = session.args
    answer: dict[str, Any] = session.client.post("/definitions", {**body, **_ident(args), "autostart": args.autostart})
    return answer


def _ident(args: Namespace) -> dict[str, str]:
    return {} if args.id is None else {"vm_id": args.id}


def forget(session: Session) -> int:
    """``vm forget``."""

    def act(text: str) -> None:
        vm = inventory.find(session.client, text)
        ended = vm.live and vm.is_down
        if not vm.defined and not ended:
            raise CliError(f"{vm.name} has no definition; 'vm destroy' ends it", WRONG_STATE)
        if vm.defined:
            session.client.delete(vm.definition_path)
        if ended:
            session.client.delete(vm.path)  # what is left of its last run
        words = "" if vm.is_down else f"; it goes on ({vm.status})"
        answer = {"vm_id": vm.vm_id, "vm_name": vm.name, "status": vm.status, "defined": False}
        session.out.done(f"{vm.name}: forgotten{words}", answer)

    return session.each(session.args.vm, act)


def autostart(session: Session) -> None:
    """``vm autostart``."""
    enabled = session.args.setting == "on"
    vm = _defined(session, session.args.vm)
    definition = session.client.put(f"{vm.definition_path}/autostart", {"enabled": enabled})
    session.out.done(f"{vm.name}: {'starts' if enabled else 'does not start'} with the agent", definition)


def _defined(session: Session, text: str) -> Vm:
    vm = inventory.find(session.client, text)
    if not vm.defined:
        raise CliError(f"{vm.name} has no definition", WRONG_STATE)
    return vm


def described(args: Namespace, *, local: bool) -> dict[str, Any]:
    """A VM's description from the options; what was not given is left to the agent.

    Args:
        args: the options.
        local: the agent is on this host, so that a relative path means what it means here.

    Raises:
        CliError: names the option that is wrong.
    """
    if not args.name:
        raise CliError("NAME is missing", USAGE)
    body: dict[str, Any] = {"name": args.name}
    if args.memory is not None:
        try:
            body["memory_mib"] = units.mebibytes(args.memory)
        except ValueError as error:
            raise CliError(f"--memory: {args.memory!r} is {error}", USAGE) from error
    for key, value in (
        ("vcpus", args.vcpus),
        ("graphics", args.graphics),
        ("machine", args.machine),
        ("cpu_model", args.cpu),
    ):
        if value is not None:
            body[key] = value
    body["disks"] = [disk(text, local=local) for text in args.disk] + [
        {"device": "cdrom", "format": "raw", "readonly": True, "path": absolute("--cdrom", path, local=local) or None}
        for path in args.cdrom
    ]
    body["nics"] = [nic(text) for text in args.nic]
    if boot := _boot(args, local=local):
        body["boot"] = boot
    if args.no_console:
        body["serial_console"] = False
    if args.no_agent:
        body["guest_agent"] = False
    return body


def _boot(args: Namespace, *, local: bool) -> dict[str, Any]:
    boot: dict[str, Any] = {}
    if args.boot is not None:
        boot["order"] = [word.strip() for word in args.boot.split(",")]
    for key in ("kernel", "initrd"):
        if (path := getattr(args, key)) is not None:
            boot[key] = absolute(f"--{key}", path, local=local)
    if args.cmdline is not None:
        boot["cmdline"] = args.cmdline
    if "kernel" not in boot and (missing := [key for key in ("initrd", "cmdline") if key in boot]):
        raise CliError(f"--{missing[0]}: needs --kernel", USAGE)
    return boot


def disk(text: str, *, local: bool) -> dict[str, Any]:
    """``PATH[,format=qcow2][,readonly]...`` -> a disk's description; of images in storage what ``vm_disks`` resolves.

    Raises:
        CliError: it is not that.
    """
    path, *options = _parts(text)
    if path.startswith("path="):
        path = path.removeprefix("path=")
    found: dict[str, Any] = {}
    stored = vm_disks.is_image(path)
    if stored:
        key, _, value = path.partition("=")
        found[key] = value
    allowed = _DISK_OPTIONS | ({"storage"} if stored else set())
    for option in options:
        key, equals, value = option.partition("=")
        if key == "readonly" and value in {"", "on", "yes", "true"}:
            found["readonly"] = True
        elif key in allowed and equals and value:
            found[key] = value
        else:
            raise CliError(f"--disk: {option!r} is none of {', '.join(sorted(allowed))}=..., readonly", USAGE)
    if stored:
        return found
    found["path"] = absolute("--disk", path, local=local) or None
    found.setdefault("format", "qcow2" if path.lower().endswith(".qcow2") else "raw")
    return found


def nic(text: str) -> dict[str, Any]:
    """``user``, a bridge, or ``network=br0,model=e1000,mac=...`` -> a network card's description.

    Raises:
        CliError: it is not that.
    """
    found: dict[str, Any] = {}
    for index, option in enumerate(_parts(text)):
        key, equals, value = option.partition("=")
        if index == 0 and not equals:
            key, value = "network", option
        if key not in _NIC_OPTIONS or not value:
            raise CliError(f"--nic: {option!r} is none of user, network=..., mac=..., model=...", USAGE)
        if not (key == "network" and value == "user"):
            found[key] = value
    return found


def absolute(flag: str, path: str, *, local: bool) -> str:
    """A path as the agent needs it.

    Raises:
        CliError: it is relative, and the agent is elsewhere.
    """
    if not path or path.startswith("/"):
        return path
    if not local:
        raise CliError(f"{flag}: {path!r} must be an absolute path on the other host", USAGE)
    return str(Path.cwd() / path)


def _parts(text: str) -> list[str]:
    """Split at commas; a doubled comma is one that belongs to the text."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _text(source: str) -> str:
    try:
        raw = sys.stdin.buffer.read(_MAX_XML + 1) if source == "-" else Path(source).read_bytes()
        if len(raw) > _MAX_XML:
            raise CliError(f"--xml: more than {_MAX_XML >> 20} MiB", USAGE)
        return raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--xml: cannot read {source}: {error}", USAGE) from error
