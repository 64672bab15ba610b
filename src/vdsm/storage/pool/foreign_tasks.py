"""Tasks of hosts of the original, found in the master domain by a new SPM: kept, or rolled back, never resumed.

    done (finished, recovered, failed)      kept, shown with their result, until they are cleared
    under way                               each rollback is carried out, the last first; then it is "recovered"
    anything else                           "failed"
    cannot be read, or names a rollback
    that is not known here                  left as it is, for a host that knows it; not shown

After each rollback the task is written without it, so a host that dies goes on where it was. Paths in rollbacks are
those of another host, and text from a disk: only the ids in them are used.

Source: storage format, sections 5.2 to 5.4.
"""

from __future__ import annotations

import glob
import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.storage.domains.domain import Domain
from vdsm.storage.files.files import told
from vdsm.storage.formats import tasks as formats
from vdsm.storage.formats import tree
from vdsm.storage.formats.tasks import Inheritance, TaskRecord, TaskState, decode_task, encode_task
from vdsm.storage.ids import is_uuid
from vdsm.storage.pool import rollbacks
from vdsm.storage.pool.pool_session import DomainSource

log = logging.getLogger(__name__)

_FILE_BYTES: Final = 64 << 10
# What is being removed: a directory that lacks some of its files is no task, and must not look like one.
_CLEARED: Final = ".cleared"
_BATCH: Final = 60  # of such files in one call


class ForeignTasks:
    """The tasks in one master domain; may be used by many threads at once."""

    def __init__(self, master: Domain, domains: DomainSource) -> None:
        self._files: Final = master.files
        self._directory: Final = f"{master.master_path}/{tree.TASKS}"
        self._domains: Final = domains
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskRecord] = {}

    def load(self) -> None:
        """Read all tasks; what cannot be read is named in the log and left.

        Raises:
            StorageFailed: the directory cannot be read.
        """
        found: dict[str, TaskRecord] = {}
        for task_id, files in self._contents().items():
            try:
                task = decode_task(task_id, files)
            except VdsmError as error:
                log.error("task %s of another host is left as it is: %s", task_id, error)  # noqa: TRY400 - says all
                continue
            if task.inheritance is not Inheritance.KEEP and any(item.kind is None for item in task.rollbacks):
                log.error("task %s of another host needs rollbacks that are not known here; it is left", task_id)
                continue
            found[task_id] = task
        with self._lock:
            self._tasks = found

    def settle(self) -> None:
        """Roll back what was under way. What fails is left in its state, for the next SPM."""
        for task in self.tasks():
            if task.inheritance is Inheritance.FAIL:
                self._save(replace(task, state=TaskState.FAILED))
            elif task.inheritance is Inheritance.ROLL_BACK:
                try:
                    self._roll_back(task, TaskState.RECOVERED)
                except VdsmError:
                    log.exception("task %s of another host cannot be rolled back", task.task_id)

    def tasks(self) -> list[TaskRecord]:
        """All that are known."""
        with self._lock:
            return list(self._tasks.values())

    def get(self, task_id: str) -> TaskRecord | None:
        """One of them."""
        with self._lock:
            return self._tasks.get(task_id)

    def clear(self, task_id: str) -> None:
        """Remove a task that is done, durably.

        Raises:
            StorageFailed: it cannot be removed.
        """
        path = f"{self._directory}/{task_id}"
        # The plain one last: as long as it is there, it is the task.
        for suffix in (formats.TEMPORARY, formats.BACKUP, ""):
            with told(f"clearing {path}"), suppress(FileNotFoundError):
                self._files.rename(path + suffix, path + _CLEARED)
            self._remove(path + _CLEARED)
        with self._lock:
            self._tasks.pop(task_id, None)

    def revert(self, task: TaskRecord) -> None:
        """Take back what a finished task has done.

        Raises:
            VdsmError: a rollback failed; it and those before it are left.
        """
        self._roll_back(task, TaskState.RECOVERED)

    def _roll_back(self, task: TaskRecord, end: TaskState) -> None:
        log.warning("rolling back %s %s of another host", task.verb, task.task_id)
        while task.rollbacks:
            if task.state is not TaskState.RECOVERING:
                task = replace(task, state=TaskState.RECOVERING)
                self._save(task)
            rollbacks.carry_out(task.rollbacks[-1], self._domains)
            task = replace(task, rollbacks=task.rollbacks[:-1])
            self._save(task)
        self._save(replace(task, state=end))

    def _save(self, task: TaskRecord) -> None:
        """Write a task's directory anew, so that at each moment one whole one is found."""
        path = f"{self._directory}/{task.task_id}"
        fresh, aside = path + formats.TEMPORARY, path + formats.BACKUP
        with told(f"writing {path}"):
            self._remove(fresh)
            self._files.mkdir(fresh, mode=tree.DIRECTORY_MODE)
            for name, data in encode_task(task).items():
                self._files.create(f"{fresh}/{name}", data, mode=tree.METADATA_MODE)
            self._remove(aside)
            with suppress(FileNotFoundError):
                self._files.rename(path, aside)
            self._files.rename(fresh, path)
            self._remove(aside)
        with self._lock:
            self._tasks[task.task_id] = task

    def _remove(self, path: str) -> None:
        with told(f"removing {path}"), suppress(FileNotFoundError):
            for name in self._files.listdir(path):
                self._files.unlink(f"{path}/{name}")
            self._files.rmdir(path)

    def _contents(self) -> Mapping[str, Mapping[str, bytes]]:
        """The files of each task's directory: of the plain one, or else of .temp, or else of .backup."""
        with told(f"reading {self._directory}"):
            for name in self._files.listdir(self._directory):
                if name.endswith(_CLEARED):
                    self._remove(f"{self._directory}/{name}")
            paths = self._files.glob(f"{glob.escape(self._directory)}/*/*")
            data: list[bytes | OSError] = []
            for start in range(0, len(paths), _BATCH):
                data += self._files.read_many(paths[start : start + _BATCH], size=_FILE_BYTES)
        directories: dict[str, dict[str, bytes]] = defaultdict(dict)
        for path, content in zip(paths, data, strict=True):
            directory, name = path.rsplit("/", 2)[1:]
            if isinstance(content, bytes):
                directories[directory][name] = content
        found: dict[str, Mapping[str, bytes]] = {}
        for suffix in ("", formats.TEMPORARY, formats.BACKUP):
            for directory, files in directories.items():
                task_id = directory.removesuffix(suffix)
                if directory == task_id + suffix and is_uuid(task_id):
                    found.setdefault(task_id, files)
        return found
