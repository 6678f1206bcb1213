//! Each action by itself.

use serde_json::json;

use crate::common::disk::Setup;
use crate::common::request::{Req, State, Status};
use crate::rig::{BLOCK, GEO, Rig, at, blocks, status, write};

#[test]
fn an_unreadable_block_is_healed_by_a_write_where_that_can_be_and_by_a_reset() {
    let mut rig = Rig::start();
    let (conventional, zone) = (1, 4);
    for place in [conventional, zone] {
        assert_eq!(status(&mut rig, &write(place, 0, 3, 8)), Status::Ok);
        let (first, last) = (at(place, 2), at(place, 4) - 1);
        rig.add(&format!("bad {place}"), &format!("on read sectors {first}-{last} do unreadable"));
    }
    for place in [conventional, zone] {
        let read = |rig: &mut Rig, block, count: u64| rig.disk.read(at(place, block), (count * BLOCK) as usize);
        assert_eq!(read(&mut rig, 0, 2).unwrap(), blocks(3, 8)[..2 * BLOCK as usize], "beside it");
        for (block, count) in [(0, 8), (2, 1), (3, 1), (1, 2)] {
            assert_eq!(read(&mut rig, block, count), Err(Status::IoErr), "zone {place} block {block} of {count}");
        }
    }
    // A write heals the block that it writes, and no other.
    assert_eq!(status(&mut rig, &write(conventional, 2, 5, 1)), Status::Ok);
    assert_eq!(rig.disk.read(at(conventional, 2), BLOCK as usize).unwrap(), blocks(5, 1));
    assert_eq!(rig.disk.read(at(conventional, 3), BLOCK as usize), Err(Status::IoErr));
    // A refused write heals nothing; a reset does.
    assert_eq!(status(&mut rig, &write(zone, 2, 5, 1)), Status::UnalignedWp);
    assert_eq!(rig.disk.read(at(zone, 2), BLOCK as usize), Err(Status::IoErr));
    assert_eq!(rig.disk.reset(zone), Status::Ok);
    assert_eq!(rig.disk.read(at(zone, 2), BLOCK as usize).unwrap(), vec![0; BLOCK as usize]);
    assert_eq!(status(&mut rig, &write(zone, 0, 6, 8)), Status::Ok);
    assert_eq!(rig.disk.read(at(zone, 0), 8 * BLOCK as usize).unwrap(), blocks(6, 8), "healed for good");
    // And so does the end of the rule: the data was there all the time.
    rig.clear("bad 1");
    assert_eq!(rig.disk.read(at(conventional, 3), BLOCK as usize).unwrap(), blocks(3, 8)[3 * BLOCK as usize..][..4096]);
}

fn a_read_is_answered_with_wrong_bytes_and_the_medium_is_untouched(setup: fn() -> Setup) {
    let mut rig = Rig::start_with(setup());
    let data = blocks(8, 16);
    assert_eq!(status(&mut rig, &write(3, 0, 8, 16)), Status::Ok);
    let read = |rig: &mut Rig| rig.disk.read(at(3, 0), data.len()).unwrap();
    let (first, last) = (at(3, 4), at(3, 6) - 1);
    rig.add("flip", &format!("on read sectors {first}-{last} do corrupt=flip:13"));
    let wrong = read(&mut rig);
    let differing: Vec<usize> = (0..data.len()).filter(|byte| wrong[*byte] != data[*byte]).collect();
    let bits: u32 = differing.iter().map(|byte| (wrong[*byte] ^ data[*byte]).count_ones()).sum();
    assert_eq!(bits, 13);
    assert!(differing.iter().all(|byte| (4 * 4096..6 * 4096).contains(byte)), "{differing:?}");
    assert_eq!(read(&mut rig), wrong, "the same bits each time");
    assert_eq!(rig.disk.read(at(3, 0), 4 * 4096).unwrap(), data[..4 * 4096], "beside it");
    rig.clear("flip");
    assert_eq!(read(&mut rig), data);
    rig.add("old", "on read do corrupt=old");
    assert_eq!(read(&mut rig), vec![0; data.len()], "before they were written");
    assert_eq!(status(&mut rig, &write(1, 0, 1, 4)), Status::Ok);
    assert_eq!(status(&mut rig, &write(1, 1, 2, 2)), Status::Ok);
    assert_eq!(status(&mut rig, &write(1, 2, 3, 1)), Status::Ok);
    let mut old = vec![0; 4096];
    old.extend([&blocks(1, 4)[4096..8192], &blocks(2, 2)[4096..], &vec![0; 4096]].concat());
    assert_eq!(rig.disk.read(at(1, 0), 4 * 4096).unwrap(), old);
    rig.clear("old");
    let new = [&blocks(1, 4)[..4096], &blocks(2, 2)[..4096], &blocks(3, 1), &blocks(1, 4)[3 * 4096..]].concat();
    assert_eq!(rig.disk.read(at(1, 0), 4 * 4096).unwrap(), new);
    rig.add("zero", &format!("on read sectors {first}-{last} count 1 do corrupt=zero"));
    let mut zeroed = data.clone();
    zeroed[4 * 4096..6 * 4096].fill(0);
    assert_eq!(read(&mut rig), zeroed);
    assert_eq!(read(&mut rig), data, "once");
    rig.disk.finish_clean();
}

#[test]
fn a_read_is_answered_with_wrong_bytes_with_the_default_engine() {
    a_read_is_answered_with_wrong_bytes_and_the_medium_is_untouched(|| Setup::new(GEO));
}

#[test]
fn a_read_is_answered_with_wrong_bytes_with_the_sync_engine() {
    a_read_is_answered_with_wrong_bytes_and_the_medium_is_untouched(|| Setup::new(GEO).args(&["--aio", "sync"]));
}

#[test]
fn a_flush_that_lies_is_answered_and_makes_nothing_stable() {
    let mut rig = Rig::start_with(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    assert_eq!(rig.disk.flush(), Status::Ok);
    rig.add("liar", "on flush do lie");
    assert_eq!(status(&mut rig, &write(3, 4, 2, 4)), Status::Ok);
    assert_eq!(rig.disk.flush(), Status::Ok);
    let cut = rig.ask(&json!({"cmd": "power-cut", "then": "fail"}));
    let start = GEO.start(3) * 512;
    assert_eq!(cut["zones"][0]["stable"], start + 4 * BLOCK, "{cut}");
    assert_eq!(cut["zones"][0]["kept"], start + 4 * BLOCK, "{cut}");
    assert_eq!(rig.acted("liar"), (1, 1));
}

#[test]
fn a_flush_that_fails_makes_nothing_stable_and_one_whose_answer_is_lost_does() {
    let mut rig = Rig::start_with(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    rig.add("lost", "on flush count 1 do error=ioerr landed=all");
    assert_eq!(rig.disk.flush(), Status::IoErr);
    assert_eq!(status(&mut rig, &write(3, 4, 2, 4)), Status::Ok);
    rig.add("failed", "on flush do error=ioerr");
    assert_eq!(rig.disk.flush(), Status::IoErr);
    rig.clear("failed");
    let cut = rig.ask(&json!({"cmd": "power-cut", "then": "fail"}));
    assert_eq!(cut["zones"][0]["kept"], GEO.start(3) * 512 + 4 * BLOCK, "{cut}");
}

#[test]
fn each_flush_of_several_that_wait_for_one_sync_counts() {
    let mut rig = Rig::start();
    rig.add("third", "on flush every 3 do error=ioerr");
    let tokens: Vec<_> = (0..9).map(|_| rig.disk.submit(0, &Req::flush())).collect();
    let failed = tokens.into_iter().filter(|token| rig.disk.wait(*token).status == Status::IoErr).count();
    assert_eq!((failed, rig.acted("third")), (3, (3, 9)));
}

#[test]
fn a_write_that_fails_in_part_has_moved_the_pointer_and_those_behind_it_are_unaligned() {
    let mut rig = Rig::start();
    rig.add("half", "on write zone 3 nth 2 do error=ioerr landed=half");
    let tokens: Vec<_> = (0..4).map(|n| rig.disk.submit(0, &write(3, 8 * n, n, 8))).collect();
    let answers: Vec<_> = tokens.into_iter().map(|token| rig.disk.wait(token).status).collect();
    assert_eq!(answers, [Status::Ok, Status::IoErr, Status::UnalignedWp, Status::UnalignedWp]);
    assert_eq!(rig.disk.zone(3).wp, at(3, 12));
    let mut expected = blocks(0, 8);
    expected.extend(&blocks(1, 8)[..4 * 4096]);
    assert_eq!(rig.disk.read(at(3, 0), 12 * 4096).unwrap(), expected);
    assert_eq!(status(&mut rig, &write(3, 12, 9, 1)), Status::Ok);
}

#[test]
fn an_append_that_fails_gives_no_place_and_the_next_goes_behind_what_landed() {
    let mut rig = Rig::start();
    rig.add("once", "on append count 1 do error=ioerr landed=3");
    assert_eq!(rig.disk.append(at(6, 0), &blocks(1, 8)), Err(Status::IoErr));
    assert_eq!(rig.disk.append(at(6, 0), &blocks(2, 2)), Ok(at(6, 3)));
    let mut expected = blocks(1, 8)[..3 * 4096].to_vec();
    expected.extend(blocks(2, 2));
    assert_eq!(rig.disk.read(at(6, 0), 5 * 4096).unwrap(), expected);
}

#[test]
fn what_lands_at_random_is_whole_blocks_and_the_pointer_says_how_many() {
    let mut rig = Rig::start();
    rig.add("some", "on write prob 1 seed 5 do error=ioerr landed=random");
    let mut seen = std::collections::BTreeSet::new();
    for zone in 2..12 {
        assert_eq!(status(&mut rig, &write(zone, 0, zone as u64, 4)), Status::IoErr);
        let landed = (rig.disk.zone(zone).wp - at(zone, 0)) / 8;
        let mut expected = vec![0; 4 * 4096];
        expected[..landed as usize * 4096].copy_from_slice(&blocks(zone as u64, 4)[..landed as usize * 4096]);
        assert_eq!(rig.disk.read(at(zone, 0), 4 * 4096).unwrap(), expected);
        seen.insert(landed);
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn a_refusal_by_a_rule_names_the_rule_in_log_and_counts() {
    let mut rig = Rig::start();
    rig.add("my rule", "on write do error=unsupp");
    assert_eq!(status(&mut rig, &write(3, 0, 1, 1)), Status::Unsupp);
    let stats = rig.ask(&json!({"cmd": "stats"}));
    let text = stats["refusals"][0]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("UNSUPP") && text.contains("'my rule'"), "{stats}");
    assert!(rig.disk.daemon.log().contains("the rule 'my rule' for faults fails it"), "{}", rig.disk.daemon.log());
    assert_eq!(rig.disk.zone(3).state, State::Empty);
}
