"""The event stream followed."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory
from vdscli.failures import TRY_AGAIN, UNREACHABLE, CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.client import StreamEvent
    from vdscli.session import Session

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_RESET: Final = "reset"
_NO_ERROR: Final = "NOERR"
_SHOWN: Final = frozenset({"vm_id", "vm_name", "status", "notify_time", "status_time", "hash", "time_offset"})


def events(session: Session) -> None:
    """``events``."""
    args = session.args
    wanted = {inventory.find(session.client, text).vm_id for text in args.vm}
    names = {vm.vm_id: vm.name for vm in inventory.inventory(session.client)}
    session.client.close()
    deadline_s = None if args.for_s is None else time.monotonic() + args.for_s
    said: dict[str, str] = {}
    left = args.count
    for event in _followed(session, deadline_s):
        body = _decoded(event)
        if wanted and body.get("vm_id") not in wanted:
            continue
        if session.out.as_json:
            print(json.dumps({"id": event.ident, "event": event.name, "data": body}, ensure_ascii=False), flush=True)
        elif not _say(session, event.name, body, names, said):
            continue
        if left is not None:
            left -= 1
            if left <= 0:
                return


def _say(session: Session, name: str, body: dict[str, Any], names: dict[str, str], said: dict[str, str]) -> bool:
    """Print an event's sentence; False: it would be what was said of this VM last."""
    about = str(body.get("vm_id", ""))
    if body.get("vm_name"):
        names[about] = str(body["vm_name"])
    sentence = _sentence(name, body, names)
    if about and said.get(about) == sentence:
        return False
    said[about] = sentence
    session.out.line(f"{time.strftime('%H:%M:%S')}  {sentence}")
    sys.stdout.flush()
    return True


def _followed(session: Session, deadline_s: float | None) -> Iterator[StreamEvent]:
    """All events; a lost connection is opened again after the last one that came."""
    last_id = session.args.since
    notes = {True: "following the events; Ctrl-C ends", False: "connected again"}
    first, pause_s = True, _FIRST_PAUSE_S
    while True:
        fresh = True
        try:
            for event in session.client.events(last_id, deadline_s):
                if fresh:
                    session.out.note(notes[first])
                last_id = event.ident or last_id
                fresh, first, pause_s = False, False, _FIRST_PAUSE_S
                if event.name == _RESET:
                    session.out.note("the agent was restarted, or is too far ahead: some events are missing here")
                elif event.name:
                    yield event
        except CliError as error:
            if not _is_over(deadline_s):
                _bear(session, error, first=first, again=pause_s > _FIRST_PAUSE_S)
        if _is_over(deadline_s):
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _bear(session: Session, error: CliError, *, first: bool, again: bool) -> None:
    """Say once that the connection was lost; an agent that was never reached, or refuses, ends it all."""
    if first or error.exit_code not in {UNREACHABLE, TRY_AGAIN}:
        raise error
    if not again:
        session.out.note(f"connection lost ({error}); trying again")


def _is_over(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.monotonic() >= deadline_s


def _decoded(event: StreamEvent) -> dict[str, Any]:
    try:
        body = json.loads(event.data)
    except ValueError:
        return {"text": event.data}
    return body if isinstance(body, dict) else {"value": body}


def _sentence(name: str, body: dict[str, Any], names: dict[str, str]) -> str:
    vm_id = body.get("vm_id")
    if vm_id is None:
        facts = ", ".join(f"{key} {value}" for key, value in body.items() if key not in _SHOWN and value is not None)
        return f"{name}  {facts}".rstrip()
    more = []
    if body.get("exit_message"):
        more.append(str(body["exit_message"]))
    if body.get("pause_code", _NO_ERROR) != _NO_ERROR and body.get("status") == "Paused":
        more.append(f"paused by {body['pause_code']}")
    if int(body.get("monitor_response") or 0) < 0:
        more.append("not responding")
    if body.get("guest_agent"):
        more.append("guest agent connected")
    words = f"{names.get(vm_id, vm_id)}  {body.get('status', name)}"
    return f"{words}  ({'; '.join(more)})" if more else words
