"""What can be typed after ``vdscli vm``."""

from __future__ import annotations

from typing import Final

from vdscli.parser import CommandParser, count, seconds

_DISK_HELP: Final = """\
--disk size=SIZE[,OPTION...]    a new image in storage, called after the VM
--disk image=NAME[,OPTION...]   an image in storage, by name or id
--disk PATH[,OPTION...]   a file or block device; options:
    storage=NAME          size, image: where; may be left out when there is only one
    format=raw|qcow2      how it is to be read; without it, qcow2 for a name in .qcow2, else raw
    bus=virtio|sata|scsi  how the guest sees it
    device=disk|cdrom|floppy, serial=TEXT, readonly
    A comma in a path is written twice.
--nic user | NETWORK | OPTION,...   a network card; options:
    network=BRIDGE        the host's bridge to join; 'user' or none: outgoing connections only
    mac=MAC, model=virtio|e1000|e1000e|rtl8139"""


def fill(parser: CommandParser) -> None:
    """Add the commands."""
    parser.command("list", "List the VMs", _list, "vm_views:show_all")
    parser.command("show", "Show one VM and its devices", _one, "vm_views:show")
    parser.command("stats", "Show a VM's load, or all VMs'", _stats, "vm_views:stats")
    parser.command("create", "Define a VM and start it", _create, "vm_creation:create")
    parser.command("define", "Define a VM without starting it", _define, "vm_creation:define")
    parser.command("forget", "Forget the definitions of VMs", _forget, "vm_creation:forget")
    parser.command("autostart", "Say whether a VM starts with the agent", _autostart, "vm_creation:autostart")
    parser.command("start", "Start defined VMs", _start, "vm_power:start")
    parser.command("stop", "Shut VMs down and wait until they are", _stop, "vm_power:stop")
    parser.command("reboot", "Ask the guest to reboot", _many, "vm_power:reboot")
    parser.command("pause", "Stop the CPUs of VMs; they keep their memory", _many, "vm_power:pause")
    parser.command("resume", "Let paused VMs go on", _many, "vm_power:resume")
    parser.command("reset", "Press the reset button of VMs", _many, "vm_power:reset")
    parser.command("destroy", "Power VMs off at once", _destroy, "vm_power:destroy")
    parser.command("wait", "Wait until a VM is in a state", _wait, "vm_power:wait")
    parser.command("console", "Open the serial console", _console, "vm_console:console")
    parser.command("ticket", "Open a VM's display for a while", _ticket, "vm_display:ticket")
    parser.command("screenshot", "Take a picture of a VM's display", _screenshot, "vm_display:screenshot")
    parser.command("cd", "Change the CD in a VM's drive", _cd, "vm_display:cd")


def _one(parser: CommandParser) -> None:
    parser.arg("vm", metavar="VM", complete="vm", help="name, id, or the first characters of the id")


def _many(parser: CommandParser) -> None:
    parser.arg("vm", nargs="+", metavar="VM", complete="vm", help="name, id, or the first characters of the id")


def _list(parser: CommandParser) -> None:
    parser.description = "List the VMs: those that run, and those that are defined. --quiet prints only the names."
    parser.arg("--running", action="store_true", help="only those that are not Down")
    parser.arg("--full", action="store_true", help="whole ids")
    parser.arg("--all", action="store_true", help="all VMs; this is the default")


def _stats(parser: CommandParser) -> None:
    parser.arg("vm", nargs="*", metavar="VM", complete="vm", help="name or id; without one: all VMs")


def _hardware(parser: CommandParser) -> None:
    parser.epilog = _DISK_HELP
    parser.arg("name", metavar="NAME", nargs="?", help="letters, digits, '.', '_' and '-'")
    parser.arg("--memory", metavar="SIZE", help="512M, 2G, ...; a bare number is MiB (512M)")
    parser.arg("--vcpus", type=count, metavar="N", help="CPUs (1)")
    parser.arg(
        "--disk", action="append", default=[], metavar="SPEC", complete="disk", help="see below; can be repeated"
    )
    parser.arg(
        "--cdrom",
        action="append",
        default=[],
        metavar="PATH",
        complete="file",
        help="a CD image, or '' for an empty drive",
    )
    parser.arg("--nic", action="append", default=[], metavar="SPEC", complete="nic", help="see below; can be repeated")
    parser.arg("--boot", metavar="ORDER", help="disk,cdrom,network in the order to try")
    parser.arg("--kernel", metavar="PATH", complete="file", help="a kernel to boot directly")
    parser.arg("--initrd", metavar="PATH", complete="file", help="its initial RAM disk")
    parser.arg("--cmdline", metavar="TEXT", help="its command line")
    parser.arg("--graphics", choices=("vnc", "none"), help="the display (vnc)")
    parser.arg("--machine", choices=("q35", "pc"), help="the chip set (q35)")
    parser.arg("--cpu", metavar="MODEL", help="a libvirt CPU model; without it, what fits the host best")
    parser.arg("--no-console", action="store_true", help="no serial console")
    parser.arg("--no-agent", action="store_true", help="no channel for a guest agent")
    parser.arg("--id", metavar="UUID", help="its id; without it, a fresh one")
    parser.arg("--autostart", action="store_true", help="start it when the agent starts")


def _create(parser: CommandParser) -> None:
    parser.description = "Define a VM and start it."
    _hardware(parser)
    parser.arg(
        "--xml",
        metavar="FILE",
        complete="file",
        help="start a VM from a libvirt domain XML ('-': stdin); implies --transient",
    )
    parser.arg("--no-start", action="store_true", help="define it only")
    parser.arg("--transient", action="store_true", help="start it without a definition: it is gone after its end")
    _waiting(parser)


def _define(parser: CommandParser) -> None:
    parser.description = "Define a VM without starting it."
    _hardware(parser)


def _waiting(parser: CommandParser) -> None:
    parser.arg("--wait", action="store_true", help="wait until it is Up")
    parser.arg("--wait-agent", action="store_true", help="wait until its guest agent answers")
    parser.arg("--no-wait", action="store_true", help="do not even wait until its QEMU runs")
    parser.arg("--timeout", dest="wait_s", type=seconds, default=None, metavar="S", help="seconds to wait at most (60)")


def _forget(parser: CommandParser) -> None:
    parser.description = (
        "Forget the definitions of VMs, and what is known of VMs that are Down. One that runs goes on; disks stay."
    )
    parser.arg("vm", nargs="+", metavar="VM", complete="definition", help="a defined VM, or one that is Down")


def _autostart(parser: CommandParser) -> None:
    parser.arg("vm", metavar="VM", complete="definition", help="a defined VM")
    parser.arg("setting", choices=("on", "off"), nargs="?", default="on", help="(on)")


def _start(parser: CommandParser) -> None:
    parser.arg("vm", nargs="+", metavar="VM", complete="stopped", help="a defined VM")
    _waiting(parser)


def _stop(parser: CommandParser) -> None:
    parser.description = (
        "Shut VMs down: the guest's agent is asked, or the power button is pressed. Waits until they are Down."
    )
    _many(parser)
    parser.arg("--timeout", dest="wait_s", type=seconds, default=None, metavar="S", help="seconds to wait (120)")
    parser.arg("--force", action="store_true", help="power off what is not Down by then")
    parser.arg("--no-wait", action="store_true", help="ask, and do not wait")
    parser.arg("--message", default="", metavar="TEXT", help="shown to the guest's users where the agent can")


def _destroy(parser: CommandParser) -> None:
    parser.description = "Power VMs off at once; what is not on disk is lost. Definitions stay."
    _many(parser)
    parser.arg("--forget", action="store_true", help="forget the definition too")


def _wait(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("--for", dest="state", choices=("up", "agent", "paused", "down"), default="up", help="what for (up)")
    parser.arg("--timeout", dest="wait_s", type=seconds, default=None, metavar="S", help="seconds to wait (60)")


def _console(parser: CommandParser) -> None:
    parser.description = (
        "Open a VM's serial console; Ctrl-] leaves it. Works on the VM's own host only. Without a terminal, what comes "
        "on stdin is typed, and the console's output is printed until stdin has ended and the guest is silent for a "
        "second, or as --for and --until say."
    )
    _one(parser)
    parser.arg("--log", action="store_true", help="print what the console has shown so far, and end")
    parser.arg("--for", dest="for_s", type=seconds, metavar="S", help="leave after S seconds")
    parser.arg("--until", metavar="TEXT", help="leave when the text is shown; with --for, fail if it never is")


def _ticket(parser: CommandParser) -> None:
    parser.description = (
        "Set the password of a VM's display; a fresh one is made and printed unless --password-file gives it."
    )
    _one(parser)
    parser.arg("--ttl", type=count, default=120, metavar="S", help="seconds until it expires (120)")
    parser.arg("--password-file", metavar="FILE", complete="file", help="the password is in this file; '-': stdin")
    parser.arg("--existing", choices=("keep", "disconnect", "fail"), default="keep", help="who is connected now (keep)")


def _screenshot(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("-o", "--output", metavar="FILE", complete="file", help="where to; '-': stdout (NAME.png or as it is)")


def _cd(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("path", nargs="?", default=None, metavar="PATH", complete="file", help="the image")
    parser.arg("--eject", action="store_true", help="take the CD out")
