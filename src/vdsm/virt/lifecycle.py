"""The state table of one VM: which request is legal when, and what each event means.

                                  launch_failed
    WaitForLaunch ------------------------------------------------------------> Down
      |        |                                                                  ^
      |        | launched_paused                                                  | ended, from everywhere
      |        v                                                                  |
      |      Paused <---- pause, paused ----+                                     |
      |        |  ^                         |                                     |
      |        |  | cont, resumed (resumed_booting while it has not been up)      |
      v        v  v                         |                                     |
    Powering up ---------- booted -------> Up ---- shutdown ----> Powering down --+
      ^   |                                ^ |                      |
      |   +-- reset, reboot, rebooted --+  | | reset, reboot,       | stayed: the guest did not obey
      |                                 v  | v rebooted             v
      |                        RebootInProgress --booted--> Up <----+
      +-- launched

``destroy`` is legal everywhere: a VM that is Down is forgotten by it. The states of migration and hibernation are
words of the protocol that no row leads to yet.

Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from enum import Enum, unique
from typing import Final

from vdsm.base.errors import WrongState


@unique
class Status(Enum):
    """A VM's state, in the words that an Engine parses."""

    WAIT_FOR_LAUNCH = "WaitForLaunch"
    POWERING_UP = "Powering up"
    UP = "Up"
    PAUSED = "Paused"
    POWERING_DOWN = "Powering down"
    REBOOT_IN_PROGRESS = "RebootInProgress"
    MIGRATION_SOURCE = "Migration Source"
    MIGRATION_DESTINATION = "Migration Destination"
    SAVING_STATE = "Saving State"
    RESTORING_STATE = "Restoring state"
    DOWN = "Down"


@unique
class Request(Enum):
    """What somebody can ask of a VM; the value is the word in a refusal."""

    PAUSE = "pause"
    CONT = "cont"
    RESET = "reset"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    DESTROY = "destroy"
    SET_TICKET = "set ticket"
    CHANGE_MEDIA = "change medium"
    SCREENSHOT = "take a screenshot"


@unique
class Happening(Enum):
    """What a VM does by itself, or what a request that takes long ended in."""

    LAUNCHED = "launched"
    LAUNCHED_PAUSED = "launched paused"
    LAUNCH_FAILED = "launch failed"
    BOOTED = "booted"
    PAUSED = "paused"
    RESUMED = "resumed"
    RESUMED_BOOTING = "resumed before it was up"
    REBOOTED = "rebooted"
    STAYED = "did not obey"
    ENDED = "ended"


RUNNING: Final = (Status.POWERING_UP, Status.UP, Status.REBOOT_IN_PROGRESS, Status.POWERING_DOWN)
ALIVE: Final = (*RUNNING, Status.PAUSED)

# A request that leaves the state as it is leads to the same state.
REQUESTS: Final[dict[tuple[Status, Request], Status]] = {
    **{(status, Request.PAUSE): Status.PAUSED for status in ALIVE},
    (Status.PAUSED, Request.CONT): Status.UP,
    **{(status, Request.CONT): status for status in RUNNING},
    **{(status, Request.RESET): Status.REBOOT_IN_PROGRESS for status in RUNNING},
    **{(status, Request.SHUTDOWN): Status.POWERING_DOWN for status in RUNNING},
    **{(status, Request.REBOOT): Status.REBOOT_IN_PROGRESS for status in RUNNING},
    **{(status, Request.DESTROY): Status.DOWN for status in Status},
    **{
        (status, request): status
        for status in ALIVE
        for request in (Request.SET_TICKET, Request.CHANGE_MEDIA, Request.SCREENSHOT)
    },
}

HAPPENINGS: Final[dict[tuple[Status, Happening], Status]] = {
    (Status.WAIT_FOR_LAUNCH, Happening.LAUNCHED): Status.POWERING_UP,
    (Status.WAIT_FOR_LAUNCH, Happening.LAUNCHED_PAUSED): Status.PAUSED,
    (Status.WAIT_FOR_LAUNCH, Happening.LAUNCH_FAILED): Status.DOWN,
    (Status.POWERING_UP, Happening.BOOTED): Status.UP,
    (Status.REBOOT_IN_PROGRESS, Happening.BOOTED): Status.UP,
    **{(status, Happening.PAUSED): Status.PAUSED for status in RUNNING},
    (Status.PAUSED, Happening.RESUMED): Status.UP,
    (Status.PAUSED, Happening.RESUMED_BOOTING): Status.POWERING_UP,
    (Status.UP, Happening.REBOOTED): Status.REBOOT_IN_PROGRESS,
    (Status.POWERING_UP, Happening.REBOOTED): Status.REBOOT_IN_PROGRESS,
    (Status.POWERING_DOWN, Happening.REBOOTED): Status.REBOOT_IN_PROGRESS,
    (Status.POWERING_DOWN, Happening.STAYED): Status.UP,
    (Status.REBOOT_IN_PROGRESS, Happening.STAYED): Status.UP,
    **{(status, Happening.ENDED): Status.DOWN for status in Status if status is not Status.DOWN},
}


def after(status: Status, request: Request) -> Status:
    """The state that a request leads to.

    Raises:
        WrongState: the request is not legal in this state; says so in the request's and the state's words.
    """
    try:
        return REQUESTS[status, request]
    except KeyError:
        raise WrongState(request.value, status.value) from None


def on(status: Status, happening: Happening) -> Status | None:
    """The state that a happening leads to; None: it means nothing in this state (late or repeated news)."""
    return HAPPENINGS.get((status, happening))
