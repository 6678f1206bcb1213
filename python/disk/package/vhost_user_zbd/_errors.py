"""What goes wrong with a disk."""

from enum import IntEnum


class Status(IntEnum):
    """The status byte of a request, by its name in the virtio specification."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    ZONE_INVALID_CMD = 3
    ZONE_UNALIGNED_WP = 4
    ZONE_OPEN_RESOURCE = 5
    ZONE_ACTIVE_RESOURCE = 6


class DiskError(Exception):
    """The disk is not to be had, or the power was not cut; the message says why."""


class Unanswered(DiskError):
    """A request was not answered, and nothing is under way that would answer it."""


class ZoneError(DiskError):
    """A request was answered, and not with OK. The message has the request, the rule that it broke, and what was expected."""

    def __init__(self, status: int, rule: str, words: str) -> None:
        super().__init__(words)
        self.status = Status(status)
        self.rule = rule

    def __reduce__(self) -> "tuple[type[ZoneError], tuple[int, str, str]]":
        return type(self), (int(self.status), self.rule, str(self))
