//! Rules and zones outlive the daemon, in the file that `--faults` names.

use serde_json::Value;

use crate::common::cli::{Image, fails};
use crate::common::disk::Setup;
use crate::common::request::{Req, State, Status};
use crate::common::{Rng, eventually};
use crate::rig::{GEO, Rig, at, blocks, status, write};

#[test]
fn rules_and_zones_are_there_again_after_an_orderly_end_and_after_a_kill() {
    let mut rig = Rig::start();
    rig.add("third", "on read zone 5 every 3 count 9 do error=unsupp");
    rig.add("bad", &format!("on read sectors {} do unreadable", at(1, 0)));
    rig.add("waits", "on read zone 5 after mark:go do hang");
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    rig.add("x", "zone 3 do zone-state=read-only");
    rig.add("x", "zone 4 do zone-state=offline");
    rig.add("x", "zone 4 do zone-state=restore");
    for end in ["orderly", "kill"] {
        let answers: Vec<_> = (0..3).map(|_| status(&mut rig, &Req::read(at(5, 0), 4096))).collect();
        assert_eq!(answers, [Status::Ok, Status::Ok, Status::Unsupp], "before the {end} end");
        let before = rig.list();
        match end {
            "orderly" => rig.disk.restart(),
            _ => {
                rig.disk.daemon.kill9();
                rig.disk.resume();
            }
        }
        rig.connect_control();
        assert_eq!(rig.list()["rules"], before["rules"], "after the {end} end");
        assert_eq!((rig.disk.state(3), rig.disk.zone(3).wp), (State::ReadOnly, at(3, 4)));
        assert_eq!(rig.disk.state(4), State::Empty, "a driver that comes anew has reset the device");
        assert_eq!(rig.disk.read(at(1, 0), 4096), Err(Status::IoErr));
    }
}

#[test]
fn a_file_of_rules_that_makes_no_sense_is_refused_by_what_is_wrong_and_stays() {
    for (text, said) in [
        ("{", "no rules"),
        (r#"{"rules":[{"name":"x","on":"read","do":"hang","nht":3}]}"#, "nht"),
        (r#"{"rules":[{"name":"x","on":"read","zone":"99","do":"hang"}]}"#, "rule 'x': zone is '99'"),
        (r#"{"rules":[{"name":"x","on":"read","do":"hang"},{"name":"x","on":"read","do":"hang"}]}"#, "there twice"),
        (r#"{"zones":[{"zone":0,"state":"offline"}]}"#, "zone is '0': expected a zone with a write pointer"),
        (r#"{"schema_version":2}"#, "schema_version is 2: expected 1"),
        (r#"{"zones":[{"zone":4,"state":"gone"}]}"#, "zone 4 is 'gone': expected read-only or offline"),
    ] {
        let image = Image::create(&GEO);
        let rules = image.beside_name("rules");
        std::fs::write(&rules, text).unwrap();
        let socket = image.beside_name("socket");
        fails(&["serve", &image.name(), "--socket-path", &socket, "--faults", &rules], &["--faults", said]);
        assert_eq!(std::fs::read_to_string(&rules).unwrap(), text);
    }
}

#[test]
fn a_file_that_people_write_needs_the_words_alone() {
    let image = Image::create(&GEO);
    let text = r#"{"rules":[{"name":"x","on":"read","zone":"3","do":"error=invalid"}],"zones":[{"zone":4,"state":"offline"}]}"#;
    std::fs::write(image.beside("rules"), text).unwrap();
    let mut rig = Rig::start_on(Setup::new(GEO), image);
    assert_eq!(rig.disk.read(at(3, 0), 4096), Err(Status::InvalidCmd));
    assert_eq!(rig.disk.state(4), State::Offline);
    // And a list is such a file.
    let list = rig.list();
    let image = Image::create(&GEO);
    std::fs::write(image.beside("rules"), list.to_string()).unwrap();
    let mut rig = Rig::start_on(Setup::new(GEO), image);
    assert_eq!(rig.list(), list);
}

#[test]
fn a_request_that_a_rule_fails_fails_once_over_kills_and_as_much_lands() {
    let kills = std::env::var("FAULT_KILLS").map_or(12, |kills| kills.parse().unwrap());
    const FAILURES: u64 = 40;
    let (mut rng, mut done) = (Rng::new(5), 0);
    while done < kills {
        let mut rig = Rig::start();
        rig.add("half", &format!("on write count {FAILURES} do error=ioerr landed=half"));
        let mut pointers = [0u64; 12];
        let (mut failed, mut life) = (0, 0);
        while failed < FAILURES {
            for (zone, pointer) in pointers.iter_mut().enumerate().skip(2) {
                if *pointer + 4 > 48 {
                    assert_eq!(rig.disk.reset(zone), Status::Ok);
                    *pointer = 0;
                }
            }
            life += 1;
            let tokens: Vec<_> = (2..12)
                .map(|zone| (zone, rig.disk.submit(0, &write(zone, pointers[zone], life * 100 + zone as u64, 4))))
                .collect();
            if rng.below(3) == 0 {
                std::thread::sleep(std::time::Duration::from_micros(rng.below(400)));
                rig.disk.daemon.kill9();
                rig.disk.resume();
                rig.connect_control();
                done += 1;
            }
            for (zone, token) in tokens {
                let answer = rig.disk.wait(token).status;
                let landed = match answer {
                    Status::Ok => 4,
                    Status::IoErr => 2,
                    other => panic!("zone {zone}: {other:?}"),
                };
                failed += u64::from(answer == Status::IoErr);
                let data = blocks(life * 100 + zone as u64, 4);
                let read = rig.disk.read(at(zone, pointers[zone]), 4 * 4096).unwrap();
                let bytes = landed as usize * 4096;
                assert!(read[..bytes] == data[..bytes] && read[bytes..].iter().all(|byte| *byte == 0), "zone {zone}");
                pointers[zone] += landed;
                assert_eq!(rig.disk.zone(zone).wp, at(zone, pointers[zone]), "zone {zone} after {answer:?}");
            }
        }
        assert_eq!((failed, rig.acted("half").0), (FAILURES, FAILURES));
        eventually("the file of rules", || {
            let text = std::fs::read_to_string(rig.disk.image.beside("rules")).ok()?;
            let saved: Value = serde_json::from_str(&text).ok()?;
            (saved["rules"][0]["progress"]["acted"] == FAILURES).then_some(())
        });
    }
    eprintln!("{done} kills");
}
