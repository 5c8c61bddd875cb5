"""The sentences with which the record log says no. A new error each time: one that is raised twice would grow its
traceback with every raise."""

from __future__ import annotations

from interlock.errors import LogError


def again(error: LogError) -> LogError:
    """A new error like this one."""
    return LogError(error.message, code=error.code)


def closed() -> LogError:
    """The epoch has ended."""
    return LogError("The record log of this worker is closed.", code="record_log_closed")


def given_up() -> LogError:
    """A record that had its place and was never written."""
    return LogError("This record was given up when the disk was full.", code="record_log_disk_full")


def full(error: OSError) -> LogError:
    """A write found no room; the log goes on by itself later."""
    return LogError(
        f"The disk of the record log is full ({error.strerror}); calls are taken again when there is room.",
        code="record_log_disk_full",
    )


def failed(error: OSError | None) -> LogError:
    """The disk broke its promise; this epoch is over."""
    return LogError(
        f"The disk of the record log failed ({error}); this worker must be restarted.", code="record_log_failed"
    )


def backlog(pending: int) -> LogError:
    """The disk is slower than the calls."""
    return LogError(
        f"{pending} bytes of records wait for the disk, more than log_pending_bytes_max.", code="record_log_backlog"
    )


def over_budget(used: int) -> LogError:
    """The log of this node is as large as it may be."""
    return LogError(
        f"The record log takes {used} bytes of disk, log_disk_bytes_max is reached.", code="record_log_budget"
    )


def little_room(free: int) -> LogError:
    """What is left of the disk is for the outcomes of running calls."""
    return LogError(
        f"The record log's disk has {free} bytes free, log_disk_free_bytes_min is reached.",
        code="record_log_disk_full",
    )


def unmeasured(error: OSError) -> LogError:
    """The disk does not even say how full it is."""
    return LogError(f"The disk of the record log cannot be measured ({error}).")


def too_large(size: int) -> LogError:
    """One record is over its limit; the log itself is well."""
    return LogError(f"A record of {size} bytes is larger than record_bytes_max.", code="record_too_large")
