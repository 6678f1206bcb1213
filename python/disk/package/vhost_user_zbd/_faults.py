"""The rules for faults of a disk, as "ctl --json fault list" prints them."""

from typing import Any, Dict, List, TypedDict


class TakenZone(TypedDict):
    """A zone that was taken away."""

    zone: int
    #: read-only or offline.
    state: str
    #: It comes back with the power.
    comes_back: bool


class Faults(TypedDict):
    """The rules in the order in which they were added, each with its words and its progress, and the zones that were taken away."""

    rules: List[Dict[str, Any]]
    zones: List[TakenZone]
