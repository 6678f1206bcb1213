"""What a type checker has to accept, and what it has to refuse: tests/python.sh has mypy --strict look at this."""

from typing import List

from vhost_user_zbd import Cut, Disk, Status, Zone, ZoneError

disk: Disk = Disk.in_memory(3, 65536, max_active_zones=2)
place: int = disk.append(0, b"x" * 4096)
zones: List[Zone] = disk.report(start=0, max=2)
state: str = zones[0].state
data: bytes = disk.read(0, 512)
cut: Cut = disk.power_cut(seed=7, mgmt="stable")
kept: int = cut["zones"][0]["kept"]
try:
    disk.write(0, data)
except ZoneError as error:
    status: Status = error.status

disk.power_cut(mgmt="never")  # type: ignore[arg-type]
disk.append("0", b"")  # type: ignore[arg-type]
zones[0].state = "full"  # type: ignore[misc]
