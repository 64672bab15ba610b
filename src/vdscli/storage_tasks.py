"""The long work of storage: waited for with something to look at, listed, explained, ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.client import quoted
from vdscli.failures import NOT_FOUND, CliError, RequestFailed
from vdscli.terminal import Cell, Column

if TYPE_CHECKING:
    from vdscli.session import Session

_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_TELL_S: Final = 1.0
_COLOURS: Final = {"success": "green", "failure": "red", "cleanFailure": "red", "cleanSuccess": "yellow"}


def finish(session: Session, task_id: str, words: str) -> None:
    """Wait for a task's end, and forget it; whoever interrupts lets it go on.

    Args:
        session: has the agent.
        task_id: the task.
        words: what is being done, for people: "copying image two".

    Raises:
        CliError: it failed.
    """
    path = f"/tasks/{quoted(task_id)}"
    start_s = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    try:
        while (status := session.client.get(path))["task_state"] != "finished":
            waited_s = time.monotonic() - start_s
            if waited_s >= _TELL_S:
                session.out.progress(f"{words}: {_how_far(session, path)}, {units.duration(waited_s)}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    except KeyboardInterrupt:
        session.out.note(f"{words} goes on: 'vdscli op explain {task_id}' shows it, 'vdscli op cancel' ends it")
        raise
    session.out.clear_progress()
    session.client.delete(path)
    if status["task_result"] != "success":
        raise CliError(f"{words} failed: {status['message']}")


def _how_far(session: Session, path: str) -> str:
    try:
        return str(session.client.get(f"{path}/explanation")["summary"])
    except RequestFailed as error:
        if error.exit_code != NOT_FOUND:
            raise
        return "it ends"


def show_all(session: Session) -> None:
    """``op list``."""
    statuses, infos = session.client.get("/tasks"), session.client.get("/tasks/info")
    tasks = [{**item, "verb": infos.get(ident, {}).get("verb", "")} for ident, item in sorted(statuses.items())]
    if session.out.as_json:
        session.out.value(tasks)
    elif session.args.quiet:
        for task in tasks:
            session.out.line(task["task_id"])
    else:
        columns = (Column("ID"), Column("WHAT"), Column("STATE"), Column("RESULT"), Column("MESSAGE"))
        session.out.table(columns, [_row(task) for task in tasks])


def _row(task: dict[str, Any]) -> list[str | Cell]:
    result = str(task["task_result"])
    return [task["task_id"], task["verb"], task["task_state"], Cell(result, _COLOURS.get(result, "")), task["message"]]


def explain(session: Session) -> None:
    """``op explain``."""
    found = session.client.get(f"{_path(session, session.args.id)}/explanation")
    if session.out.as_json:
        session.out.value(found)
        return
    session.out.card([
        ("Operation", f"{found['verb']} {found['id']}"),
        ("State", found["summary"]),
        ("With", found["arguments"]),
        ("Done", found["done"]),
        ("In doubt", found["uncertain"]),
        ("Not done", found["left"]),
        ("Then", found["next"]),
        ("Locks", found["locks"]),
    ])


def cancel(session: Session) -> int:
    """``op cancel``."""

    def act(text: str) -> None:
        path = _path(session, text)
        session.client.post(f"{path}/stop")
        ident = path.rpartition("/")[2]
        session.out.done(f"{ident}: is ended, and what it did taken back", {"task_id": ident, "stopped": True})

    return session.each(session.args.id, act)


def clear(session: Session) -> int:
    """``op clear``."""

    def act(text: str) -> None:
        path = _path(session, text)
        session.client.delete(path)
        ident = path.rpartition("/")[2]
        session.out.done(f"{ident}: forgotten", {"task_id": ident, "cleared": True})

    return session.each(session.args.id, act)


def _path(session: Session, text: str) -> str:
    """The REST path of an operation of this id, or the only one that begins so."""
    wanted = text.lower()
    try:
        known = list(session.client.get("/tasks"))
    except RequestFailed:
        known = []  # this host manages no pool; it may have one in memory
    matches = [wanted] if wanted in known else [ident for ident in known if ident.startswith(wanted)]
    if len(matches) > 1:
        raise CliError(f"{text} is ambiguous: {', '.join(matches)}")
    return f"/tasks/{quoted(matches[0] if matches else wanted)}"
