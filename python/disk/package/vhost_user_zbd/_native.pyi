from os import PathLike
from types import TracebackType
from typing import List, Literal, Optional, Type, Union, final

from ._faults import Faults
from ._outcome import Cut

State = Literal["not-wp", "empty", "implicit-open", "explicit-open", "closed", "read-only", "full", "offline"]

@final
class Zone:
    """A zone as a report shows it; positions and lengths in bytes of the disk."""

    @property
    def index(self) -> int: ...
    @property
    def type(self) -> Literal["conventional", "seq-write-required"]: ...
    @property
    def state(self) -> State: ...
    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def write_pointer(self) -> int: ...
    @property
    def written(self) -> int:
        """The bytes below the write pointer."""

@final
class Usage:
    """The zones in use, and how many may be; 0 is no limit."""

    @property
    def open(self) -> int: ...
    @property
    def max_open(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def max_active(self) -> int: ...

@final
class Disk:
    """A zoned disk in this process. Every operation may raise ZoneError with the status of the request."""

    @staticmethod
    def in_memory(
        zones: int,
        zone_size: int,
        *,
        zone_capacity: Optional[int] = None,
        conventional_zones: int = 0,
        max_open_zones: int = 0,
        max_active_zones: int = 0,
        max_append: int = 0,
        block: int = 4096,
    ) -> Disk:
        """A new disk in memory. Limits of 0 are none; max_append of 0 is what a queue carries."""

    @staticmethod
    def create_image(
        path: Union[str, PathLike[str]],
        zones: int,
        zone_size: int,
        *,
        zone_capacity: Optional[int] = None,
        conventional_zones: int = 0,
        max_open_zones: int = 0,
        max_active_zones: int = 0,
        max_append: int = 0,
        block: int = 4096,
    ) -> Disk:
        """A new disk in a file that is not there yet."""

    @staticmethod
    def open_image(path: Union[str, PathLike[str]], *, block: int = 4096, read_only: bool = False) -> Disk:
        """The disk of an image, which no other process may be writing to."""

    @property
    def zones(self) -> int:
        """How many zones there are."""
    @property
    def size(self) -> int: ...
    @property
    def zone_size(self) -> int: ...
    @property
    def zone_capacity(self) -> int: ...
    @property
    def max_append(self) -> int:
        """The longest append."""
    @property
    def block(self) -> int:
        """The unit of writes to sequential zones."""
    @property
    def volatile_bytes(self) -> int:
        """Bytes that a power cut may take."""
    @property
    def has_power(self) -> bool: ...
    def usage(self) -> Usage: ...
    def report(self, start: int = 0, max: Optional[int] = None) -> List[Zone]:
        """Up to max zones, from the one that holds start on."""
    def read(self, start: int, length: int) -> bytes: ...
    def write(self, start: int, data: Union[bytes, bytearray]) -> None: ...
    def append(self, zone: int, data: Union[bytes, bytearray]) -> int:
        """Writes at the write pointer of the zone that begins at zone. Returns where the data is."""
    def open(self, zone: int) -> None: ...
    def close(self, zone: int) -> None: ...
    def finish(self, zone: int) -> None: ...
    def reset(self, zone: int) -> None: ...
    def reset_all(self) -> None: ...
    def flush(self) -> None:
        """Makes all stable that was answered before."""
    def power_cut(
        self,
        *,
        lose: Optional[str] = None,
        keep: Optional[str] = None,
        seed: Optional[int] = None,
        model: Optional[Literal["prefix", "virtio"]] = None,
        mgmt: Optional[Literal["volatile", "stable"]] = None,
    ) -> Cut:
        """Cuts the power now, and says what is left: lose="all" where nothing is said, "nothing" or "zone:N,N"; keep="zone:N,N";
        or what a seed chooses. Every request fails with IOERR until power_on()."""
    def power_cut_as(self, outcome: Cut) -> Cut:
        """Cuts the power, and leaves what an earlier cut of a disk with the same past has left."""
    def fault(self, name: str, which: str, action: str) -> None:
        """Adds a rule by which requests fail, bring wrong bytes, or are held back; or takes zones away at once. The words are those of
        "ctl fault add": fault("torn", "on=write nth=2", "error=ioerr landed=half"), fault("dead", "zone=3", "zone-state=offline").
        Delays pass at once; what hangs is Unanswered until fault_release()."""
    def fault_clear(self, name: Optional[str] = None) -> None:
        """Removes a rule, or all. Zones that were taken away stay so."""
    def fault_release(self, name: str) -> None:
        """Lets go what a rule holds back."""
    def faults(self) -> Faults:
        """The rules, with how far they have come, and the zones that were taken away."""
    def restore_now(self, zones: str) -> None:
        """Gives zones back at once: a number, or the first and the last as A-B."""
    def mark(self, name: str) -> None:
        """Sets a mark, from which on rules with after=mark:NAME count."""
    def power_on(self) -> None:
        """The power comes back, as with a reset of the device."""
    def end(self) -> None:
        """Ends in order. A disk that is just dropped leaves its image as a killed daemon does: all that was answered is there."""
    def __enter__(self) -> Disk: ...
    def __exit__(
        self,
        kind: Optional[Type[BaseException]] = None,
        error: Optional[BaseException] = None,
        trace: Optional[TracebackType] = None,
    ) -> None: ...
