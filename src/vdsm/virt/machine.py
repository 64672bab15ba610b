"""One VM: its state has one writer, the strand.

    requests  --ask-->   +--------+  hypervisor calls (each under a deadline)
    news      --tell-->  | strand |  --> view (replaced as a whole) --> publish
    alarms    --tick-->  +--------+

A start and a stop take long: a request begins them, news end them. Only the sampler writes the view's sample.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar, assert_never

from vdsm.base.clock import monotonic_s, now_utc
from vdsm.base.errors import Failed, NotFound, NotResponding, Unfinished, Unreachable, VdsmError
from vdsm.base.ids import VmId
from vdsm.system.libvirt import facts as news
from vdsm.virt import changes, endings, lifecycle
from vdsm.virt.alarms import Alarms
from vdsm.virt.domxml import describe
from vdsm.virt.lifecycle import ALIVE, Happening, Request, Status
from vdsm.virt.persuasion import ALARM, Persuasion
from vdsm.virt.requests import Ask, ChangeMedium, Cont, Pause, Reset, SetTicket, Shutdown
from vdsm.virt.strand import Strand
from vdsm.virt.surroundings import Surroundings
from vdsm.virt.view import Exit, GuestInfo, PauseCode, Screenshot, VmChange, VmSample, VmView, What, pack

log = logging.getLogger(__name__)

R = TypeVar("R")

# News of what we have just done ourselves arrive within this time, and say nothing new.
ECHO_S: Final = 2.0
_RETRY_S: Final = 5.0
# Firmware may reset a machine several times in a row.
_SETTLE_S: Final = 1.0


class Machine:
    """One VM of this host, from its creation until it is destroyed (or Down and forgotten)."""

    __slots__ = (
        "_alarms",
        "_asked_to_end",
        "_booted",
        "_destroying",
        "_echoes",
        "_gone",
        "_io_code",
        "_launching",
        "_lock",
        "_outcome_unknown",
        "_refreshing",
        "_shutdown_by",
        "_teardown",
        "_view",
        "_world",
        "strand",
    )

    def __init__(self, view: VmView, world: Surroundings, *, teardown: Callable[[], None] | None = None) -> None:
        self._view = view
        self._world = world
        self._teardown = teardown
        self.strand = Strand(world.pool, f"VM {view.vm_id}")
        self._lock = threading.Lock()
        self._launching: Future[None] | None = None
        self._gone: Future[None] | None = None
        self._alarms = Alarms()
        self._echoes: dict[type, float] = {}
        self._booted = view.status in {Status.UP, Status.PAUSED}
        self._asked_to_end = False
        self._destroying = False
        self._outcome_unknown = False
        self._refreshing = False
        self._shutdown_by: news.ShutdownBy | None = None
        self._io_code: PauseCode | None = None
        if view.status is Status.POWERING_UP:
            self._await_boot()

    # -- from any thread

    @property
    def view(self) -> VmView:
        """The VM as of now."""
        return self._view

    @property
    def vm_id(self) -> VmId:
        """The VM's id."""
        return self._view.vm_id

    @property
    def alive(self) -> bool:
        """Whether libvirt should be running it."""
        return self._view.status in ALIVE or self._outcome_unknown

    def launch(self, xml: str, *, paused: bool) -> None:
        """Begin the start; news tell its end.

        Raises:
            Unreachable, NotResponding, Busy: nothing was begun.
        """
        self._launching = launching = self._world.hypervisor.launch(xml, paused=paused)
        self.strand.tell(self._created)  # runs while libvirt works
        launching.add_done_callback(lambda _future: self.strand.tell(self._launched, launching, paused=paused))

    def ask(self, ask: Ask) -> Future[VmView]:
        """Queue a request; Busy when too many wait."""
        return self.strand.ask(self._perform, ask)

    def ask_screenshot(self) -> Future[Screenshot]:
        """Queue a request for a picture; errors as ``ask``."""
        return self.strand.ask(self._screenshot)

    def destroy(self) -> Future[None]:
        """Power off and forget, before everything else that waits; the future is done when the VM is gone."""
        with self._lock:
            if self._gone is not None:
                return self._gone
            self._gone = gone = Future[None]()
        self.strand.urge(self._destroy).add_done_callback(self._destroy_failed)
        return gone

    def tell(self, event: news.DomainEvent) -> None:
        """Put news into the inbox."""
        if not self.strand.tell(self._on, event):
            log.warning("VM %s: too many news, dropped %s", self.vm_id, event)

    def tell_missing(self, how: Exit) -> None:
        """Say that libvirt does not run the VM."""
        self.strand.tell(self._missing, how)

    def tell_running(self, paused: news.PauseCause | None, since_s: float) -> None:
        """Say that libvirt has been seen running the VM, paused or not, at a time after ``since_s``."""
        self.strand.tell(self._seen, paused, since_s)

    def tell_responding(self, since_s: float | None) -> None:
        """Say since when the VM's QEMU does not answer; None: it does."""
        self.strand.tell(self._respond, since_s)

    def tell_guest(self, guest: GuestInfo) -> None:
        """Say what the guest's agent said."""
        self.strand.tell(self._guest, guest)

    def sampled(self, sample: VmSample) -> None:
        """Replace the sample; the sampler's call."""
        with self._lock:
            if self._view.status in ALIVE:
                self._view = replace(self._view, sample=sample)

    def tick(self, now_s: float) -> None:
        """Run what is due; called every second or so."""
        if self._alarms.due(now_s):
            self.strand.tell(self._alarms.ring)
        else:
            self.strand.nudge()

    # -- the strand only: the view

    def _change(self, what: What, **changes: Any) -> None:
        with self._lock:
            self._view = view = replace(self._view, **changes)
        self._world.publish(VmChange(view, what))

    def _enter(self, status: Status, **changes: Any) -> None:
        if status is not Status.PAUSED:
            changes.setdefault("pause_code", PauseCode.NONE)
        log.info("VM %s (%s): %s -> %s", self.vm_id, self._view.name, self._view.status.value, status.value)
        self._change(What.STATUS, status=status, status_time_s=monotonic_s(), **changes)

    def _happen(self, happening: Happening, **changes: Any) -> bool:
        status = lifecycle.on(self._view.status, happening)
        if status is None:
            return False
        self._enter(status, **changes)
        return True

    # -- the strand only: start and end

    def _created(self) -> None:
        self._world.record(self._view)
        self._change(What.CREATED)

    def _launched(self, launching: Future[None], *, paused: bool) -> None:
        self._launching = None
        error = None if launching.cancelled() else launching.exception()
        if launching.cancelled() or (self._destroying and error is not None):
            self._end(endings.DESTROYED)
        elif isinstance(error, Unreachable | NotResponding | Unfinished):
            log.warning("VM %s: whether it was started is not known: %s", self.vm_id, error)
            self._outcome_unknown = True
            self._world.doubt()
        elif error is not None:
            log.error("VM %s could not be started: %s", self.vm_id, error)
            self._end(endings.not_started(error))
        else:
            self._runs(news.PauseCause.USER if paused else None)

    def _runs(self, paused: news.PauseCause | None) -> None:
        self._outcome_unknown = False
        if paused is None:
            self._happen(Happening.LAUNCHED)
            self._await_boot()
        else:
            self._happen(Happening.LAUNCHED_PAUSED, pause_code=endings.paused(paused))
        if self._destroying:
            self._destroy()
        else:
            self._refresh()

    def _await_boot(self) -> None:
        self._booted = False
        self._alarms.drop(ALARM)
        if self._view.facts.agent_channel:
            self._alarms.set("up", self._world.patience.up_after_s, self._boot)
        elif self._view.status is Status.REBOOT_IN_PROGRESS:
            self._alarms.set("up", _SETTLE_S, self._boot)
        else:
            self._boot()

    def _boot(self) -> None:
        self._alarms.drop("up")
        self._booted = True
        self._happen(Happening.BOOTED)

    def _missing(self, how: Exit) -> None:
        if self._outcome_unknown:
            self._outcome_unknown = False
            self._end(endings.not_started(Failed("the start", "the connection to libvirt was lost")))
        elif self._view.status in ALIVE:
            self._end(how)

    def _end(self, how: Exit) -> None:
        if self._view.status is not Status.DOWN:
            self._alarms.clear()
            self._note(lambda: self._world.records.end(self.vm_id, how))
            self._happen(
                Happening.ENDED,
                exit=how,
                sample=None,
                guest=None,
                agent_connected=False,
                client_address="",
                not_responding_since_s=None,
            )
            log.info("VM %s (%s) ended: %s", self.vm_id, self._view.name, how.message)
            if self._teardown is not None:
                self._note(self._teardown)
                self._teardown = None
        if self._destroying:
            self._forget()

    def _forget(self) -> None:
        self._note(lambda: self._world.records.forget(self.vm_id))
        self._world.gone(self.vm_id)
        self._change(What.REMOVED)
        with self._lock:
            gone = self._gone
        if gone is not None and not gone.done():
            gone.set_result(None)

    def _note(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            log.exception("VM %s: not all was cleaned up", self.vm_id)  # it has ended all the same

    def _destroy(self) -> None:
        self._destroying = True
        if self._view.status is Status.DOWN:
            self._forget()
            return
        if self._launching is not None and self._launching.cancel():
            return  # it had not begun; its own news end it
        try:
            self._world.hypervisor.destroy(self.vm_id)
        except NotFound:
            if self._launching is not None:
                return  # libvirt does not have it yet: the start's news come back here
        except VdsmError as error:
            # When the deadline passed it is still being ended, and the news of that will make it gone.
            self._destroying = isinstance(error, Unfinished)
            raise
        if self._launching is None:
            self._end(endings.DESTROYED)

    def _destroy_failed(self, outcome: Future[None]) -> None:
        if (error := outcome.exception()) is None:
            return
        with self._lock:
            gone, self._gone = self._gone, None
        if gone is not None and not gone.done():
            gone.set_exception(error)

    # -- the strand only: requests

    def _perform(self, ask: Ask) -> VmView:
        self._admit(ask.request)
        self._watched(lambda: self._do(ask))
        return self._view

    def _watched(self, call: Callable[[], R]) -> R:
        try:
            return call()
        except Unfinished:
            self._world.suspect(self.vm_id)
            raise

    def _admit(self, request: Request) -> Status:
        status = lifecycle.after(self._view.status, request)
        since_s = self._view.not_responding_since_s
        if since_s is None and self._world.hypervisor.stopped(self.vm_id):
            since_s = monotonic_s()  # the sampler will find out soon
        if since_s is not None:
            raise NotResponding(f"VM {self.vm_id}", monotonic_s() - since_s)
        return status

    def _do(self, ask: Ask) -> None:
        hypervisor, vm_id = self._world.hypervisor, self.vm_id
        match ask:
            case Pause():
                if self._view.status is not Status.PAUSED:
                    hypervisor.pause(vm_id)
                    self._echo(news.Paused)
                    self._enter(Status.PAUSED, pause_code=PauseCode.USER)
            case Cont():
                if self._view.status is Status.PAUSED:
                    hypervisor.resume(vm_id)
                    self._echo(news.Resumed)
                    self._resumed()
            case Reset():
                hypervisor.reset(vm_id)
                self._enter(lifecycle.after(self._view.status, ask.request))
                self._alarms.set(ALARM, ECHO_S, self._stayed)  # QEMU may not tell
            case Shutdown():
                if ask.delay_s > 0:
                    self._alarms.set("delay", ask.delay_s, lambda: self._shut_down(ask))
                else:
                    self._shut_down(ask)
            case SetTicket():
                until = now_utc() + timedelta(seconds=ask.valid_s)
                facts = self._view.facts
                hypervisor.update_devices(vm_id, lambda xml: changes.tickets(xml, facts, ask, until), force=False)
            case ChangeMedium():
                hypervisor.update_devices(vm_id, lambda xml: changes.medium(xml, ask), force=True)
                self._refresh()
            case _:
                assert_never(ask)

    def _screenshot(self) -> Screenshot:
        self._admit(Request.SCREENSHOT)
        picture = self._watched(lambda: self._world.hypervisor.screenshot(self.vm_id))
        return Screenshot(picture.data, picture.mime_type)

    def _shut_down(self, ask: Shutdown) -> None:
        status = self._admit(ask.request)
        step_s = self._world.patience.step_s if ask.step_s is None else ask.step_s
        persuasion = Persuasion(self._world.hypervisor, self.vm_id, ask, lambda: self._not_obeyed(ask))
        persuasion.begin(self._alarms, step_s, agent=self._view.agent_connected)
        self._asked_to_end = not ask.reboot
        self._enter(status)

    def _not_obeyed(self, ask: Shutdown) -> None:
        if ask.force and not ask.reboot:
            log.info("VM %s does not shut down: powering it off", self.vm_id)
            self._world.hypervisor.destroy(self.vm_id)
            self._end(endings.DESTROYED)
        else:
            self._stayed()

    def _stayed(self) -> None:
        self._asked_to_end = False
        self._happen(Happening.STAYED)

    # -- the strand only: news

    def _on(self, event: news.DomainEvent) -> None:
        match event:
            case news.Paused() | news.Resumed() | news.ShuttingDown() | news.Stopped() | news.Rebooted():
                self._on_life(event)
            case news.IoError():
                self._io_error(event)
            case news.ConsoleClient(address=address, connected=connected):
                self._change(What.CONSOLE, client_address=address if connected else "")
            case news.AgentConnected(connected=connected):
                self._agent(connected=connected)
            case news.DevicesChanged():
                if not self._refreshing:
                    self._refreshing = True
                    self.strand.tell(self._refresh)
            case news.Started() | news.Returned():
                pass  # the fleet's business
            case _:
                assert_never(event)

    def _on_life(self, event: news.Paused | news.Resumed | news.ShuttingDown | news.Stopped | news.Rebooted) -> None:
        match event:
            case news.Paused(cause=cause):
                self._paused(cause)
            case news.Resumed():
                if not self._is_echo(news.Resumed):
                    self._resumed()
            case news.ShuttingDown(by=by):
                self._shutdown_by = by
            case news.Stopped(cause=how):
                if self._launching is None:  # else the start's own news say more
                    self._end(endings.stopped(how, self._shutdown_by, asked=self._asked_to_end))
            case news.Rebooted():
                self._happen(Happening.REBOOTED)
                if self._view.status is Status.REBOOT_IN_PROGRESS:
                    self._await_boot()
            case _:
                assert_never(event)

    def _io_error(self, event: news.IoError) -> None:
        log.warning("VM %s: %s of drive %s", self.vm_id, event.reason, event.alias)
        if event.paused:
            self._io_code = endings.io_error(event.reason)
            if self._view.status is Status.PAUSED and self._view.pause_code is not self._io_code:
                self._change(What.STATUS, pause_code=self._io_code)

    def _paused(self, cause: news.PauseCause) -> None:
        if cause is news.PauseCause.STARTING or self._is_echo(news.Paused):
            return
        code = endings.paused(cause)
        if code is PauseCode.EIO and self._io_code is not None:
            code = self._io_code
        self._happen(Happening.PAUSED, pause_code=code)

    def _resumed(self) -> None:
        self._io_code = None
        if self._booted:
            self._happen(Happening.RESUMED)
        elif self._happen(Happening.RESUMED_BOOTING):
            self._await_boot()

    def _echo(self, kind: type) -> None:  # what was just done on request will be told as news, too
        self._echoes[kind] = monotonic_s() + ECHO_S

    def _is_echo(self, kind: type) -> bool:
        return self._echoes.pop(kind, 0.0) > monotonic_s()

    def _seen(self, paused: news.PauseCause | None, since_s: float) -> None:
        """Correct what lost news would have told; a state entered after the look was taken stands."""
        view = self._view
        if self._outcome_unknown:
            self._runs(paused)
        elif view.status_time_s < since_s and (view.status is Status.PAUSED) != (paused is not None):
            if paused is None:
                self._resumed()
            else:
                self._paused(paused)

    def _agent(self, *, connected: bool) -> None:
        if connected != self._view.agent_connected:
            self._change(What.AGENT, agent_connected=connected)
        if connected:
            self._boot()

    def _guest(self, guest: GuestInfo) -> None:
        if self._view.status in ALIVE:
            old = self._view.guest
            same = old is not None and replace(old, answered_s=guest.answered_s) == guest
            with self._lock:
                self._view = replace(self._view, guest=guest)
            if not same:
                self._change(What.GUEST)

    def _respond(self, since_s: float | None) -> None:
        if self._view.status in ALIVE and (since_s is None) != self._view.responding:
            log.warning("VM %s %s", self.vm_id, "responds" if since_s is None else "does not respond")
            self._change(What.RESPONDING, not_responding_since_s=since_s)

    def _refresh(self) -> None:
        """Read the live XML again."""
        self._refreshing = False
        if self._view.status not in ALIVE:
            return
        try:
            xml = self._world.hypervisor.xml(self.vm_id)
        except NotFound:
            return  # its end is on its way
        except VdsmError as error:
            log.info("VM %s: its XML could not be read: %s", self.vm_id, error)
            self._alarms.set("refresh", _RETRY_S, self._refresh)
            return
        packed = pack(xml)
        if packed != self._view.packed_xml:
            self._change(What.DEVICES, facts=describe(xml), packed_xml=packed)
        self._agent(connected=changes.agent_connected(xml))
