//! What is wrong is said in one line: what it is, and what was expected.

use std::time::Duration;

use super::rig::{CHUNK, MIB, Rig};
use super::server::{Manner, Server};

#[test]
fn a_server_that_dies_in_the_middle_is_an_error_for_reads_and_heals_when_it_is_back() {
    let mut server = Server::start(Manner::of(8 * MIB));
    let rig = Rig::new(1 << 40);
    let daemon = rig.open(&server.url()).unwrap();
    daemon.check(1, 0, MIB as usize);
    server.change(|manner| manner.dies_after = Some(3 * MIB));
    let error = daemon.read(0, 4 << 20).unwrap_err().to_string();
    assert!(error.starts_with(&server.url()), "{error}");
    // What came before stays readable without a server.
    daemon.check(1, 0, MIB as usize);
    assert!(daemon.read(5 * MIB, 1).is_err());
    server.change(|manner| manner.dies_after = None);
    server.revive();
    daemon.check(1, 0, 8 << 20);
    let counts = server.counts(CHUNK);
    let again = counts.values().filter(|count| **count > 1).count();
    assert!(again <= 8, "only what was on its way may come twice: {counts:?}");
}

#[test]
fn a_base_that_changes_is_refused_by_name_whether_the_server_looks_or_not() {
    for (etag, matches) in [(true, true), (true, false), (false, false)] {
        let server = Server::start(Manner { etag, matches, ..Manner::of(4 * MIB) });
        let rig = Rig::new(1 << 40);
        let daemon = rig.open(&server.url()).unwrap();
        daemon.check(1, 0, 1000);
        daemon.check(1, MIB, 1000);
        server.change(|manner| manner.version = 2);
        let error = daemon.read(3 * MIB, 1).unwrap_err().to_string();
        assert!(error.contains(&server.url()) && error.contains("the base has changed: expected"), "{error}");
        // What it was is read on, and the new one has an entry of its own.
        daemon.check(1, 0, 1000);
        rig.open(&server.url()).unwrap().check(2, 0, 4 << 20);
        daemon.check(1, MIB, 1000);
        server.change(|manner| manner.version = 1);
        daemon.check(1, 3 * MIB, 1000);
    }
}

#[test]
fn what_is_no_base_is_refused_in_words() {
    let rig = Rig::new(1 << 40);
    let manner = Manner::of(4 * MIB);
    for (manner, expected) in [
        (Manner { status: Some(404), ..manner.clone() }, "no such object"),
        (Manner { status: Some(401), ..manner.clone() }, "wants credentials (status 401)"),
        (Manner { status: Some(403), ..manner.clone() }, "refuses (status 403)"),
        (Manner { etag: false, modified: false, ..manner.clone() }, "neither ETag nor Last-Modified"),
    ] {
        let server = Server::start(manner);
        let error = rig.open(&server.url()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{error:?}, expected {expected:?}");
    }
    let server = Server::start(Manner { ranges: false, ..manner });
    let error = rig.open(&server.url()).unwrap().read(0, 1).unwrap_err().to_string();
    assert!(error.contains("the server sends no ranges: expected"), "{error}");
    for (url, expected) in [
        ("http://127.0.0.1:1/x", "refused"),
        ("http://127.0.0.1:1/", "names no object"),
        ("http://127.0.0.1:1/x?signed=1", "a query"),
        ("nonsense", "not a URL"),
        ("ftp://a/b", "not the URL of an object"),
    ] {
        let error = rig.open(url).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{url}: {error:?}, expected {expected:?}");
    }
}

#[test]
fn a_link_that_costs_20_ms_costs_the_first_read_two_round_trips() {
    let server = Server::start(Manner { late: Duration::from_millis(20), ..Manner::of(4 * MIB) });
    let rig = Rig::new(1 << 40);
    let begun = std::time::Instant::now();
    let daemon = rig.open(&server.url()).unwrap();
    daemon.check(1, 0, 4096);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((server.heads(), server.requests()), (1, 1));
}
