"""Whether the storage domains can be used: one monitor for each that is watched, a check every ten seconds.

    watched  --> check: open, read the metadata past the cache (its time is the read delay), look at the space
                   |  reported: valid or not, with the error's number
                   +--> joins the lockspace, once a host id is told (never on ISO domains)

A check that is not done when the next is due has failed: "Read timeout". Its thread waits no longer than that, since
all file access has deadlines, so that one thread per domain is all there ever is; the next checks find the domain not
responding, and one of them finds it back. A domain that has gone, or has another version, is opened anew.

Source: storage format, sections 3.1 and 8.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, NotResponding, Unfinished, Unreachable, VdsmError
from vdsm.storage.access import FileAccess
from vdsm.storage.backend import Space
from vdsm.storage.clusterlock import Membership
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_errors import ReadFailed
from vdsm.storage.domains.domains import Domains
from vdsm.storage.files.files import FileDomainReader, told
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import DomainClass, DomainRole

log = logging.getLogger(__name__)

_UNKNOWN_ERROR: Final = 200
_STALE_HANDLE: Final = 384  # the server knows the mounted directory no more
_RETRY_S: Final = 0.2
_MASTER_PLACES: Final = (tree.VMS, tree.TASKS)
# The call was not made: another one of the same domain is late, or too many are under way.
_NOT_ASKED: Final = (NotResponding, Busy, Unreachable)


@dataclass(frozen=True, slots=True)
class DomainReport:
    """What is known of a domain's health.

    Attributes:
        code: 0, or the number of the error that makes it invalid.
        last_check_s: the monotonic instant of the last check's end; before the first that of the beginning.
        delay_s: seconds that reading its metadata took; 0 when it failed.
        valid: it can be used; assumed before the first check.
        version: of its format; -1 while unknown.
        acquired: this host shows there under its id that it is alive.
        actual: a check has been made.
        reason: what is wrong, for people; "" if nothing is.
        space: its room; None while unknown.
        master_ready: whether the pool's directories are there; None on domains that are not the master.
    """

    code: int = 0
    last_check_s: float = 0.0
    delay_s: float = 0.0
    valid: bool = True
    version: int = -1
    acquired: bool = False
    actual: bool = False
    reason: str = ""
    space: Space | None = None
    master_ready: bool | None = None


Changed = Callable[[DomainId, DomainReport], None]


def _ignore(_domain: DomainId, _report: DomainReport) -> None:
    """The callback that nobody uses."""


class Monitors:
    """The monitors of all watched domains; may be used by many threads at once.

    Args:
        domains: the registry.
        host_id: under which the host joins; None is not yet.
        interval_s: seconds from one check's beginning to the next, which are also a check's deadline.
        changed: told in the monitor's thread when a domain becomes valid or invalid, and of the first check; may take
            its time, as only that domain waits.
    """

    def __init__(
        self,
        domains: Domains,
        host_id: int | None = None,
        *,
        interval_s: float = 10.0,
        changed: Changed = _ignore,
    ) -> None:
        self._domains: Final = domains
        self._interval_s: Final = interval_s
        self._changed: Final = changed
        self._lock = threading.Lock()
        self._host_id = host_id
        self._monitors: dict[DomainId, _Monitor] = {}
        # What is not watched any more may still have to leave.
        self._ending: dict[DomainId, _Monitor] = {}

    def watch(self, domain_id: DomainId) -> None:
        """Begin to watch a domain, at once; watched twice is once."""
        with self._lock:
            if domain_id in self._monitors:
                return
            monitor = _Monitor(self._domains, domain_id, self._interval_s, self._tell, lambda: self._host_id)
            monitor.predecessor = self._ending.pop(domain_id, None)
            self._monitors[domain_id] = monitor
            # Inside the lock, so that whoever unwatches it finds it begun.
            monitor.begin()

    def unwatch(self, domain_id: DomainId, *, leave: bool = True, wait_s: float = 60.0) -> bool:
        """Watch a domain no longer, and with ``leave`` show no more there that this host is alive.

        Returns:
            Whether all that was done within ``wait_s`` seconds; it goes on after them.
        """
        with self._lock:
            monitor = self._monitors.pop(domain_id, None)
            if monitor is not None:
                self._ending = {ident: each for ident, each in self._ending.items() if not each.ended}
                self._ending[domain_id] = monitor
        return monitor is None or monitor.end(leave=leave, wait_s=wait_s)

    def watched(self) -> list[DomainId]:
        """All watched domains, sorted."""
        with self._lock:
            return sorted(self._monitors)

    def use_host_id(self, host_id: int | None) -> None:
        """The id that this host joins under from now on; None joins no more. What is joined stays so."""
        with self._lock:
            self._host_id = host_id
            monitors = list(self._monitors.values())
        for monitor in monitors:
            monitor.wake()

    def check(self, domain_id: DomainId) -> None:
        """Have a watched domain checked at once, without waiting for it."""
        with self._lock:
            monitor = self._monitors.get(domain_id)
        if monitor is not None:
            monitor.wake()

    def reports(self) -> dict[DomainId, DomainReport]:
        """What is known of each watched domain; never waits for any."""
        with self._lock:
            monitors = dict(self._monitors)
        return {domain_id: monitor.report for domain_id, monitor in monitors.items()}

    def stop(self, deadline_s: float) -> bool:
        """End all, and leave no lockspace: what VMs hold there outlives the agent.

        Returns:
            Whether all had ended within ``deadline_s`` seconds.
        """
        until = monotonic_s() + deadline_s
        with self._lock:
            monitors = list(self._monitors.values())
            self._monitors = {}
        for monitor in monitors:
            monitor.end(leave=False, wait_s=0.0)
        return all(monitor.end(leave=False, wait_s=max(0.0, until - monotonic_s())) for monitor in monitors)

    def _tell(self, domain_id: DomainId, report: DomainReport) -> None:
        try:
            self._changed(domain_id, report)
        except Exception:  # the monitor goes on, whatever the listener does
            log.exception("the listener to domain %s failed", domain_id)


class _Monitor:
    """One domain's monitor and its thread."""

    def __init__(
        self, domains: Domains, domain_id: DomainId, interval_s: float, tell: Changed, host_id: Callable[[], int | None]
    ) -> None:
        self._domains: Final = domains
        self._domain_id: Final = domain_id
        self._interval_s: Final = interval_s
        self._tell: Final = tell
        self._host_id: Final = host_id
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._leave = False
        self._joined: tuple[Domain, int] | None = None
        self.predecessor: _Monitor | None = None
        self.report = DomainReport(last_check_s=monotonic_s())

    @property
    def ended(self) -> bool:
        """Whether its thread is over."""
        return self._ended.is_set()

    def begin(self) -> None:
        """Start the thread."""
        threads.start(f"mon-{self._domain_id}", self._run)

    def wake(self) -> None:
        """Check at once."""
        self._woken.set()

    def end(self, *, leave: bool, wait_s: float) -> bool:
        """Stop, and wait so many seconds for it; whether it has ended."""
        self._leave = leave
        self._ending.set()
        self._woken.set()
        return self._ended.wait(wait_s)

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                began = monotonic_s()
                self._check(began + self._interval_s)
                self._woken.wait(max(0.0, began + self._interval_s - monotonic_s()))
                self._woken.clear()
            if self._leave:
                self._leave_lockspace()
        finally:
            self._ended.set()

    def _check(self, until_s: float) -> None:
        try:
            domain, metadata, report = self._look(until_s)
        except VdsmError as error:
            self._note(self._failure(error))
            return
        except Exception as error:  # whatever it is, the domain is said to be invalid
            log.exception("the monitor of domain %s failed", self._domain_id)
            self._note(self._failure(error))
            return
        self._note(report)
        if metadata.domain_class is not DomainClass.ISO:
            self._join(domain)

    def _look(self, until_s: float) -> tuple[Domain, DomainMetadata, DomainReport]:
        """Read the domain; while it was valid so far, what was not asked is asked again until the deadline."""
        while True:
            try:
                return self._looked(until_s)
            except _NOT_ASKED:
                if not self.report.valid or monotonic_s() + _RETRY_S >= until_s or self._ending.wait(_RETRY_S):
                    raise

    def _looked(self, until_s: float) -> tuple[Domain, DomainMetadata, DomainReport]:
        domain = self._domains.find(self._domain_id)
        # Opening may have taken its time; the storage is not to be given up for that.
        files = domain.files.within(max(self._interval_s / 2, until_s - monotonic_s()))
        reader = FileDomainReader(files, domain.mount, domain.id, direct=domain.kind.is_shared)
        began = monotonic_s()
        metadata = reader.read_domain()
        delay_s = monotonic_s() - began
        space = reader.space()
        if not domain.is_as(metadata):
            self._domains.forget(domain.id)
        report = DomainReport(
            last_check_s=monotonic_s(),
            delay_s=delay_s,
            version=metadata.version,
            acquired=self.report.acquired,
            actual=True,
            space=space,
            master_ready=_master_ready(files, domain) if metadata.role is DomainRole.MASTER else None,
        )
        return domain, metadata, report

    def _failure(self, error: Exception) -> DomainReport:
        if isinstance(error, Unfinished | NotResponding):
            error = ReadFailed(f"reading domain {self._domain_id}", f"Read timeout: {error}")
        else:
            # It may be another domain by now, or elsewhere.
            self._domains.forget(self._domain_id)
        cause = error.__cause__
        stale = isinstance(cause, OSError) and cause.errno == errno.ESTALE
        code = _STALE_HANDLE if stale else error.code if isinstance(error, VdsmError) else _UNKNOWN_ERROR
        before = self.report
        return DomainReport(
            code=code,
            last_check_s=monotonic_s(),
            valid=False,
            version=before.version,
            acquired=before.acquired,
            actual=True,
            reason=str(error),
            space=before.space,
            master_ready=before.master_ready,
        )

    def _note(self, report: DomainReport) -> None:
        before, self.report = self.report, report
        if before.actual and before.valid == report.valid:
            return
        if report.valid:
            log.info("domain %s is valid", self._domain_id)
        else:
            log.error("domain %s is invalid: %s", self._domain_id, report.reason)
        self._tell(self._domain_id, report)

    def _join(self, domain: Domain) -> None:
        """Begin to show that this host is alive, and see whether it does; a failure makes no domain invalid."""
        host_id = self._host_id()
        if self.predecessor is not None and self.predecessor.ended:
            self.predecessor = None
        # An earlier monitor of this domain that has yet to leave would take back what is joined now.
        if host_id is None or self.predecessor is not None:
            return
        try:
            state = domain.lock.membership(host_id)
            if state is Membership.NO and not self._ending.is_set():
                domain.lock.join(host_id, wait_s=None)
                self._joined = (domain, host_id)
                state = domain.lock.membership(host_id)
        except VdsmError as error:
            log.warning("host id %d cannot be acquired on domain %s: %s", host_id, self._domain_id, error)
            state = Membership.NO
        if state is Membership.YES:
            self._joined = (domain, host_id)
        self.report = replace(self.report, acquired=state is Membership.YES)

    def _leave_lockspace(self) -> None:
        if self._joined is None:
            return
        domain, host_id = self._joined
        try:
            domain.lock.leave(host_id)
        except VdsmError as error:
            log.error("host id %d cannot be given back on domain %s: %s", host_id, self._domain_id, error)  # noqa: TRY400


def _master_ready(files: FileAccess, domain: Domain) -> bool:
    with told(f"looking at the master directory of domain {domain.id}"):
        for name in _MASTER_PLACES:
            try:
                files.stat(f"{domain.master_path}/{name}")
            except FileNotFoundError:
                return False
    return True
