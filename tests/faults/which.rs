//! Which requests a rule acts on, also over several queues.

use serde_json::json;

use crate::common::disk::Setup;
use crate::common::request::{Req, Status};
use crate::rig::{GEO, Rig, at, status, write};

#[test]
fn four_queues_at_once_count_together_and_exactly() {
    const EACH: u64 = 200;
    let mut rig = Rig::start_with(Setup::new(GEO).queues(4));
    rig.add("nth", "on read nth 100 do error=unsupp");
    rig.add("every", "on read every 7 do error=invalid");
    rig.add("count", "on read count 5 do error=active-resource");
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..EACH / 20 {
        let tokens: Vec<_> = (0..80).map(|n| rig.disk.submit(n % 4, &Req::read(at(3 + n % 4, 0), 4096))).collect();
        for token in tokens {
            *answers.entry(format!("{:?}", rig.disk.wait(token).status)).or_insert(0) += 1;
        }
    }
    // Each rule counts each request; of several that act the first one's answer is given.
    let all = 4 * EACH;
    assert_eq!(rig.acted("nth"), (1, all));
    assert_eq!(rig.acted("every"), (all / 7, all));
    assert_eq!(rig.acted("count"), (5, all));
    assert_eq!(answers["Unsupp"], 1);
    assert_eq!(answers["InvalidCmd"], all / 7);
    assert_eq!(answers["ActiveResource"], 5);
}

#[test]
fn a_rule_is_about_its_queue_zone_and_sectors_alone() {
    let mut rig = Rig::start_with(Setup::new(GEO).queues(2));
    rig.add("queue", "on read queue 1 do error=unsupp");
    let read = Req::read(at(3, 0), 4096);
    assert_eq!(rig.disk.front().call(0, &read).status, Status::Ok);
    assert_eq!(rig.disk.front().call(1, &read).status, Status::Unsupp);
    rig.clear("queue");
    rig.add("zones", "on write zone 4-5 do error=unsupp");
    let answers: Vec<_> = (3..7).map(|zone| status(&mut rig, &write(zone, 0, 1, 1))).collect();
    assert_eq!(answers, [Status::Ok, Status::Unsupp, Status::Unsupp, Status::Ok]);
    rig.clear("zones");
    let sector = at(7, 2);
    rig.add("sector", &format!("on write sectors {sector} do error=unsupp"));
    let answers: Vec<_> = (0..3).map(|block| status(&mut rig, &write(7, block, 1, 1))).collect();
    assert_eq!(answers, [Status::Ok, Status::Ok, Status::Unsupp]);
    rig.add("append", &format!("on append sectors {sector} do error=ioerr"));
    assert_eq!(rig.disk.append(at(7, 0), &[1; 4096]), Err(Status::IoErr), "where it would go");
}

#[test]
fn a_rule_that_waits_for_a_mark_counts_from_there_on() {
    let mut rig = Rig::start();
    rig.add("late", "on read after mark:go nth 2 do error=unsupp");
    let read = Req::read(at(3, 0), 4096);
    for _ in 0..3 {
        assert_eq!(status(&mut rig, &read), Status::Ok);
    }
    assert_eq!(rig.acted("late"), (0, 0));
    rig.ask(&json!({"cmd": "mark", "name": "other"}));
    assert_eq!(status(&mut rig, &read), Status::Ok);
    rig.ask(&json!({"cmd": "mark", "name": "go"}));
    assert_eq!((status(&mut rig, &read), status(&mut rig, &read)), (Status::Ok, Status::Unsupp));
    assert_eq!(rig.acted("late"), (1, 2));
}

#[test]
fn the_same_seed_has_the_same_victims_whatever_order_zones_are_written_in() {
    let victims = |order: &dyn Fn(usize) -> (usize, u64)| {
        let mut rig = Rig::start();
        rig.add("some", "on write prob 0.3 seed 42 do error=ioerr landed=all");
        let mut victims = Vec::new();
        for n in 0..60 {
            let (zone, block) = order(n);
            if status(&mut rig, &write(zone, block, 1, 1)) == Status::IoErr {
                victims.push((zone, block));
            }
        }
        victims.sort_unstable();
        victims
    };
    let one_by_one = victims(&|n| (2 + n / 20, n as u64 % 20));
    let in_turns = victims(&|n| (2 + n % 3, n as u64 / 3));
    assert_eq!(one_by_one, in_turns);
    assert!((8..30).contains(&one_by_one.len()), "{one_by_one:?}");
}
