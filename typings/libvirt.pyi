# What the agent uses of libvirt-python, typed by hand: the binding ships no types.
from collections.abc import Callable
from typing import Any

VIR_ERR_NO_CONNECT: int
VIR_ERR_INVALID_CONN: int
VIR_ERR_RPC: int
VIR_ERR_NO_DOMAIN: int
VIR_ERR_OPERATION_TIMEOUT: int
VIR_ERR_AGENT_UNRESPONSIVE: int
VIR_ERR_AGENT_UNSYNCED: int
VIR_ERR_AGENT_COMMAND_TIMEOUT: int
VIR_ERR_ARGUMENT_UNSUPPORTED: int
VIR_ERR_OPERATION_UNSUPPORTED: int

VIR_CONNECT_LIST_DOMAINS_ACTIVE: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: int
VIR_DOMAIN_STATS_STATE: int
VIR_DOMAIN_STATS_CPU_TOTAL: int
VIR_DOMAIN_STATS_BALLOON: int
VIR_DOMAIN_STATS_VCPU: int
VIR_DOMAIN_STATS_INTERFACE: int
VIR_DOMAIN_STATS_BLOCK: int

VIR_DOMAIN_START_PAUSED: int
VIR_DOMAIN_PAUSED: int
VIR_DOMAIN_PAUSED_IOERROR: int
VIR_DOMAIN_PAUSED_USER: int
VIR_DOMAIN_PAUSED_POSTCOPY: int
VIR_DOMAIN_PAUSED_STARTING_UP: int
VIR_DOMAIN_SHUTOFF: int
VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN: int
VIR_DOMAIN_SHUTDOWN_GUEST_AGENT: int
VIR_DOMAIN_REBOOT_ACPI_POWER_BTN: int
VIR_DOMAIN_REBOOT_GUEST_AGENT: int
VIR_DOMAIN_DESTROY_DEFAULT: int
VIR_DOMAIN_AFFECT_LIVE: int
VIR_DOMAIN_DEVICE_MODIFY_FORCE: int
VIR_DOMAIN_XML_SECURE: int
VIR_DOMAIN_BLOCK_RESIZE_BYTES: int

VIR_DOMAIN_GUEST_INFO_USERS: int
VIR_DOMAIN_GUEST_INFO_OS: int
VIR_DOMAIN_GUEST_INFO_TIMEZONE: int
VIR_DOMAIN_GUEST_INFO_HOSTNAME: int
VIR_DOMAIN_GUEST_INFO_INTERFACES: int

VIR_DOMAIN_EVENT_ID_LIFECYCLE: int
VIR_DOMAIN_EVENT_ID_REBOOT: int
VIR_DOMAIN_EVENT_ID_GRAPHICS: int
VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: int
VIR_DOMAIN_EVENT_ID_DISK_CHANGE: int
VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: int
VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: int
VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: int
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: int
VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: int

VIR_DOMAIN_EVENT_STARTED: int
VIR_DOMAIN_EVENT_SUSPENDED: int
VIR_DOMAIN_EVENT_RESUMED: int
VIR_DOMAIN_EVENT_STOPPED: int
VIR_DOMAIN_EVENT_SHUTDOWN: int
VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: int
VIR_DOMAIN_EVENT_STOPPED_DESTROYED: int
VIR_DOMAIN_EVENT_STOPPED_CRASHED: int
VIR_DOMAIN_EVENT_STOPPED_MIGRATED: int
VIR_DOMAIN_EVENT_STOPPED_SAVED: int
VIR_DOMAIN_EVENT_STOPPED_FAILED: int
VIR_DOMAIN_EVENT_SHUTDOWN_GUEST: int
VIR_DOMAIN_EVENT_SHUTDOWN_HOST: int
VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: int
VIR_DOMAIN_EVENT_SUSPENDED_PAUSED: int
VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY: int
VIR_DOMAIN_EVENT_GRAPHICS_CONNECT: int
VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE: int
VIR_DOMAIN_EVENT_GRAPHICS_DISCONNECT: int
VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED: int

class libvirtError(Exception):
    def get_error_code(self) -> int | None: ...
    def get_error_domain(self) -> int | None: ...
    def get_error_message(self) -> str | None: ...

class virStream:
    def recvAll(self, handler: Callable[[virStream, bytes, Any], int], opaque: Any) -> None: ...
    def finish(self) -> int: ...
    def abort(self) -> int: ...

class virDomain:
    def UUIDString(self) -> str: ...
    def name(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def state(self, flags: int = 0) -> list[int]: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def reset(self, flags: int = 0) -> int: ...
    def shutdownFlags(self, flags: int = 0) -> int: ...
    def reboot(self, flags: int = 0) -> int: ...
    def destroyFlags(self, flags: int = 0) -> int: ...
    def updateDeviceFlags(self, xml: str, flags: int = 0) -> int: ...
    def screenshot(self, stream: virStream, screen: int, flags: int = 0) -> str: ...
    def guestInfo(self, types: int = 0, flags: int = 0) -> dict[str, Any]: ...
    def agentSetResponseTimeout(self, timeout: int, flags: int = 0) -> int: ...

class virConnect:
    def close(self) -> int: ...
    def isAlive(self) -> int: ...
    def setKeepAlive(self, interval: int, count: int) -> int: ...
    def registerCloseCallback(self, cb: Callable[[virConnect, int, Any], None], opaque: Any) -> int: ...
    def domainEventRegisterAny(
        self, dom: virDomain | None, eventID: int, cb: Callable[..., None], opaque: Any
    ) -> int: ...
    def createXML(self, xmlDesc: str, flags: int = 0) -> virDomain: ...
    def lookupByUUIDString(self, uuidstr: str) -> virDomain: ...
    def listAllDomains(self, flags: int = 0) -> list[virDomain]: ...
    def domainListGetStats(
        self, doms: list[virDomain], stats: int = 0, flags: int = 0
    ) -> list[tuple[virDomain, dict[str, Any]]]: ...
    def getLibVersion(self) -> int: ...
    def getVersion(self) -> int: ...
    def getCapabilities(self) -> str: ...
    def getDomainCapabilities(
        self,
        emulatorbin: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        flags: int = 0,
    ) -> str: ...
    def getCPUModelNames(self, arch: str, flags: int = 0) -> list[str]: ...
    def newStream(self, flags: int = 0) -> virStream: ...

def open(name: str | None = None) -> virConnect: ...
def registerErrorHandler(f: Callable[[Any, Any], None], ctx: Any) -> int: ...
def virEventRegisterDefaultImpl() -> int: ...
def virEventRunDefaultImpl() -> int: ...
def virEventAddTimeout(timeout: int, cb: Callable[[int, Any], None], opaque: Any) -> int: ...
def virEventRemoveTimeout(timer: int) -> int: ...
