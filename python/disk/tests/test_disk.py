"""The disk as Python sees it. The rules themselves are the library's, and tested there (tests/disk.rs); here it is that they come
through: statuses, places, bytes, words, and that cuts are quick."""

import pickle
import threading
import time
from pathlib import Path

import pytest

from vhost_user_zbd import Disk, DiskError, Status, Unanswered, Zone, ZoneError

KIB = 1024
ZONE = 64 * KIB
BLOCK = 4096


def small(**more):
    """Four zones of 64 KiB, 48 KiB of each writable, the first conventional."""
    return Disk.in_memory(4, ZONE, zone_capacity=48 * KIB, conventional_zones=1, **more)


def test_a_zone_is_written_appended_to_and_read():
    disk = small()
    disk.write(ZONE, b"a" * BLOCK)
    assert disk.append(ZONE, bytearray(b"b" * BLOCK)) == ZONE + BLOCK
    assert disk.read(ZONE, 3 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK + bytes(BLOCK)
    zone = disk.report(ZONE, 1)[0]
    assert (zone.index, zone.type, zone.state) == (1, "seq-write-required", "implicit-open")
    assert (zone.start, zone.length, zone.capacity) == (ZONE, ZONE, 48 * KIB)
    assert (zone.write_pointer, zone.written) == (ZONE + 2 * BLOCK, 2 * BLOCK)
    assert repr(zone).startswith("Zone(index=1, type='seq-write-required', state='implicit-open', start=65536,")
    assert zone == disk.report(ZONE, 1)[0] and isinstance(zone, Zone)


def test_states_of_zones_follow_what_is_asked_for():
    disk = small()
    states = []
    for ask in (disk.open, disk.close, lambda zone: disk.append(zone, bytes(BLOCK)), disk.close, disk.open, disk.finish, disk.reset):
        ask(2 * ZONE)
        states.append(disk.report(2 * ZONE, 1)[0].state)
    assert states == ["explicit-open", "empty", "implicit-open", "closed", "explicit-open", "full", "empty"]
    assert [zone.state for zone in disk.report()] == ["not-wp", "empty", "empty", "empty"]
    disk.append(ZONE, bytes(BLOCK))
    disk.reset_all()
    assert disk.report(ZONE)[0].state == "empty"


TABLE = [
    (lambda disk: disk.write(ZONE, bytes(BLOCK)), Status.ZONE_UNALIGNED_WP, "write-pointer"),
    (lambda disk: disk.append(ZONE, bytes(512)), Status.ZONE_UNALIGNED_WP, "block-size"),
    (lambda disk: disk.append(ZONE + BLOCK, bytes(BLOCK)), Status.ZONE_INVALID_CMD, "zone-start"),
    (lambda disk: disk.append(ZONE, bytes(44 * KIB)), Status.ZONE_INVALID_CMD, "capacity"),
    (lambda disk: disk.append(0, bytes(BLOCK)), Status.ZONE_INVALID_CMD, "conventional"),
    (lambda disk: disk.close(2 * ZONE), Status.ZONE_INVALID_CMD, "zone-state"),
    (lambda disk: disk.read(2 * ZONE - 512, 1024), Status.ZONE_INVALID_CMD, "zone-border"),
    (lambda disk: disk.read(4 * ZONE, 512), Status.IOERR, "range"),
    (lambda disk: disk.report(4 * ZONE), Status.ZONE_INVALID_CMD, "range"),
    (lambda disk: disk.open(3 * ZONE), Status.ZONE_OPEN_RESOURCE, "open-limit"),
    (lambda disk: disk.read(0, 1 << 60), Status.IOERR, "malformed"),
]


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_a_refused_request_has_its_status_rule_and_words(number):
    ask, status, rule = TABLE[number]
    disk = small(max_open_zones=2)
    disk.open(ZONE)
    disk.append(ZONE, bytes(2 * BLOCK))
    if rule == "open-limit":
        disk.open(2 * ZONE)
    with pytest.raises(ZoneError) as refused:
        ask(disk)
    assert (refused.value.status, refused.value.rule) == (status, rule)
    assert f": {status.name}: " in str(refused.value)
    assert issubclass(ZoneError, DiskError) and issubclass(Unanswered, DiskError)


def test_an_error_survives_pickling_as_between_test_processes():
    with pytest.raises(ZoneError) as refused:
        small().write(ZONE + BLOCK, bytes(BLOCK))
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.status, again.rule, str(again)) == (refused.value.status, refused.value.rule, str(refused.value))


def test_what_no_request_can_say_is_a_value_error():
    disk = small()
    with pytest.raises(ValueError, match="start is 100: expected a multiple of 512"):
        disk.read(100, 512)
    with pytest.raises(ValueError, match="zone is 65537: expected a multiple of 512"):
        disk.append(ZONE + 1, b"")
    with pytest.raises(OverflowError):
        disk.read(-512, 512)
    with pytest.raises(TypeError):
        disk.write(ZONE, "text")


def test_a_shape_that_cannot_be_is_refused_by_name_and_value():
    with pytest.raises(DiskError, match="zone_size is 1000: expected a power of two"):
        Disk.in_memory(3, 1000)
    with pytest.raises(DiskError, match="block is 1024: expected 512 or 4096"):
        Disk.in_memory(3, ZONE, block=1024)


def test_limits_and_sizes_are_told():
    disk = small(max_open_zones=1, max_active_zones=2, max_append=8 * KIB, block=512)
    disk.append(2 * ZONE, bytes(512))
    usage = disk.usage()
    assert (usage.open, usage.max_open, usage.active, usage.max_active) == (1, 1, 1, 2)
    assert (disk.zones, disk.size, disk.zone_size, disk.zone_capacity) == (4, 4 * ZONE, ZONE, 48 * KIB)
    assert (disk.max_append, disk.block) == (8 * KIB, 512)


def test_a_cut_loses_what_was_not_flushed_and_the_power_comes_back():
    disk = small()
    disk.append(ZONE, b"a" * BLOCK)
    disk.flush()
    disk.append(ZONE, b"b" * BLOCK)
    assert disk.volatile_bytes == BLOCK
    cut = disk.power_cut(lose="all")
    assert cut["zones"] == [{
        "zone": 1, "stable": ZONE + BLOCK, "accepted": ZONE + 2 * BLOCK, "kept": ZONE + BLOCK, "operations": 1, "torn": False,
        "resets_lost": 0, "finishes_lost": 0, "mended": False,
    }]
    assert not disk.has_power
    with pytest.raises(ZoneError) as refused:
        disk.read(ZONE, BLOCK)
    assert (refused.value.status, refused.value.rule) == (Status.IOERR, "power")
    with pytest.raises(DiskError, match="the power is off already"):
        disk.power_cut()
    disk.power_on()
    assert disk.has_power
    assert disk.read(ZONE, 2 * BLOCK) == b"a" * BLOCK + bytes(BLOCK)


def test_words_of_a_cut_choose_and_wrong_ones_are_refused():
    def cut(**words):
        disk = small()
        for zone in (1, 2):
            disk.append(zone * ZONE, bytes(BLOCK))
        disk.reset(2 * ZONE)
        disk.append(3 * ZONE, bytes(BLOCK))
        outcome = disk.power_cut(**words)
        disk.power_on()
        return outcome, [zone.written for zone in disk.report(ZONE)]

    assert cut(lose="nothing")[1] == [BLOCK, 0, BLOCK]
    assert cut(lose="zone:1")[1] == [0, 0, BLOCK]
    assert cut(keep="zone:1", model="prefix", mgmt="stable")[1] == [BLOCK, 0, 0]
    with pytest.raises(DiskError, match="lose is 'zone:9': expected numbers of zones below 4"):
        cut(lose="zone:9")
    with pytest.raises(DiskError, match="exclude one another"):
        cut(lose="all", seed=1)
    assert cut(seed=7) == cut(seed=7)


def test_an_earlier_outcome_can_be_had_again():
    def worked():
        disk = small()
        for zone in (1, 2, 3):
            for _ in range(5):
                disk.append(zone * ZONE, bytes([zone]) * BLOCK)
        return disk

    for seed in range(10):
        one, two = worked(), worked()
        cut = one.power_cut(seed=seed)
        assert two.power_cut_as(cut)["digest"] == cut["digest"]
        one.power_on()
        two.power_on()
        assert one.report() == two.report()
    with pytest.raises(ValueError, match="outcome is not what a power cut has returned"):
        worked().power_cut_as({"digest": 5})


def test_an_image_is_there_again(tmp_path: Path):
    path = tmp_path / "disk.qcow2"
    with Disk.create_image(path, 4, ZONE) as disk:
        disk.append(ZONE, b"kept".ljust(BLOCK))
    with pytest.raises(ValueError, match="the disk has ended"):
        disk.flush()
    disk.end()
    with Disk.open_image(str(path)) as disk:
        assert disk.read(ZONE, 512).rstrip() == b"kept"
    with Disk.open_image(path, read_only=True) as disk:
        with pytest.raises(ZoneError) as refused:
            disk.append(ZONE, bytes(BLOCK))
        assert (refused.value.status, refused.value.rule) == (Status.IOERR, "read-only-disk")
    with pytest.raises(DiskError, match="disk.qcow2: the file cannot be opened"):
        Disk.create_image(path, 4, ZONE)
    with pytest.raises(DiskError, match="nothing.qcow2: the file cannot be opened"):
        Disk.open_image(tmp_path / "nothing.qcow2")


def test_threads_share_a_disk_a_request_at_a_time():
    disk = Disk.in_memory(8, ZONE)
    places = [[] for _ in range(8)]

    def work(number):
        for _ in range(16):
            places[number].append(disk.append(number * ZONE, bytes([number + 1]) * BLOCK))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert places[number] == [number * ZONE + BLOCK * place for place in range(16)]
        assert disk.read(number * ZONE, ZONE) == bytes([number + 1]) * ZONE


def test_ten_thousand_cuts_of_three_zones_each_leave_a_prefix(capsys):
    disk = Disk.in_memory(3, ZONE)
    torn = 0
    began = time.perf_counter()
    for seed in range(10_000):
        first, second = bytes([seed % 251 + 1]) * (2 * BLOCK), bytes([seed % 241 + 5]) * (3 * BLOCK)
        for zone in range(3):
            disk.append(zone * ZONE, first)
            if zone == 1:
                disk.flush()
            disk.append(zone * ZONE, second)
        cut = disk.power_cut(seed=seed)
        disk.power_on()
        torn += sum(zone["torn"] for zone in cut["zones"])
        for zone in disk.report():
            assert zone.written <= 5 * BLOCK and zone.written % BLOCK == 0, (seed, zone)
            assert zone.index == 2 or zone.written >= 2 * BLOCK, (seed, zone, "what was flushed is gone")
            kept = (first + second)[:zone.written]
            assert disk.read(zone.start, 5 * BLOCK) == kept.ljust(5 * BLOCK, b"\0"), (seed, zone)
        disk.reset_all()
        disk.flush()
    took = time.perf_counter() - began
    assert torn > 1000
    with capsys.disabled():
        print(f"\n10,000 cuts of three zones: {took:.2f} s, {torn} writes torn")


def test_requests_fail_as_rules_say_and_zones_go_and_come_back():
    disk = small()
    disk.fault("torn", "on=write,append nth=2", "error=ioerr landed=half")
    disk.append(ZONE, b"a" * BLOCK)
    with pytest.raises(ZoneError) as failed:
        disk.append(ZONE, b"b" * 2 * BLOCK)
    assert (failed.value.status, failed.value.rule) == (Status.IOERR, "fault")
    assert "the rule 'torn' for faults fails it" in str(failed.value)
    assert disk.report(ZONE, 1)[0].written == 2 * BLOCK
    assert disk.read(ZONE, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK
    progress = disk.faults()["rules"][0]["progress"]
    assert (progress["acted"], progress["matched"]) == (1, 2)
    disk.fault_clear("torn")
    disk.fault("gone", "zone=1", "zone-state=offline")
    assert disk.faults()["zones"] == [{"zone": 1, "state": "offline", "comes_back": False}]
    with pytest.raises(ZoneError) as gone:
        disk.read(ZONE, BLOCK)
    assert gone.value.status == Status.ZONE_INVALID_CMD
    disk.restore_now("1")
    assert disk.report(ZONE, 1)[0].state == "closed"
    assert disk.read(ZONE, BLOCK) == b"a" * BLOCK


def test_a_flush_that_lies_and_then_the_power_goes():
    disk = small()
    disk.append(ZONE, b"a" * BLOCK)
    disk.flush()
    disk.fault("liar", "on=flush", "lie")
    disk.append(ZONE, b"b" * BLOCK)
    disk.flush()
    disk.power_cut(lose="all")
    disk.power_on()
    assert disk.report(ZONE, 1)[0].written == BLOCK


def test_what_hangs_is_unanswered_until_the_rule_is_released():
    disk = small()
    disk.fault("stuck", "on=append after=mark:now count=1", "hang")
    disk.append(ZONE, b"a" * BLOCK)
    disk.mark("now")
    with pytest.raises(Unanswered):
        disk.append(ZONE, b"b" * BLOCK)
    assert disk.report(ZONE, 1)[0].written == BLOCK
    disk.fault_release("stuck")
    assert disk.report(ZONE, 1)[0].written == 2 * BLOCK
    with pytest.raises(DiskError, match="expected some of read, write"):
        disk.fault("x", "on=nothing", "hang")
    with pytest.raises(DiskError, match="there is no rule 'nobody'"):
        disk.fault_clear("nobody")
