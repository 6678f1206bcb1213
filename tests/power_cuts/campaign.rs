//! Cuts by the thousand, whose every result is judged: over what is kept, what the guest sees, each way that the power
//! comes back, engines, queues, limits. What a cut has left is what the next round begins with.
//!
//! `POWER_CUTS` (environment) is how many, `POWER_SEED` another seed, `POWER_DISK` the one disk of a failure, and with
//! `POWER_GO_ON=1` a failure ends its disk and not the campaign. The test fails where a class of losses was not seen often
//! enough: a campaign that has not seen it shows nothing.
//!
//! The images are in the folder for temporary files. On tmpfs flushes are cheap, but a request is over as soon as it has begun
//! and none is in flight when the power goes. Both is had with a file system on a loop device whose file is in memory:
//!
//!     truncate -s 2G /dev/shm/image && mkfs.ext4 -q /dev/shm/image && mount -o loop /dev/shm/image /mnt
//!     TMPDIR=/mnt POWER_CUTS=100000 cargo test --test power_cuts campaign -- --nocapture

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::rig::{GEO, Rig, Way};
use super::rules::{Class, Fate, Left, Rules, Shape, Sight};
use super::work::{Habits, Worker};
use crate::common::KIB;
use crate::common::cli::{Geo, Image};
use crate::common::disk::Setup;
use crate::common::frontend::feature;
use crate::common::proto::pf;
use crate::common::request::State;
use crate::common::{Rng, SECTOR};

/// Cuts of an ordinary test run.
const CUTS: u64 = 1000;

/// Cuts of one disk before the next one is made.
const CUTS_A_DISK: u64 = 125;

/// Of a thousand cuts so many are of each class at least.
const A_THOUSAND: u64 = 1000;

/// A number of the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text}")))
}

/// Says on a failure where it was.
pub(crate) struct Says(pub(crate) String);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.0);
        }
    }
}

/// What a cut is told to keep.
#[derive(Clone, Debug)]
enum Choice {
    All,
    Nothing,
    Lose(Vec<usize>),
    Keep(Vec<usize>),
    Seed(u64),
}

#[derive(Clone, Debug)]
struct Plan {
    choice: Choice,
    then: &'static str,
    at: Option<String>,
    stable_management: bool,
    way: Way,
    habits: Habits,
    too_late: u64,
}

impl Plan {
    fn random(rng: &mut Rng, worker: &Worker) -> Self {
        let shape = worker.rules.shape;
        let some = |rng: &mut Rng| {
            let zones: Vec<usize> = (0..shape.zones).filter(|_| rng.below(3) == 0).collect();
            if zones.is_empty() { vec![shape.zones - 1] } else { zones }
        };
        let choice = match rng.below(20) {
            0..3 => Choice::All,
            3 => Choice::Nothing,
            4..6 => Choice::Lose(some(rng)),
            6..8 => Choice::Keep(some(rng)),
            _ => Choice::Seed(rng.next() >> 12),
        };
        let mut habits = Habits::random(rng);
        let at = (rng.below(4) == 0).then(|| trigger(rng, worker, habits.steps as u64));
        habits.drained &= at.is_none();
        let then = match rng.below(100) {
            0 if at.is_none() => "exit",
            0..50 => "dead",
            _ => "fail",
        };
        let way = if then == "exit" { Way::NewDaemon } else { Way::random(rng, worker.rig.is_tracked()) };
        let stable_management = rng.below(16) == 0;
        Self { choice, then, at, stable_management, way, habits, too_late: rng.below(8).saturating_sub(5) }
    }

    fn fields(&self) -> Value {
        let mut fields = json!({ "then": self.then });
        let list = |zones: &[usize]| {
            let zones: Vec<String> = zones.iter().map(usize::to_string).collect();
            format!("zone:{}", zones.join(","))
        };
        match &self.choice {
            Choice::All => fields["lose"] = json!("all"),
            Choice::Nothing => fields["lose"] = json!("nothing"),
            Choice::Lose(zones) => fields["lose"] = json!(list(zones)),
            Choice::Keep(zones) => fields["keep"] = json!(list(zones)),
            Choice::Seed(seed) => fields["seed"] = json!(seed),
        }
        if let Some(at) = &self.at {
            fields["at"] = json!(at);
        }
        if self.stable_management {
            fields["mgmt"] = json!("stable");
        }
        fields
    }

    /// What must become of each zone. One that was kept for the sake of a limit may have lost less than it was told to.
    fn fates(&self, shape: &Shape, report: Option<&Value>) -> Vec<Fate> {
        let mended = report.map(mended);
        let fate = |zone: usize| {
            let pick = |zones: &[usize], inside, outside| if zones.contains(&zone) { inside } else { outside };
            let fate = match &self.choice {
                Choice::All => Fate::Lose,
                Choice::Nothing => Fate::Keep,
                Choice::Lose(zones) => pick(zones, Fate::Lose, Fate::Keep),
                Choice::Keep(zones) => pick(zones, Fate::Keep, Fate::Lose),
                Choice::Seed(_) => Fate::Any,
            };
            let may_be_mended = mended.as_ref().map_or(shape.active != 0, |mended| mended.contains(&zone));
            if fate == Fate::Lose && may_be_mended { Fate::Any } else { fate }
        };
        (0..shape.zones).map(fate).collect()
    }
}

fn trigger(rng: &mut Rng, worker: &Worker, steps: u64) -> String {
    let shape = worker.rules.shape;
    let kinds = if worker.rules.write_through { 1 } else { 6 };
    match rng.below(kinds) {
        0 => "mark:enough".to_owned(),
        1 | 2 => format!("request:{}", 1 + rng.below(steps)),
        3 => format!("flush:{}", 1 + rng.below(4)),
        4 => format!("flush:{}+{}", 1 + rng.below(3), 1 + rng.below(8)),
        _ if rng.below(2) == 0 => format!("bytes:{}", (1 + rng.below(32)) * 4096),
        _ => {
            let zone = shape.conv as u64 + rng.below(shape.sequential().len() as u64);
            // From the zone's start, where some write may reach it.
            format!("zone:{zone},wp>={}", (1 + rng.below(u64::from(shape.cap))) * 4096)
        }
    }
}

fn rows<'a>(report: &'a Value, field: &str) -> &'a [Value] {
    report[field].as_array().unwrap_or_else(|| panic!("a cut tells of no {field}: {report}"))
}

fn number_of(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {row}"))
}

/// Zones that a cut kept more of because of a limit.
fn mended(report: &Value) -> Vec<usize> {
    let mended = rows(report, "zones").iter().filter(|row| row["mended"] == true);
    mended.map(|row| number_of(row, "zone") as usize).collect()
}

/// What a cut said agrees with what was asked and with what was found.
fn check_report(report: &Value, plan: &Plan, shape: &Shape, sights: &[Sight], left: &Left) {
    let digest = report["digest"].as_str().unwrap_or_else(|| panic!("no digest: {report}"));
    assert!(!digest.is_empty() && digest.chars().all(|one| one.is_ascii_hexdigit()), "digest {digest:?}");
    match plan.choice {
        Choice::Seed(seed) => assert_eq!(report["seed"], json!(seed), "the seed of {report}"),
        _ => assert_eq!(report["seed"], Value::Null, "the seed of {report}"),
    }
    let mut torn = 0;
    for row in rows(report, "zones") {
        let zone = number_of(row, "zone") as usize;
        assert!(shape.sequential().contains(&zone), "a sequential zone: {row}");
        let sight = &sights[zone];
        let kept = number_of(row, "kept");
        let start = shape.sector(zone, 0) * SECTOR;
        let end = start + u64::from(shape.len) * 4096;
        torn += usize::from(row["torn"] == true);
        if sight.state == State::Full {
            assert!(kept > start && kept <= end, "a full zone: {row}");
        } else {
            assert_eq!(kept, start + sight.written * SECTOR, "what was kept of zone {zone}: {row}");
        }
        if matches!(plan.choice, Choice::Nothing) {
            // The furthest pointer that was accepted may be of an earlier life.
            assert!(kept <= number_of(row, "accepted"), "nothing is lost: {row}");
            let lost = ["resets_lost", "finishes_lost"].map(|field| number_of(row, field));
            assert_eq!(lost, [0, 0], "nothing is lost: {row}");
        }
        if matches!(plan.choice, Choice::All) && !plan.stable_management && row["mended"] != true {
            assert_eq!(row["kept"], row["stable"], "all is lost: {row}");
        }
    }
    let seen = left.classes.iter().filter(|class| **class == Class::TornWrite).count();
    assert!(torn >= seen, "{seen} zones are torn: {report}");
    for row in rows(report, "conventional") {
        assert!(number_of(row, "kept") <= number_of(row, "volatile"), "blocks of a conventional zone: {row}");
    }
}

fn geo(rng: &mut Rng, tight: bool) -> Geo {
    let geo = match rng.below(4) {
        0 => GEO,
        1 => Geo { size: 10 * 128 * KIB, zone: 128 * KIB, cap: 128 * KIB, conv: 1, ..GEO },
        2 => Geo { size: 8 * 512 * KIB, zone: 512 * KIB, cap: 384 * KIB, ..GEO },
        _ => Geo { size: 16 * 256 * KIB, cap: 256 * KIB, conv: 3, cluster: 4 * KIB, ..GEO },
    };
    if !tight {
        return geo;
    }
    let active = 2 + rng.below(3) as u32;
    Geo { active, open: 1 + rng.below(u64::from(active)) as u32, ..geo }
}

/// A disk for a number: engines, queues and limits in turn, all else at random.
fn disk(seed: u64, disk: u64) -> Worker {
    let rng = &mut Rng::new(mix(seed, disk, u64::MAX));
    let geo = geo(rng, disk / 4 % 2 == 1);
    let write_through = disk % 16 == 15;
    let small_cache = rng.below(4) == 0;
    let mut setup = Setup::new(geo).queues([1, 4][disk as usize % 2]).queue_size(256).memory(32 << 20);
    if disk / 2 % 2 == 1 {
        setup = setup.args(&["--aio", "sync"]);
    }
    if small_cache {
        setup = setup.args(&["--volatile-cache", "128K"]);
    } else {
        setup = setup.args(&["--volatile-cache"]);
    }
    // Past the page cache requests take their time, so that some are in flight when the power goes.
    if rng.below(2) == 0 {
        setup = setup.args(&["--cache", "none"]);
    }
    if write_through {
        setup = setup.without(feature::FLUSH | feature::CONFIG_WCE);
    }
    if rng.below(3) == 0 {
        setup = setup.without_protocol(pf::INFLIGHT_SHMFD);
    }
    let image = Image::create(&setup.geo);
    let rig = Rig::start_on(setup, image);
    let mut rules = Rules::new(Shape::new(&geo));
    (rules.write_through, rules.small_cache) = (write_through, small_cache);
    Worker::new(rig, rules)
}

/// One number of several.
fn mix(seed: u64, disk: u64, cut: u64) -> u64 {
    let mut rng = Rng::new(seed ^ disk.wrapping_mul(0x1_0000_0001) ^ cut.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    rng.next()
}

/// Whether files of a folder are in memory only.
fn is_in_memory(folder: &Path) -> bool {
    let path = CString::new(folder.as_os_str().as_bytes()).expect("a path");
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a path that ends in NUL and room for the structure.
    let done = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    assert_eq!(done, 0, "statfs of {}: {}", folder.display(), std::io::Error::last_os_error());
    // SAFETY: the call has filled it in.
    unsafe { found.assume_init() }.f_type == libc::TMPFS_MAGIC
}

/// Classes, each with how often it was seen.
type Counts = BTreeMap<Class, u64>;

/// One round, its cut, and the judgement.
fn cut(worker: &mut Worker, plan: &Plan, rng: &mut Rng, whole: bool, counts: &mut Counts) {
    let fields = plan.fields();
    worker.rules.stable_management = plan.stable_management;
    if plan.at.is_some() {
        let answer = worker.rig.cut(&fields);
        assert_eq!(answer["armed"], true, "{fields}: {answer}");
        worker.armed = Some(fields.clone());
    }
    worker.round(rng, &plan.habits);
    let mut report = None;
    if let Some(at) = &plan.at {
        worker.provoke(at);
        if worker.is_off {
            report = Some(worker.rig.power().expect("the daemon runs")["last_cut"].clone());
        }
    }
    if !worker.is_off {
        // At once: also where what was waited for has not come, or comes just now.
        let mut now = fields.clone();
        now.as_object_mut().expect("fields").remove("at");
        report = if plan.then == "exit" {
            Some(worker.rig.cut_and_exit(&now))
        } else {
            worker.rig.try_cut(&now).or_else(|error| worker.await_cut(&error)).ok()
        };
    }
    if plan.then == "fail" {
        worker.assert_all_fail();
    } else {
        worker.is_off = true;
        worker.sweep();
    }
    if plan.then != "exit" {
        (0..plan.too_late).for_each(|_| worker.ask_too_late(rng, plan.then == "fail"));
    }
    worker.rig.power_on(plan.way);

    let Worker { rig, rules, .. } = worker;
    let sights = rig.look(|zone| whole || rules.is_touched(zone));
    let fates = plan.fates(&rules.shape, report.as_ref());
    let left = match rules.judge(&sights, &fates) {
        Ok(left) => left,
        Err(broken) => panic!("a rule is broken:{broken}\n    the cut: {fields}\n    what it says: {report:?}"),
    };
    if let Some(report) = &report {
        check_report(report, plan, &rules.shape, &sights, &left);
        let mended = mended(report);
        assert!(mended.is_empty() || rules.shape.active != 0, "mended without a limit: {report}");
        *counts.entry(Class::LimitMended).or_default() += u64::from(!mended.is_empty());
    }
    for class in &left.classes {
        *counts.entry(*class).or_default() += 1;
    }
    worker.go_on_from(&left);
}

fn cuts_of_disk(seed: u64, number: u64, cuts: u64, done: &AtomicU64, wanted: u64) -> Counts {
    let mut says = Says(format!("POWER_SEED={seed} POWER_DISK={number}"));
    let mut worker = disk(seed, number);
    let mut counts = Counts::new();
    for at in 0..cuts {
        let rng = &mut Rng::new(mix(seed, number, at));
        let plan = Plan::random(rng, &worker);
        says.0 = format!(
            "POWER_SEED={seed} POWER_DISK={number}: cut {at}, {plan:?}, write-through {}, {:?}",
            worker.rules.write_through, worker.rig.disk.setup
        );
        cut(&mut worker, &plan, rng, at % 8 == 0, &mut counts);
        let total = done.fetch_add(1, Ordering::Relaxed) + 1;
        if total.is_multiple_of(5000) && wanted > 5000 {
            // Not to what a test's output is collected in.
            let _ = writeln!(std::io::stderr(), "{total} of {wanted} cuts");
        }
    }
    assert!(worker.refused * 2 <= worker.submitted, "{} of {} were refused", worker.refused, worker.submitted);
    worker.rig.finish();
    counts
}

#[test]
fn whatever_a_cut_leaves_keeps_all_rules_and_each_class_of_losses_is_seen() {
    let seed = number("POWER_SEED").unwrap_or(1);
    let wanted = number("POWER_CUTS").unwrap_or(CUTS);
    if let Some(disk) = number("POWER_DISK") {
        let counts = cuts_of_disk(seed, disk, wanted.min(CUTS_A_DISK), &AtomicU64::new(0), wanted);
        return println!("disk {disk}: {counts:?}");
    }
    let (next, done, broken) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let go_on = number("POWER_GO_ON").is_some_and(|number| number != 0);
    let work = || {
        let mut counts = Counts::new();
        loop {
            let disk = next.fetch_add(1, Ordering::Relaxed);
            let cuts = wanted.saturating_sub(disk * CUTS_A_DISK).min(CUTS_A_DISK);
            if cuts == 0 {
                return counts;
            }
            let run = || cuts_of_disk(seed, disk, cuts, &done, wanted);
            let result = if go_on { std::panic::catch_unwind(run) } else { Ok(run()) };
            broken.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
            for (class, count) in result.unwrap_or_default() {
                *counts.entry(class).or_default() += count;
            }
        }
    };
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..number("POWER_THREADS").unwrap_or(2)).map(|_| scope.spawn(work)).collect();
        let mut all = Counts::new();
        for thread in threads {
            let counts = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counts.into_iter().for_each(|(class, count)| *all.entry(class).or_default() += count);
        }
        all
    });
    println!("{wanted} cuts: {counts:?}");
    assert_eq!(broken.into_inner(), 0, "disks on which a rule was broken: see above");
    let least = (wanted / A_THOUSAND).max(1);
    for class in Class::ALL {
        if class == Class::KeptInFlight && is_in_memory(&std::env::temp_dir()) {
            println!("on tmpfs nothing is in flight when the power goes: set TMPDIR");
            continue;
        }
        let seen = counts.get(&class).copied().unwrap_or(0);
        assert!(seen >= least, "{class:?} was seen {seen} times in {wanted} cuts, expected {least}: {counts:?}");
    }
}
