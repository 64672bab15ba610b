"""Configuration: read once from TOML into frozen dataclasses and handed down.

Every option has a default, a unit in its name and a sentence; an unknown key is an error that names it, as is a value
of the wrong type or out of range. The file may be absent. ``show`` prints the effective result as TOML.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from vdsm.base.errors import BadParameter

DEFAULT_PATH: Final = Path("/etc/vdsm/vdsm.toml")

MIB: Final = 1 << 20

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the agent keeps its files."""

    run_dir: Annotated[str, Meta(description="Sockets, pid files; gone after a reboot.")] = "/run/vdsm"
    state_dir: Annotated[str, Meta(description="What survives a reboot: definitions, tokens, ids.")] = "/var/lib/vdsm"
    log_dir: Annotated[str, Meta(description="Log files; empty means standard error.")] = "/var/log/vdsm"
    pki_dir: Annotated[str, Meta(description="The host's certificate, key and CA certificate.")] = "/etc/pki/vdsm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who the agent runs as."""

    user: Annotated[str, Meta(description="vdsmd's user; supervdsmd obeys it and root.")] = "vdsm"
    group: Annotated[str, Meta(description="vdsmd's group.")] = "vdsm"
    qemu: Annotated[str, Meta(description="QEMU's user, which the unix socket never obeys.")] = "libvirt-qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is logged."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="The least important records that are kept.")
    ] = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """The ways in."""

    address: Annotated[
        str, Meta(description='Where to listen; "::" is every address, IPv4 included; empty: unix socket only.')
    ] = "::"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 lets the kernel choose one.")] = 54321
    tls: Annotated[bool, Meta(description="Whether the TCP port wants TLS with client certificates.")] = True
    group: Annotated[str, Meta(description="Members of this group (and root) may use the unix socket.")] = "vdsm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Libvirt:
    """The hypervisor."""

    uri: Annotated[str, Meta(description="Which libvirt daemon to use.")] = "qemu:///system"
    connections: Annotated[
        int, Meta(ge=1, le=16, description="Connections; libvirtd serves about 5 requests at once on each.")
    ] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Virt:
    """Virtual machines."""

    cheap_interval_s: Annotated[float, Meta(gt=0, description="Seconds between samples that cost no QEMU monitor.")] = (
        3.0
    )
    monitor_interval_s: Annotated[float, Meta(gt=0, description="Seconds between samples that ask QEMU.")] = 10.0
    call_deadline_s: Annotated[float, Meta(gt=0, description="Seconds that a libvirt call may take.")] = 5.0
    not_responding_after_s: Annotated[
        float, Meta(gt=0, description="Seconds of silence after which a VM counts as not responding.")
    ] = 3.0
    disk_dirs: Annotated[
        tuple[str, ...], Meta(description="Directories where disks given by path may lie, backing files included.")
    ] = ("/var/lib/vdsm/images", "/var/lib/vdsm/guest")
    max_memory_mib: Annotated[int, Meta(ge=1, description="The most memory that a VM may ask for, in MiB.")] = 16 << 20
    max_vcpus: Annotated[int, Meta(ge=1, description="The most virtual CPUs that a VM may ask for.")] = 710
    autostart: Annotated[bool, Meta(description="Whether VMs that are marked so start with the agent.")] = True
    display_address: Annotated[str, Meta(description="Where displays listen that do not say it themselves.")] = (
        "127.0.0.1"
    )
    report_kvm: Annotated[
        bool, Meta(description="Claim KVM to a manager even where it does not work, as one takes no host without it.")
    ] = False
    domain_type: Annotated[
        Literal["auto", "kvm", "qemu"], Meta(description='"auto" uses KVM where a tiny guest really boots with it.')
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """Images in and out: the image daemon (ovirt-imageio), started with the first ticket."""

    port: Annotated[
        int, Meta(ge=0, le=65534, description="TCP port of the image daemon; 0 lets the kernel choose one.")
    ] = 54322
    program: Annotated[str, Meta(description="The image daemon; empty: beside this Python, or in /usr/bin.")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may use."""

    frame_bytes: Annotated[int, Meta(ge=4096, description="Largest frame or body that is read.")] = 8 * MIB
    connections: Annotated[int, Meta(ge=1, description="Connections at a time, all ways in together.")] = 256
    output_bytes: Annotated[
        int, Meta(ge=4096, description="Answers waiting for one slow reader before it is cut off.")
    ] = 16 * MIB
    handshake_s: Annotated[float, Meta(gt=0, description="Seconds for TLS and the first bytes.")] = 10.0
    query_workers: Annotated[int, Meta(ge=1, description="Threads for verbs that answer from memory.")] = 4
    lifecycle_workers: Annotated[int, Meta(ge=1, description="Threads for verbs that change a VM.")] = 8
    slow_workers: Annotated[int, Meta(ge=1, description="Threads for verbs that take seconds by nature.")] = 4
    storage_workers: Annotated[int, Meta(ge=1, description="Threads for verbs that wait for storage.")] = 16
    storage_places: Annotated[
        int, Meta(ge=1, description="How many of them may wait for one storage domain at the same time.")
    ] = 6
    queue: Annotated[int, Meta(ge=0, description="Requests that may wait in front of each pool.")] = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """STOMP heart-beats. A client says what it wants, and the agent agrees within these bounds."""

    min_ms: Annotated[int, Meta(ge=1, description="Shorter intervals are lifted to this; 0 stays 'none'.")] = 1000
    grace: Annotated[float, Meta(ge=1, description="Times the agreed interval until a silent peer is cut.")] = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervdsm:
    """The root helper."""

    workers: Annotated[int, Meta(ge=1, description="Calls that run at the same time.")] = 8
    queue: Annotated[int, Meta(ge=0, description="Calls that may wait for a worker.")] = 32
    connections: Annotated[int, Meta(ge=1, description="Connections at a time.")] = 96
    frame_bytes: Annotated[int, Meta(ge=4096, description="Largest request or answer.")] = MIB
    call_deadline_s: Annotated[float, Meta(gt=0, description="Seconds that vdsmd waits for an answer.")] = 15.0
    kvm_probe_s: Annotated[float, Meta(gt=0, description="Seconds that the tiny guest gets to boot with KVM.")] = 8.0
    mount_workers: Annotated[
        int, Meta(ge=1, description="Mounts and looks at mounts that run at the same time, beside the other calls.")
    ] = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Storage domains, connections to them, and the helper processes that touch their files."""

    repository_dir: Annotated[
        str,
        Meta(
            pattern="^(/[^/]+)+$",
            description="The tree of mount points and links; one place on all hosts of a manager.",
        ),
    ] = "/rhev/data-center"
    image_link_dir: Annotated[
        str, Meta(description="Where VMs' disks are linked; empty: the directory storage in run_dir.")
    ] = ""
    host_id: Annotated[
        int, Meta(ge=1, le=249, description="This host among those that share storage without a manager; no two alike.")
    ] = 1
    health_check_interval_s: Annotated[float, Meta(gt=0, description="Seconds between looks at each domain.")] = 10.0
    sanlock_io_timeout_s: Annotated[
        int, Meta(ge=1, le=60, description="Seconds for sanlock's I/O; the same on all hosts that share a domain.")
    ] = 10
    mount_deadline_s: Annotated[
        float, Meta(gt=0, description="Seconds that one mount or unmount may take, waiting for its server included.")
    ] = 60.0
    nfs_version: Annotated[
        str, Meta(pattern="^(auto|[34](\\.[0-9])?)$", description='NFS version where none is asked for, or "auto".')
    ] = "3"
    nfs_timeout_ds: Annotated[
        int, Meta(ge=1, le=36000, description="Tenths of a second until NFS asks again; not below sanlock's time.")
    ] = 100
    nfs_retrans: Annotated[int, Meta(ge=0, le=100, description="How often NFS asks again before it fails.")] = 3
    fuse_types: Annotated[
        tuple[str, ...],
        Meta(description="FUSE programs that POSIXFS may mount, as fuse.NAME: each runs as root with options given."),
    ] = ("glusterfs",)
    helper_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds for an access to a domain's files where nothing else is said.")
    ] = 10.0
    helper_calls: Annotated[int, Meta(ge=1, description="Accesses under way at a time, for each domain.")] = 32
    helper_abandoned: Annotated[
        int, Meta(ge=1, description="Helpers of a domain that cannot be killed, until accesses fail at once.")
    ] = 3
    helper_longest_delay_s: Annotated[
        float, Meta(gt=0, description="Seconds, at the most, until a domain that does not answer is asked again.")
    ] = 30.0
    tasks: Annotated[int, Meta(ge=1, description="Storage tasks that run at the same time; more of them wait.")] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be configured, by section."""

    paths: Paths = field(default_factory=Paths)
    users: Users = field(default_factory=Users)
    log: Log = field(default_factory=Log)
    listen: Listen = field(default_factory=Listen)
    libvirt: Libvirt = field(default_factory=Libvirt)
    virt: Virt = field(default_factory=Virt)
    transfers: Transfers = field(default_factory=Transfers)
    limits: Limits = field(default_factory=Limits)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    supervdsm: Supervdsm = field(default_factory=Supervdsm)
    storage: Storage = field(default_factory=Storage)

    @property
    def api_socket(self) -> Path:
        """The unix socket that vdsmd serves."""
        return Path(self.paths.run_dir) / "vdsm.sock"

    @property
    def supervdsm_socket(self) -> Path:
        """The unix socket that supervdsmd serves."""
        return Path(self.paths.run_dir) / "svdsm.sock"

    @property
    def image_links(self) -> str:
        """The directory of links to VMs' disks."""
        return self.storage.image_link_dir or f"{self.paths.run_dir}/storage"

    def log_file(self, program: str) -> Path | None:
        """Where ``program`` logs; None is standard error."""
        return Path(self.paths.log_dir) / f"{program}.log" if self.paths.log_dir else None


def load(path: Path | None = None) -> Config:
    """Read the configuration from ``path``, or from the default place if there is a file.

    Raises:
        BadParameter: the file named does not exist or is no TOML, or an option is unknown or has a bad value.
    """
    place = DEFAULT_PATH if path is None else path
    try:
        text = place.read_text("utf-8")
    except FileNotFoundError as error:
        if path is None:
            return Config()
        raise BadParameter("config", f"there is no file {place}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter("config", f"{place}: {error}") from error
    return parse(text)


def parse(text: str) -> Config:
    """Make a configuration from TOML.

    Raises:
        BadParameter: no TOML, or an option is unknown or has a bad value; names the option ("virt.max_vcpus").
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadParameter("config", f"is not TOML: {error}") from error
    _refuse_unknown(raw, Config, "")
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        raise BadParameter(where.rstrip("`") or "config", reason) from error


def show(config: Config) -> str:
    """The effective configuration as TOML that :func:`parse` reads back, each option with its sentence."""
    lines: list[str] = []
    for section in fields(config):
        value = getattr(config, section.name)
        lines += [f"# {(type(value).__doc__ or '').splitlines()[0]}", f"[{section.name}]"]
        hints = get_type_hints(type(value), include_extras=True)
        for option in fields(value):
            lines += [f"# {_sentence(hints[option.name])}", f"{option.name} = {_toml(getattr(value, option.name))}"]
        lines.append("")
    return "\n".join(lines)


def _refuse_unknown(raw: dict[str, Any], kind: type[Any], where: str) -> None:
    hints = get_type_hints(kind)
    for key, value in raw.items():
        if key not in hints:
            raise BadParameter(f"{where}{key}", f"is not an option; known are {', '.join(sorted(hints))}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _refuse_unknown(value, hints[key], f"{where}{key}.")


def _sentence(hint: object) -> str:
    metas = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return " ".join(meta.description for meta in metas if meta.description)


def _toml(value: object) -> str:
    # JSON's texts, numbers, truth values and flat arrays are TOML's as well.
    return msgspec.json.encode(value).decode()
