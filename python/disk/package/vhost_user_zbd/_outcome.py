"""What a cut of the power has left, as "ctl --json power-cut" prints it. Positions are in bytes of the disk."""

from typing import List, Optional, Tuple, TypedDict


class CutZone(TypedDict):
    """A sequential zone that had anything to lose."""

    zone: int
    #: The pointer that had to be kept.
    stable: int
    #: The furthest that was accepted.
    accepted: int
    #: The pointer now.
    kept: int
    #: Operations since the stable state.
    operations: int
    #: A write was kept in part.
    torn: bool
    resets_lost: int
    finishes_lost: int
    #: More was kept than chosen, so that the active zones fit.
    mended: bool


class CutConventional(TypedDict):
    """A conventional zone with blocks that were not stable."""

    zone: int
    volatile: int
    kept: int
    #: Runs of blocks that are what was written last: first block of the disk, and how many.
    new: List[Tuple[int, int]]


class Cut(TypedDict):
    """What a cut has left."""

    #: The same for the same state of all zones.
    digest: str
    seed: Optional[int]
    then: str
    model: str
    mgmt: str
    requests: int
    zones: List[CutZone]
    conventional: List[CutConventional]
