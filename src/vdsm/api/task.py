"""The verbs of tasks: the long work of the pool's manager, polled by managers."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import Pool, Role, Wire, delete, get, namespace, post, verb
from vdsm.api.host_types import TaskInfo, TaskStatus
from vdsm.api.storage_types import TaskExplanation

TaskIdParam = Annotated[str, Wire("taskID"), msgspec.Meta(description="the task's id, a UUID")]


@namespace("Task")
class Task(Protocol):
    """Tasks: the long work of the pool's manager (SPM). One that has ended stays until it is cleared."""

    @verb(rest=get("/tasks/{task_id}"), legacy="getTaskStatus")
    def get_status(self, task_id: TaskIdParam) -> TaskStatus:
        """How far a task is, and how it ended.

        Raises:
            NoSuchTask: there is none of this id.
        """

    @verb(rest=get("/tasks/{task_id}/info"), legacy="getTaskInfo")
    def get_info(self, task_id: TaskIdParam) -> TaskInfo:
        """What a task does.

        Raises:
            NoSuchTask: there is none of this id.
        """

    @verb(rest=delete("/tasks/{task_id}"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="clearTask")
    def clear(self, task_id: TaskIdParam) -> None:
        """Forget a task that has ended.

        Raises:
            NoSuchTask: there is none of this id.
            TaskNotEnded: it has not ended.
        """

    @verb(rest=post("/tasks/{task_id}/stop"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="stopTask")
    def stop(self, task_id: TaskIdParam) -> None:
        """End a task before it is done; what it has done is taken back.

        Raises:
            NoSuchTask: there is none of this id.
            WrongTaskState: it has ended, or can only go forward.
        """

    @verb(rest=post("/tasks/{task_id}/revert"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="revertTask")
    def revert(self, task_id: TaskIdParam) -> None:
        """Take back what a task that has ended has done, where that is still possible.

        Raises:
            NoSuchTask: there is none of this id.
            WrongTaskState: it cannot be taken back.
        """

    @verb(rest=get("/tasks/{task_id}/explanation"))
    def explain(self, task_id: TaskIdParam) -> TaskExplanation:
        """What a task has done, what it left on the disk, and what will become of it.

        Raises:
            NoSuchTask: there is none of this id.
        """
