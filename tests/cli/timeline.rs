//! `trace --html` and `replay --html`: zones over time as a page; the page of `explore --report`.

use std::fs;

use serde_json::Value;

use crate::common::cli::{Image, SMALL, fails, ok, program, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::Status;

/// A disk that was traced and recorded; its zone 2 was written, reset and written again, its zone 3 finished, and a write was refused.
fn used() -> (Image, String, String) {
    let image = Image::create(&SMALL);
    let [control, trace, record] = ["control", "trace", "record"].map(|name| image.beside_name(name));
    let args = ["--control-path", &control, "--trace", &trace, "--record", &record];
    let mut disk = Setup::new(SMALL).args(&args).start_on(image);
    disk.fill(2, 8192);
    assert_ok(disk.reset(2));
    disk.fill(2, 4096);
    assert_eq!(disk.write(SMALL.start(2), &[1; 4096]), Status::UnalignedWp);
    assert_ok(disk.finish(3));
    assert_ok(disk.flush());
    ok(&["ctl", &control, "mark", "</script><b>bold"]);
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    (image, trace, record)
}

/// What the script of a page draws.
fn data(page: &str) -> Value {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let data = page.split(begin).nth(1).and_then(|rest| rest.split("</script>").next()).expect("data");
    serde_json::from_str(data).expect("JSON")
}

fn zones(page: &str) -> Vec<u64> {
    let rows = data(page)["rows"].as_array().expect("rows").clone();
    rows.iter().map(|row| row["first"].as_u64().expect("a zone")).collect()
}

#[test]
fn a_trace_and_a_recording_are_drawn_as_one_page_without_anything_from_elsewhere() {
    let (image, trace, record) = used();
    let out = image.beside_name("page.html");
    for (args, unit) in [(["trace", &trace], "ns"), (["replay", &record], "requests")] {
        assert_eq!(ok(&[&args[..], &["--html", &out]].concat()), "");
        let page = fs::read_to_string(&out).expect("the page");
        assert_eq!(ok(&[&args[..], &["--html", "-"]].concat()), page);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        for elsewhere in ["http:", "https:", " src=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(page.contains("8 MiB: 8 zones of 1 MiB, 768 KiB of each writable, 2 conventional"), "{args:?}");
        assert_eq!((zones(&page), data(&page)["unit"].as_str()), (vec![2, 3], Some(unit)));
        assert!(!page.contains("<b>bold"));
    }
    let page = fs::read_to_string(&out).expect("the page");
    assert_eq!(data(&page)["ticks"][0]["text"], "</script><b>bold");
    let page = ok(&["trace", &trace, "--html", "-"]);
    assert_eq!(data(&page)["reasons"], serde_json::json!(["write-pointer"]));
}

#[test]
fn what_was_cut_short_is_drawn_up_to_its_last_whole_record() {
    let (image, trace, record) = used();
    let whole = fs::read(&trace).expect("the trace");
    // A header has 64 bytes and a record 56: docs/control.md.
    for (len, records) in [(whole.len() - 1, whole.len() / 56 - 2), (64, 0), (64 + 55, 0)] {
        fs::write(&trace, &whole[..len]).expect("a shorter trace");
        let page = ok(&["trace", &trace, "--html", "-"]);
        assert!(page.contains(&format!("{records} request")), "{len} bytes");
        assert_eq!(zones(&page).is_empty(), records == 0);
    }
    fs::write(&trace, &whole[..63]).expect("no trace");
    let out = image.beside_name("page.html");
    fails(&["trace", &trace, "--html", &out], &[&trace, "not a trace"]);
    let recorded = fs::read(&record).expect("the recording");
    fs::write(&record, &recorded[..recorded.len() - 1]).expect("a shorter recording");
    let drawn = run(&["replay", &record, "--html", "-"]);
    assert!(drawn.status.success() && drawn.stderr.contains("cut short"), "{}", drawn.stderr);
    assert_eq!(drawn.stderr.lines().count(), 1, "{}", drawn.stderr);
    assert_eq!(zones(&drawn.stdout), [2, 3]);
}

#[test]
fn a_page_overwrites_a_page_but_no_image_trace_or_recording() {
    let (image, trace, record) = used();
    for kept in [&image.name(), &trace, &record] {
        let before = fs::read(kept).expect("the file");
        for args in [["trace", &trace], ["replay", &record]] {
            fails(&[&args[..], &["--html", kept]].concat(), &[kept, "not overwritten"]);
        }
        assert!(fs::read(kept).expect("the file") == before, "{kept}");
    }
    let nowhere = image.beside_name("no/such/page.html");
    for args in [["trace", &trace], ["replay", &record]] {
        fails(&[&args[..], &["--html", &nowhere]].concat(), &["page.html", "No such file"]);
        fails(&[&args[..], &["--html", &nowhere, "--json"]].concat(), &["--html", "--json"]);
    }
}

#[test]
fn a_report_of_an_exploration_has_a_page_with_each_failure_and_what_makes_it_again() {
    let image = Image::create(&SMALL);
    let [record, base, report] = ["record", "base", "report"].map(|name| image.beside_name(name));
    fs::copy(image.path(), &base).expect("a copy of the image");
    let mut disk = Setup::new(SMALL).args(&["--record", &record]).start_on(image);
    disk.fill(2, 8192);
    assert_ok(disk.flush());
    // Of two, each may be lost alone.
    disk.fill(3, 4096);
    disk.fill(4, 4096);
    assert!(disk.stop().success());
    // A state is bad that has lost both.
    let check = format!("{} report \"$ZBD_IMAGE\" | grep -q 'wptr 0x000008'", program());
    let explored = run(&["explore", &record, "--base", &base, "--check", &check, "--minimise", "--report", &report]);
    assert_eq!(explored.status.code(), Some(1), "{explored:?}");
    let told: Value =
        serde_json::from_str(&fs::read_to_string(format!("{report}/report.json")).unwrap()).expect("JSON");
    let page = fs::read_to_string(format!("{report}/report.html")).expect("the page");
    let failures = told["failures"].as_array().expect("failures");
    assert!(!failures.is_empty());
    assert_eq!(page.matches("Make it again:").count(), failures.len());
    for failure in failures {
        let command = failure["command"].as_str().expect("a command");
        assert!(page.contains(&format!("<code>{command}</code>")), "{command}");
        assert!(page.contains(failure["why"].as_str().expect("why")));
    }
    let states = |column: usize| -> u64 {
        let columns = data(&page)["columns"].as_array().expect("columns").clone();
        columns.iter().map(|one| one[column].as_u64().expect("a count")).sum()
    };
    assert_eq!((Some(states(1)), Some(states(2))), (told["checked"].as_u64(), told["failed"].as_u64()));
    // Without the write to zone 4 the disk is as it was before that, which is no other state.
    assert_eq!(zones(&page), [2, 3]);
}
