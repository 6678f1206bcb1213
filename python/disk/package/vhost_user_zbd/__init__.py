"""A zoned disk in a test's own process: the disk that vhost-user-zbd serves, without a daemon, a guest or a socket.

Positions and lengths are in bytes, and positions are multiples of 512, as requests count in sectors.

    >>> disk = Disk.in_memory(zones=3, zone_size=65536)
    >>> disk.append(0, b"x" * 4096)
    0
    >>> disk.report()[0].write_pointer
    4096
"""

from ._errors import DiskError, Status, Unanswered, ZoneError
from ._faults import Faults, TakenZone
from ._native import Disk, Usage, Zone
from ._outcome import Cut, CutConventional, CutZone

__all__ = [
    "Cut",
    "CutConventional",
    "CutZone",
    "Disk",
    "DiskError",
    "Faults",
    "Status",
    "TakenZone",
    "Unanswered",
    "Usage",
    "Zone",
    "ZoneError",
]
