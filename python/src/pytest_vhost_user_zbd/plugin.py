"""The fixtures `zoned_disk` and `zoned_disk_factory`, the marker that says the disk's geometry, and the logs of a test that failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Generator, Optional, Sequence

import pytest

from .disk import ZonedDisk

# What a test that says nothing gets.
DEFAULT = {"size": "256M", "zone_size": "4M", "conventional_zones": 2}
DISKS = "_vhost_user_zbd_disks"


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("vhost-user-zbd")
    group.addoption("--vuz-bin", metavar="PROGRAM", help="the daemon's program (else VUZ_BIN, else vhost-user-zbd of the PATH)")
    group.addoption("--vuz-rig", metavar="FOLDER", help="qemu-scripts of a checkout, for guests (else VUZ_RIG)")


def pytest_configure(config: Any) -> None:
    config.addinivalue_line(
        "markers",
        "zoned_disk(NAME=VALUE, ..., serve=[]): the geometry of zoned_disk, by the names of create's options: size, preset, zone_size ...; "
        "serve has further options of serve",
    )


def _program(config: Any) -> Path:
    given = config.getoption("--vuz-bin") or os.environ.get("VUZ_BIN") or "vhost-user-zbd"
    found = shutil.which(given)
    if found is None:
        raise pytest.UsageError(f"no program {given}: install vhost-user-zbd, or give --vuz-bin or VUZ_BIN")
    return Path(found).absolute()


def _rig(config: Any) -> Optional[Path]:
    given = config.getoption("--vuz-rig") or os.environ.get("VUZ_RIG")
    if not given:
        return None
    if not (Path(given) / "run.sh").exists():
        raise pytest.UsageError(f"--vuz-rig: {given} has no run.sh")
    return Path(given).absolute()


@pytest.fixture
def zoned_disk_factory(request: Any, tmp_path_factory: Any) -> Generator[Callable[..., ZonedDisk], None, None]:
    """Makes disks: a geometry by the names of create's options, serve=[...] for the daemon. They end with the test."""
    disks: list[ZonedDisk] = []
    setattr(request.node, DISKS, disks)

    def make(serve: Sequence[str] = (), **geometry: object) -> ZonedDisk:
        folder = tmp_path_factory.mktemp("zoned")
        disk = ZonedDisk(_program(request.config), folder, geometry or DEFAULT, serve, _rig(request.config))
        disks.append(disk)
        return disk

    yield make
    errors = []
    for disk in disks:
        try:
            disk.stop()
        except Exception as error:  # each disk has to end, whatever became of the one before
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def zoned_disk(request: Any, zoned_disk_factory: Callable[..., ZonedDisk]) -> ZonedDisk:
    """A zoned disk that is served; the marker zoned_disk says which."""
    marker = request.node.get_closest_marker("zoned_disk")
    return zoned_disk_factory(**(marker.kwargs if marker else {}))


@pytest.hookimpl(hookwrapper=True)  # type: ignore[misc]
def pytest_runtest_makereport(item: Any) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for number, disk in enumerate(getattr(item, DISKS, [])):
            report.sections.extend((f"zoned disk {number}: {name}", text) for name, text in disk.logs())
