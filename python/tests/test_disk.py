"""The fixtures, with the program and a guest."""

import pytest

from pytest_vhost_user_zbd import DiskError


def test_a_test_that_says_nothing_gets_a_small_disk_with_conventional_zones(zoned_disk):
    zones = zoned_disk.zones()
    assert [zone.type for zone in zones[:3]] == ["conventional", "conventional", "seq-write-required"]
    assert len(zones) == 64 and zones[2].start == 8 << 20 and zones[2].written == 0
    assert zoned_disk.ctl("info")["nr_zones"] == 64


@pytest.mark.zoned_disk(preset="tight", size="64M", serve=["--block-size", "512"])
def test_the_marker_says_the_geometry_and_how_it_is_served(zoned_disk):
    assert zoned_disk.info()["max_open_zones"] == 1
    assert zoned_disk.ctl("info")["block_size"] == 512


def test_several_disks_of_one_test_are_apart(zoned_disk_factory):
    first, second = zoned_disk_factory(size="64M", zone_size="4M"), zoned_disk_factory(size="128M", zone_size="4M")
    assert (len(first.zones()), len(second.zones())) == (16, 32)


def test_stopped_killed_and_started_again(zoned_disk):
    first = zoned_disk.pid
    zoned_disk.restart()
    assert zoned_disk.pid != first
    zoned_disk.kill()
    assert not zoned_disk.running
    assert zoned_disk.check()["errors"] == 0
    assert len(zoned_disk.zones()) == 64
    with pytest.raises(DiskError):
        zoned_disk.ctl("info")
    zoned_disk.start()
    assert zoned_disk.ctl("stats")["frontend"] is False


def test_a_guest_writes_and_the_zone_is_seen(zoned_disk):
    done = zoned_disk.guest("dd if=/dev/zero of=/dev/vda bs=64K count=1 seek=128 oflag=direct && ls test_disk.py; exit 7", files=[__file__])
    assert (done.returncode, done.output.splitlines()[-1]) == (7, "test_disk.py"), done.errors
    assert zoned_disk.zones()[2].written == 65536
    zoned_disk.stop()
    assert zoned_disk.check()["errors"] == 0


def test_what_a_program_refuses_is_said(zoned_disk_factory):
    with pytest.raises(DiskError, match="zone_size is 3145728: expected a power of two"):
        zoned_disk_factory(size="64M", zone_size="3M")


def test_a_test_that_fails_shows_the_log(pytester, request):
    pytester.makepyfile("def test_it(zoned_disk):\n    assert zoned_disk.zones() == []\n")
    said = pytester.runpytest("--vuz-bin", request.config.getoption("--vuz-bin") or "vhost-user-zbd")
    said.assert_outcomes(failed=1)
    said.stdout.fnmatch_lines(["*zoned disk 0: daemon's log*", "*serving on*"])
