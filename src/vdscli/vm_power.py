"""VMs started, stopped, paused, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory, waiting
from vdscli.failures import FAILED, WRONG_STATE, CliError, RequestFailed
from vdscli.inventory import Vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdscli.session import Session

LAUNCH_WAIT_S: Final = 15.0
DEFAULT_WAIT_S: Final = 60.0
STOP_WAIT_S: Final = 120.0
_FORCED_WAIT_S: Final = 10.0


def pause(session: Session) -> int:
    """``vm pause``."""
    return _simple(session, "pause", "pause", "paused")


def resume(session: Session) -> int:
    """``vm resume``."""
    return _simple(session, "resume", "cont", "goes on")


def reset(session: Session) -> int:
    """``vm reset``."""
    return _simple(session, "reset", "reset", "reset")


def reboot(session: Session) -> int:
    """``vm reboot``."""
    return _simple(session, "reboot", "shutdown", "was asked to reboot", {"reboot": True})


def _simple(session: Session, word: str, route: str, done: str, body: dict[str, Any] | None = None) -> int:
    def act(text: str) -> None:
        vm = inventory.live(session.client, text, word)
        with_name(vm, lambda: session.out.done(f"{vm.name}: {done}", session.client.post(f"{vm.path}/{route}", body)))

    return session.each(session.args.vm, act)


def with_name(vm: Vm, act: Callable[[], Any]) -> Any:
    """Do something with a VM; a refusal because of its state names it as its people do."""
    try:
        return act()
    except RequestFailed as error:
        if error.exit_code == WRONG_STATE and vm.name not in str(error) and vm.vm_id not in str(error):
            raise CliError(f"{vm.name}: {error}", WRONG_STATE) from error
        raise


def start(session: Session) -> int:
    """``vm start``."""

    def act(text: str) -> None:
        vm = inventory.find(session.client, text)
        if not vm.is_down:
            raise CliError(f"{vm.name} runs already ({vm.status})", WRONG_STATE)
        if not vm.defined:
            raise CliError(f"{vm.name} has no definition to start it from: it was started without one", WRONG_STATE)
        stats = session.client.post(f"{vm.definition_path}/start")
        started(session, Vm(vm.name, stats["vm_id"], stats["status"], live=True, defined=True), stats)

    return session.each(session.args.vm, act)


def started(session: Session, vm: Vm, stats: dict[str, Any]) -> None:
    """Wait as the options say after a start, then say what is so.

    Raises:
        CliError: the VM ended, or was not so in time.
    """
    args = session.args
    seen: dict[str, Any] | None = stats
    if args.wait_agent:
        goal, words, wait_s = waiting.agent_answers, "its guest agent answers", args.wait_s or DEFAULT_WAIT_S
    elif args.wait:
        goal, words, wait_s = waiting.up, "it is Up", args.wait_s or DEFAULT_WAIT_S
    else:
        goal, words, wait_s = waiting.launched, "", args.wait_s or LAUNCH_WAIT_S
    if not args.no_wait:
        seen = waiting.until(session, vm, goal, words="starting", wait_s=wait_s)
    if seen is None and words:
        raise CliError(f"{vm.name} was started, but not so far that {words} within {wait_s:.0f} s", FAILED)
    seen = seen or stats
    session.out.done(f"{vm.name}: started, {seen['status']} ({vm.vm_id})", seen)


def stop(session: Session) -> int:
    """``vm stop``."""
    return session.each(session.args.vm, lambda text: _stop(session, text))


def _stop(session: Session, text: str) -> None:
    args, client = session.args, session.client
    vm = inventory.find(client, text)
    if vm.is_down:
        session.out.done(f"{vm.name}: is Down already", inventory.stats_of(client, vm))
        return
    wait_s = args.wait_s or STOP_WAIT_S
    # The agent tries each way for this long: the guest's agent, when there is one, then the power button.
    ways = 2 if inventory.stats_of(client, vm).get("guest_agent") else 1
    request = {"message": args.message, "timeout": max(1, int(wait_s / ways)), "force": args.force}
    state = with_name(vm, lambda: client.post(f"{vm.path}/shutdown", request))
    if args.no_wait:
        session.out.done(f"{vm.name}: was asked to shut down", inventory.stats_of(client, vm))
        return
    stats = waiting.until(session, vm, _obeys(state["status"]), words="stopping", wait_s=wait_s)
    if stats is None and args.force:
        # The agent powers it off by itself now; if it does not, we do.
        stats = waiting.until(session, vm, waiting.down, words="powering off", wait_s=_FORCED_WAIT_S)
        if stats is None:
            client.delete(vm.path)
            stats = {"vm_id": vm.vm_id, "vm_name": vm.name, "status": "Down"}
    if stats is None:
        raise CliError(f"{vm.name} is not Down after {wait_s:.0f} s; --force or 'vm destroy' power it off", FAILED)
    if not waiting.down(stats):
        raise CliError(f"{vm.name} did not shut down; --force or 'vm destroy' power it off", FAILED)
    session.out.done(f"{vm.name}: Down ({waiting.why_down(stats)})", stats)


def _obeys(status: str) -> Callable[[waiting.Stats], bool]:
    """Down, or no longer Powering down as it was: then the agent has given up."""
    asked = status == "Powering down"

    def reached(stats: waiting.Stats) -> bool:
        nonlocal asked
        asked = asked or stats["status"] == "Powering down"
        return waiting.down(stats) or (asked and stats["status"] == "Up")

    return reached


def destroy(session: Session) -> int:
    """``vm destroy``."""

    def act(text: str) -> None:
        vm = inventory.find(session.client, text)
        if not vm.live and not (session.args.forget and vm.defined):
            raise CliError(f"{vm.name} is Down already; 'vm forget' drops its definition", WRONG_STATE)
        if vm.live:
            session.client.delete(vm.path)
        if session.args.forget and vm.defined:
            session.client.delete(vm.definition_path)
        kept = vm.defined and not session.args.forget
        ended = "powered off" if not vm.is_down else "forgotten"
        words = f"{vm.name}: {ended}" + ("; its definition stays" if kept else "")
        session.out.done(words, {"vm_id": vm.vm_id, "vm_name": vm.name, "status": "Down", "defined": kept})

    return session.each(session.args.vm, act)


def wait(session: Session) -> None:
    """``vm wait``."""
    args = session.args
    goals = {
        "up": waiting.up,
        "agent": waiting.agent_answers,
        "paused": waiting.paused,
        "down": waiting.down,
    }
    vm = inventory.find(session.client, args.vm)
    if not vm.live:
        if args.state != "down":
            raise CliError(f"{vm.name} is Down", WRONG_STATE)
        session.out.done(f"{vm.name}: Down", inventory.stats_of(session.client, vm))
        return
    wait_s = args.wait_s or DEFAULT_WAIT_S
    stats = waiting.until(session, vm, goals[args.state], words="waiting for", wait_s=wait_s)
    if stats is None:
        raise CliError(f"{vm.name} is not {args.state} after {wait_s:.0f} s", FAILED)
    session.out.done(f"{vm.name}: {stats['status']}", stats)
