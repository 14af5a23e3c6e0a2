"""The supervisor's log events: each name, what it means, and the fields that come with it."""

from enum import StrEnum

__all__ = ["SupervisorEvent"]


class SupervisorEvent(StrEnum):
    """All have `child`, the name of the process that it is about."""

    STARTED = "supervisor.started"
    """The process runs, and is not ready yet: `pid`."""
    READY = "supervisor.ready"
    """It serves: `pid`, `took_s`."""
    CHECK_FAILED = "supervisor.check_failed"
    """The check whether it serves raised, which counts as no; asked again: `error`."""
    ENDED = "supervisor.ended"
    """It ended although nobody wanted it to: `exit_code` (negative: the signal), `up_s`, `restart_in_s`."""
    NOT_STARTED = "supervisor.not_started"
    """It could not be started at all: `error`, `restart_in_s`."""
    KILLED = "supervisor.killed"
    """It was sent `signal` on request, to see it come back."""
    STOPPED = "supervisor.stopped"
    """It ended as asked: `exit_code`."""
    FORCED = "supervisor.forced"
    """It did not end within `wait_s` of being asked, and was killed."""
