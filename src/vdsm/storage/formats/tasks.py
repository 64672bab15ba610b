"""Tasks of the SPM as they lie in the master domain: ``master/tasks/<task>/``.

    <task>.task        id, name (the verb), tag, store, policies, state, njobs, nrecoveries, metadataVersion
    <task>.job.0       name, runcmd (for people)
    <task>.recover.0   name, moduleName, object, function, params: how to take a step back; the last is done first
    <task>.result      code, message, result; only of a task that is done

Each file has ``key = value`` lines. "=" in a value is ``_eq_``; a line that has not exactly one "=" does not count. The
whole directory is written anew at each change of state: build <task>.temp, remove <task>.backup, rename <task> to
<task>.backup and <task>.temp to <task>, remove <task>.backup. A reader takes <task>, or else .temp, or else .backup.

The next SPM, a host of the original perhaps, calls what the recoveries name. It keeps tasks that are done and shows
their result, and rolls all others back: jobs are never resumed.

Source: storage format, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from vdsm.storage.errors import Damaged, InvalidParameter

TEMPORARY: Final = ".temp"
BACKUP: Final = ".backup"
_EQUALS: Final = "_eq_"
_VERSION: Final = "1"


@unique
class TaskState(Enum):
    """A task's inner state."""

    UNKNOWN = "unknown"
    INIT = "init"
    PREPARING = "preparing"
    BLOCKED = "blocked"
    ACQUIRING = "acquiring"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    WAIT_RECOVER = "waitrecover"
    REACQUIRING = "racquiring"
    RECOVERING = "recovering"
    RECOVERED = "recovered"
    ROLLBACK_ABORTING = "raborting"
    FAILED = "failed"

    @property
    def told_state(self) -> str:
        """The word for its state that a client is told."""
        return _TOLD[self][0]

    @property
    def told_result(self) -> str:
        """The word for its result that a client is told; empty until it is done."""
        return _TOLD[self][1]

    @property
    def is_done(self) -> bool:
        """Nothing will happen any more: it only waits to be cleared."""
        return self in {TaskState.FINISHED, TaskState.RECOVERED, TaskState.FAILED}


_TOLD: Final = {
    TaskState.UNKNOWN: ("unknown", ""),
    TaskState.INIT: ("init", ""),
    TaskState.PREPARING: ("running", ""),
    TaskState.BLOCKED: ("running", ""),
    TaskState.ACQUIRING: ("running", ""),
    TaskState.QUEUED: ("running", ""),
    TaskState.RUNNING: ("running", ""),
    TaskState.FINISHED: ("finished", "success"),
    TaskState.ABORTING: ("aborting", ""),
    TaskState.WAIT_RECOVER: ("cleaning", ""),
    TaskState.REACQUIRING: ("cleaning", ""),
    TaskState.RECOVERING: ("cleaning", ""),
    TaskState.RECOVERED: ("finished", "cleanSuccess"),
    TaskState.ROLLBACK_ABORTING: ("aborting", ""),
    TaskState.FAILED: ("finished", "cleanFailure"),
}


@unique
class Inheritance(Enum):
    """What a new SPM does with a task that it finds."""

    KEEP = "keep"  # shown with its result until it is cleared
    ROLL_BACK = "roll back"
    FAIL = "fail"


@unique
class RollbackKind(Enum):
    """The ways of taking a step back that hosts know, by the function's name."""

    IMAGE = "create_image_rollback"  # directory: removed if it is empty
    PARENT = "parentVolumeRollback"  # domain, image, parent: LEAF or INTERNAL is found out anew
    SENTINEL = "startCreateVolumeRollback"  # a mark: nothing to do
    HALF_MADE = "halfbakedVolumeRollback"  # domain, volume, path: deleted if it has no metadata
    METADATA = "createVolumeMetadataRollback"  # path of the data (files); domain, slot (block)
    VOLUME = "createVolumeRollback"  # pool's path, domain, image, volume, image's directory: deleted
    SHARE = "shareVolumeRollback"  # path: the template's links are removed
    RENAME = "renameVolumeRollback"
    RENAME_LEASE = "renameLeaseRollback"
    EXTEND = "extendSizeFinalize"  # domain, image, volume: the capacity is found out anew
    KILL = "killProcRollback"  # nothing to do


@dataclass(frozen=True, slots=True)
class Rollback:
    """How to take one step back.

    Attributes:
        name: for people.
        module: the original's module, ``fileVolume``.
        owner: the class in it, ``FileVolume``.
        function: the class method.
        params: its arguments; none holds a comma.
    """

    name: str
    module: str
    owner: str
    function: str
    params: tuple[str, ...] = ()

    @property
    def kind(self) -> RollbackKind | None:
        """What it is; None when it is not known: then the task is left as it is, for a host that knows it."""
        return next((kind for kind in RollbackKind if kind.value == self.function), None)


@dataclass(frozen=True, slots=True)
class Job:
    """What a task does; ``call`` is for people."""

    name: str
    call: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended; the result is the text of a Python dict, as the original writes it."""

    code: int
    message: str
    result: str = ""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A whole task.

    Attributes:
        task_id: its id, which is also its directory's name.
        verb: what was asked for.
        state: how far it is.
        store: the directory of all tasks, as the SPM sees it.
        jobs: what it does.
        rollbacks: how to take it back; the last is done first.
        outcome: how it ended.
        tag: "spm".
        recovery_policy: "auto", "none" or "manual": what is done when it is aborted.
        clean_policy: "manual": it stays until it is cleared.
    """

    task_id: str
    verb: str
    state: TaskState
    store: str
    jobs: tuple[Job, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    outcome: Outcome | None = None
    tag: str = "spm"
    recovery_policy: str = "auto"
    clean_policy: str = "manual"

    @property
    def inheritance(self) -> Inheritance:
        """What a new SPM does with it."""
        match self.state:
            case TaskState.FINISHED | TaskState.RECOVERED | TaskState.FAILED:
                return Inheritance.KEEP
            case TaskState.UNKNOWN | TaskState.INIT | TaskState.WAIT_RECOVER | TaskState.ROLLBACK_ABORTING:
                return Inheritance.FAIL
            case _:
                return Inheritance.ROLL_BACK


def encode_task(task: TaskRecord) -> dict[str, bytes]:
    """The files of a task's directory, by name.

    Raises:
        InvalidParameter: a value could not be read back.
    """
    files = {"task": _text(_head(task))}
    for number, job in enumerate(task.jobs):
        files[f"job.{number}"] = _text({"name": job.name, "runcmd": job.call})
    for number, rollback in enumerate(task.rollbacks):
        files[f"recover.{number}"] = _text(_rollback(rollback))
    if task.outcome is not None:
        ended = task.outcome
        files["result"] = _text({"code": str(ended.code), "message": ended.message, "result": ended.result})
    return {f"{task.task_id}.{name}": data for name, data in files.items()}


def decode_task(task_id: str, files: Mapping[str, bytes]) -> TaskRecord:
    """Read a task from the files of its directory, by name.

    Raises:
        Damaged: a file is missing or cannot be read; the directory is to be left as it is.
    """
    head = _pairs(files, task_id, "task")
    try:
        result = _pairs(files, task_id, "result") if f"{task_id}.result" in files else None
        if head["id"] != task_id:
            raise Damaged(f"task {task_id}", f"it says that it is {head['id']:.80}")
        return TaskRecord(
            task_id=task_id,
            verb=head["name"],
            state=TaskState(head["state"]),
            store=head["store"],
            jobs=tuple(Job(job["name"], job.get("runcmd", "")) for job in _each(files, task_id, "job", head["njobs"])),
            rollbacks=tuple(
                Rollback(back["name"], back["moduleName"], back["object"], back["function"], _params(back["params"]))
                for back in _each(files, task_id, "recover", head["nrecoveries"])
            ),
            outcome=Outcome(int(result["code"]), result["message"], result.get("result", "")) if result else None,
            tag=head.get("tag", ""),
            recovery_policy=head.get("recoveryPolicy", "auto"),
            clean_policy=head.get("cleanPolicy", "manual"),
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"task {task_id}", f"it lacks or misstates {error}") from error


def _head(task: TaskRecord) -> dict[str, str]:
    return {
        "id": task.task_id,
        "name": task.verb,
        "tag": task.tag,
        "store": task.store,
        "recoveryPolicy": task.recovery_policy,
        "persistPolicy": "auto",
        "cleanPolicy": task.clean_policy,
        "priority": "low",
        "state": task.state.value,
        "njobs": str(len(task.jobs)),
        "nrecoveries": str(len(task.rollbacks)),
        "metadataVersion": _VERSION,
    }


def _rollback(rollback: Rollback) -> dict[str, str]:
    if _params(",".join(rollback.params)) != rollback.params:
        raise InvalidParameter("params", "must have no comma and no blanks around")
    return {
        "name": rollback.name,
        "moduleName": rollback.module,
        "object": rollback.owner,
        "function": rollback.function,
        "params": ",".join(rollback.params),
    }


def _text(pairs: Mapping[str, str]) -> bytes:
    lines = []
    for key, value in pairs.items():
        written = value.replace("=", _EQUALS)
        if written.replace(_EQUALS, "=") != value or "".join(value.splitlines()) != value or value != value.strip():
            raise InvalidParameter(key, f"must be one line without {_EQUALS}")
        lines.append(f"{key} = {written}\n")
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter("task", "must be text that UTF-8 can write") from error


def _pairs(files: Mapping[str, bytes], task_id: str, name: str) -> dict[str, str]:
    what = f"{task_id}.{name}"
    try:
        text = files[what].decode()
    except (KeyError, UnicodeDecodeError) as error:
        raise Damaged(f"task {task_id}", f"{what} is missing or no text") from error
    found = {}
    for line in text.splitlines():
        if line.count("=") == 1:
            key, value = line.split("=")
            found[key.strip().replace(_EQUALS, "=")] = value.strip().replace(_EQUALS, "=")
    return found


def _each(files: Mapping[str, bytes], task_id: str, kind: str, count: str) -> Iterator[dict[str, str]]:
    # More than there are files is damaged, however large the number.
    for number in range(min(int(count), len(files) + 1)):
        yield _pairs(files, task_id, f"{kind}.{number}")


def _params(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",")) if text else ()
