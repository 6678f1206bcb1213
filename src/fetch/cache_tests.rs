//! Any order of fetches, deaths, evictions and starts of the host: no reader ever sees a byte that was not fetched, and the cache
//! keeps to its size.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fetch::chunks::CHUNK;
use crate::fetch::entry::Claim;
use crate::fetch::message::{Files, Tag};
use crate::fetch::presence::Presence;

const OBJECTS: usize = 3;
const CHUNKS: u64 = 12;
const SIZE: u64 = 14 * CHUNK;
const FETCHERS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// A fetcher starts for an object, in the place of another that dies.
    Start(usize, usize),
    Dies(usize),
    /// Claims a chunk and takes space; fills it, or dies before its word or before its data.
    Claims(usize, u64),
    Fills(usize),
    DiesInBetween(usize, bool),
    Syncs(usize),
    Reads(usize, u64),
    /// The host starts anew: all processes are gone, and of what was not synced any part.
    Reboots(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fetcher = 0..FETCHERS;
    prop_oneof![
        3 => (fetcher.clone(), 0..OBJECTS).prop_map(|(fetcher, object)| Step::Start(fetcher, object)),
        1 => fetcher.clone().prop_map(Step::Dies),
        8 => (fetcher.clone(), 0..CHUNKS).prop_map(|(fetcher, chunk)| Step::Claims(fetcher, chunk)),
        8 => fetcher.clone().prop_map(Step::Fills),
        1 => (fetcher.clone(), any::<bool>()).prop_map(|(fetcher, data)| Step::DiesInBetween(fetcher, data)),
        1 => fetcher.clone().prop_map(Step::Syncs),
        8 => (fetcher, 0..CHUNKS).prop_map(|(fetcher, chunk)| Step::Reads(fetcher, chunk)),
        1 => any::<u64>().prop_map(Step::Reboots),
    ]
}

fn identity(object: usize) -> Identity {
    Identity { url: format!("http://h/{object}"), tag: Tag::Etag("\"1\"".into()), len: CHUNKS * CHUNK }
}

/// What a chunk of an object begins with. The rest of it takes part in nothing but space.
fn bytes(object: usize, chunk: u64) -> [u8; 16] {
    let mut bytes = [1; 16];
    bytes[8..].copy_from_slice(&(chunk << 8 | object as u64).to_le_bytes());
    bytes
}

struct Fetcher {
    object: usize,
    entry: Arc<Entry>,
    claims: Vec<Claim>,
    files: Files,
    reader: Presence,
}

impl Fetcher {
    fn start(cache: &Cache, object: usize) -> Self {
        let entry = Arc::new(cache.entry(&identity(object)).unwrap());
        let files = entry.files().unwrap();
        let again = |file: &File| file.try_clone().unwrap();
        let reader = Presence::of_reader(again(&files.words), again(&files.read), CHUNKS).unwrap();
        Self { object, entry, claims: Vec::new(), files, reader }
    }
}

/// A file system after a loss of power: data that was not synced is gone, as far as `lost` says; the words are as they were written,
/// or not, which is all the same.
fn lose(folder: &Path, synced: &[u64], lost: u64) {
    let data = File::options().write(true).open(folder.join("data")).unwrap();
    for chunk in (0..CHUNKS).filter(|chunk| !synced.contains(chunk) && lost >> chunk & 1 == 1) {
        data.write_all_at(&[0; 16], chunk * CHUNK).unwrap();
    }
    let words = File::options().write(true).open(folder.join("words")).unwrap();
    words.write_all_at(b"another boot", 16).unwrap();
}

fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), SIZE).unwrap();
    let mut fetchers: [Option<Fetcher>; FETCHERS] = Default::default();
    // Chunks of each object that were synced and not given up since.
    let mut synced = vec![Vec::new(); OBJECTS];
    for step in steps {
        match step {
            Step::Start(at, object) => {
                fetchers[at] = None;
                fetchers[at] = Some(Fetcher::start(&cache, object));
            }
            Step::Dies(at) => fetchers[at] = None,
            Step::Claims(at, chunk) => {
                let Some(fetcher) = &mut fetchers[at] else { continue };
                if fetcher.claims.iter().any(|claim| claim.chunk() == chunk) {
                    continue;
                }
                let Some(claim) = fetcher.entry.claim(chunk, false).unwrap() else { continue };
                if !fetcher.reader.is_present(chunk) {
                    cache.take_space(&fetcher.entry, &(chunk..chunk + 1)).unwrap();
                    fetcher.claims.push(claim);
                }
            }
            Step::Fills(at) => {
                let Some(fetcher) = &mut fetchers[at] else { continue };
                if let Some(claim) = fetcher.claims.pop() {
                    assert!(!fetcher.reader.is_present(claim.chunk()), "fetched twice");
                    fetcher.entry.fill(&claim, &bytes(fetcher.object, claim.chunk())).unwrap();
                }
            }
            Step::DiesInBetween(at, wrote) => {
                if let Some(mut fetcher) = fetchers[at].take()
                    && let Some(claim) = fetcher.claims.pop()
                    && wrote
                {
                    let data = folder.path().join(entry::name_of(&identity(fetcher.object))).join("data");
                    let data = File::options().write(true).open(data).unwrap();
                    data.write_all_at(&bytes(fetcher.object, claim.chunk())[..9], claim.chunk() * CHUNK).unwrap();
                }
            }
            Step::Syncs(at) => {
                let Some(fetcher) = &fetchers[at] else { continue };
                cache.make_durable(&fetcher.entry).unwrap();
                synced[fetcher.object] = (0..CHUNKS).filter(|chunk| fetcher.reader.is_present(*chunk)).collect();
            }
            Step::Reads(at, chunk) => {
                let Some(fetcher) = &fetchers[at] else { continue };
                if let Some(seen) = fetcher.reader.look(&(chunk..chunk + 1)) {
                    let mut found = [0; 16];
                    fetcher.files.data.read_exact_at(&mut found, chunk * CHUNK).unwrap();
                    assert!(fetcher.reader.still(&(chunk..chunk + 1), seen));
                    assert_eq!(found, bytes(fetcher.object, chunk), "chunk {chunk} of object {}", fetcher.object);
                    fetcher.reader.mark_read(&(chunk..chunk + 1));
                }
            }
            Step::Reboots(lost) => {
                fetchers = Default::default();
                for (object, synced) in synced.iter().enumerate() {
                    let folder = folder.path().join(entry::name_of(&identity(object)));
                    if folder.exists() {
                        lose(&folder, synced, lost);
                    }
                }
            }
        }
        let blocks = |folder: &Path| fs::metadata(folder.join("data")).map_or(0, |about| about.blocks() * 512);
        let used: u64 = cache.folders().unwrap().iter().map(|(folder, _)| blocks(folder)).sum();
        assert!(used <= SIZE, "{used} bytes are used");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_fetches_deaths_and_evictions_shows_a_byte_that_was_not_fetched(steps in vec(step(), 0..150)) {
        run(steps);
    }
}

#[test]
fn what_was_synced_is_there_after_the_hosts_next_start_and_what_was_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 40).unwrap();
    let fetcher = Fetcher::start(&cache, 0);
    let fill = |chunk| {
        let claim = fetcher.entry.claim(chunk, true).unwrap().unwrap();
        fetcher.entry.fill(&claim, &bytes(0, chunk)).unwrap();
    };
    (0..3).for_each(fill);
    cache.make_durable(&fetcher.entry).unwrap();
    (3..5).for_each(fill);
    drop(fetcher);
    lose(&folder.path().join(entry::name_of(&identity(0))), &[0, 1, 2], u64::MAX);
    let fetcher = Fetcher::start(&cache, 0);
    let there: Vec<u64> = (0..CHUNKS).filter(|chunk| fetcher.reader.is_present(*chunk)).collect();
    assert_eq!(there, [0, 1, 2]);
}
