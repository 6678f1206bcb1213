//! What is no rule: refused in one line, and nothing is changed.

use serde_json::json;

use crate::rig::Rig;

#[test]
fn what_is_no_rule_is_refused_by_its_word_and_value() {
    let mut rig = Rig::start();
    rig.add("there", "on read do unreadable");
    for (name, words, said) in [
        ("there", "on read do hang", "name is 'there': expected one that no rule has"),
        ("x", "on everything do hang", "on is 'everything': expected some of read, write"),
        ("x", "on read zone 12 do hang", "zone is '12': expected a number below 12"),
        ("x", "zone 1 do zone-state=offline", "zone is '1-1': expected zones with a write pointer"),
        ("x", "on read do error=eio", "error is 'eio': expected ioerr,"),
    ] {
        let error = rig.try_add(name, words).unwrap_err();
        assert!(error.contains(said), "{words}: {error}");
    }
    let error = rig.try_ask(&json!({"cmd": "fault-clear", "name": "nobody"})).unwrap_err();
    assert_eq!(error, "there is no rule 'nobody'");
    let error = rig.try_ask(&json!({"cmd": "fault-release", "name": "nobody"})).unwrap_err();
    assert_eq!(error, "there is no rule 'nobody'");
    let rule = json!({"name": "x", "on": "read", "do": "hang"});
    let error = rig.try_ask(&json!({"cmd": "fault-add", "rule": rule, "now": true})).unwrap_err();
    assert!(error.contains("expected zone-state=restore alone"), "{error}");
    assert_eq!(rig.list()["rules"].as_array().unwrap().len(), 1);
}
