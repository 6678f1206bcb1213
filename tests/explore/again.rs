//! The program: what it says of a state that has failed makes that state again.

use serde_json::Value;

use crate::common::cli::{ok, run};
use crate::found::Stored;
use crate::toy::{Bug, Toy};

/// The words of a command line that this program prints.
fn words(command: &str) -> Vec<String> {
    command.split(' ').skip(1).map(|word| word.trim_matches('\'').to_owned()).collect()
}

#[test]
fn a_state_that_has_failed_is_made_again_by_its_command_twenty_times_of_twenty() {
    let stored = Stored::new(&mut Toy::lived(Bug::None).tape);
    let folder = stored.recording.log.parent().unwrap();
    let report = folder.join("report");
    let [log, base, report] =
        [&stored.recording.log, &stored.recording.base, &report].map(|path| path.display().to_string());
    // Three superblocks in zone 1 are called a failure here.
    let check = format!(
        "! {} report $ZBD_IMAGE --json | tr -d ' \\n' | grep -q '\"index\":1,[^}}]*\"write_pointer\":28672}}'",
        env!("CARGO_BIN_EXE_vhost-user-zbd")
    );
    let explored =
        run(&["explore", &log, "--base", &base, "--level", "3", "--check", &check, "--report", &report, "--json"]);
    assert_eq!(explored.status.code(), Some(1), "{explored:?}");
    let told: Value = serde_json::from_str(&explored.stdout).unwrap();
    let failures = told["failures"].as_array().unwrap();
    assert!(failures.iter().any(|failure| failure["lost"].as_u64() > Some(0)), "{told}");
    for number in 0..20 {
        let failure = &failures[number % failures.len()];
        let made = folder.join(format!("{number}.qcow2")).display().to_string();
        let command = words(&failure["command"].as_str().unwrap().replace("OUT.qcow2", &made));
        ok(&command.iter().map(String::as_str).collect::<Vec<_>>());
        ok(&["diff", &format!("{}/image.qcow2", failure["folder"].as_str().unwrap()), &made]);
    }
}
