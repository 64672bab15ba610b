"""The verbs of tasks."""

from __future__ import annotations

from typing import Final

from vdsm.api import host_types
from vdsm.api import storage_types as api
from vdsm.services import storage_answers as answers
from vdsm.storage.pool.tasks import Tasks


class TaskService:
    """Implements ``api.task.Task``."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks: Final = tasks

    def get_status(self, task_id: str) -> host_types.TaskStatus:
        """How far it is."""
        return answers.task_status(self._tasks.status(task_id))

    def get_info(self, task_id: str) -> host_types.TaskInfo:
        """What it does."""
        return answers.task_info(self._tasks.info(task_id))

    def clear(self, task_id: str) -> None:
        """Forget it."""
        self._tasks.clear(task_id)

    def stop(self, task_id: str) -> None:
        """End it."""
        self._tasks.stop(task_id)

    def revert(self, task_id: str) -> None:
        """Take it back."""
        self._tasks.revert(task_id)

    def explain(self, task_id: str) -> api.TaskExplanation:
        """Put it into words."""
        return answers.explanation(self._tasks.explain(task_id))
