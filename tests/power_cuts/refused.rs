//! What is no cut: the disk goes on, and the answer names what was wrong and its value.

use serde_json::{Value, json};

use super::rig::{GEO, Rig};
use crate::common::cli::{Image, fails};
use crate::common::disk::Setup;
use crate::common::model::assert_ok;
use crate::common::request::State;

const SEQ: usize = 2;

#[test]
fn a_disk_without_a_volatile_cache_refuses_to_lose_anything() {
    let image = Image::create(&GEO);
    let mut rig = Rig::start_on(Setup::new(GEO), image);
    rig.put(SEQ, 0..2, 1);
    let error = rig.refuses(&json!({}));
    assert!(error.contains("--volatile-cache") && error.lines().count() == 1, "{error}");
    fails(&["ctl", &rig.disk.image.beside_name("control"), "power-cut"], &["--volatile-cache"]);
    rig.put(SEQ, 2..4, 2);
    assert_eq!(rig.zone(SEQ), (State::ImplicitOpen, 4));
    rig.disk.assert_works();
    rig.finish();
}

#[test]
fn wrong_words_are_refused_by_name_and_value() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ, 0..2, 1);
    assert_ok(rig.disk.flush());
    rig.put(SEQ, 2..4, 2);
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"lose": "zone:999"}), &["999", "12"]),
        (json!({"keep": "zone:999"}), &["999", "12"]),
        (json!({"lose": "zone:"}), &["lose", "zone:"]),
        (json!({"lose": "everything"}), &["lose", "everything"]),
        (json!({"keep": "all"}), &["keep", "all"]),
        (json!({"seed": "x"}), &["\"x\""]),
        (json!({"seed": -1}), &["-1"]),
        (json!({"lose": "all", "seed": 1}), &["lose", "seed"]),
        (json!({"lose": "all", "keep": "zone:3"}), &["lose", "keep"]),
        (json!({"keep": "zone:3", "seed": 1}), &["keep", "seed"]),
        (json!({"state": {"digest": "x"}}), &[]),
        (json!({"then": "sleep"}), &["then", "sleep"]),
        (json!({"model": "exact"}), &["model", "exact"]),
        (json!({"mgmt": "lost"}), &["mgmt", "lost"]),
        (json!({"at": "request:x"}), &["at", "request:x"]),
        (json!({"at": "request:0"}), &["at", "request:0"]),
        (json!({"at": "noon"}), &["at", "noon"]),
        (json!({"at": "flush:1+x"}), &["at", "flush:1+x"]),
        (json!({"at": "zone:999,wp>=0"}), &["999"]),
        (json!({"at": "zone:0,wp>=4096"}), &["zone:0"]),
        (json!({"at": "mark:"}), &["at", "mark:"]),
        (json!({"at": "never", "seed": 1}), &["at=never", "no other word"]),
        (json!({"loose": "all"}), &["loose"]),
    ];
    for (fields, fragments) in cases {
        let error = rig.refuses(&fields);
        for fragment in fragments {
            assert!(error.contains(fragment), "{fields}: the answer lacks {fragment}: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{fields}: {error}");
        assert_eq!(rig.state_of_power(), "on", "{fields}");
    }
    let control = rig.disk.image.beside_name("control");
    for (words, fragments) in [
        (&["lose=zone:999"][..], &["999"][..]),
        (&["seed=x"], &["seed", "x"]),
        (&["lose=all", "seed=1"], &["lose", "seed"]),
        (&["lose"], &["lose"]),
        (&["loose=all"], &["loose"]),
        (&["state=/nonexistent"], &["/nonexistent"]),
    ] {
        fails(&[&["ctl", &control, "power-cut"], words].concat(), fragments);
    }
    // Nothing was lost, and nothing is stable that was not.
    assert_eq!(rig.zone(SEQ), (State::ImplicitOpen, 4));
    rig.cut(&json!({}));
    rig.power_on(super::rig::Way::ResetDevice);
    assert_eq!(rig.zone(SEQ), (State::Closed, 2));
    rig.finish();
}
