//! Operation x state of the zone x how much lands: each case over the ring. What is expected is told here from the state before, by the
//! specification and the rules of faults: a request that the device refuses anyway is refused by it, and nothing lands of it; of
//! others so much lands as is said, and the answer is the error.

use crate::common::request::{Req, State, Status};
use crate::library::Library;
use crate::rig::{BLOCK, GEO, Rig, at, blocks, write};

/// The zone of the cases, and the conventional one.
const ZONE: usize = 5;
const CONVENTIONAL: usize = 1;
/// Blocks written before, and by a request.
const BEFORE: u64 = 4;
const COUNT: u64 = 8;
/// Blocks that a zone can have.
const ALL: u64 = GEO.cap / BLOCK;

/// A disk that the cases are met by: over the ring, or in this process.
pub(crate) trait Target {
    fn ask(&mut self, req: &Req) -> Status;
    fn bytes(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, Status>;
    /// State and write pointer of a zone.
    fn zone(&mut self, zone: usize) -> (State, u64);
    fn add(&mut self, name: &str, words: &str);
    fn clear(&mut self, name: &str);
    /// How often a rule has acted, and how many requests it was about.
    fn acted(&mut self, name: &str) -> (u64, u64);
    fn restore_now(&mut self, zone: usize);
    /// The open and active zones are counted as the report shows them.
    fn assert_slots(&mut self, context: &str);
}

impl Target for Rig {
    fn ask(&mut self, req: &Req) -> Status {
        self.disk.call(req).status
    }

    fn bytes(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, Status> {
        self.disk.read(sector, len)
    }

    fn zone(&mut self, zone: usize) -> (State, u64) {
        let zone = self.disk.zone(zone);
        (zone.state, zone.wp)
    }

    fn add(&mut self, name: &str, words: &str) {
        Rig::add(self, name, words);
    }

    fn clear(&mut self, name: &str) {
        Rig::clear(self, name);
    }

    fn acted(&mut self, name: &str) -> (u64, u64) {
        Rig::acted(self, name)
    }

    fn restore_now(&mut self, zone: usize) {
        Rig::restore_now(self, &zone.to_string());
    }

    fn assert_slots(&mut self, context: &str) {
        Rig::assert_slots(self, context);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read,
    Write,
    Append,
    Flush,
    Report,
    Open,
    Close,
    Finish,
    Reset,
    ResetAll,
}

const OPS: [(Op, &str); 10] = [
    (Op::Read, "read"),
    (Op::Write, "write"),
    (Op::Append, "append"),
    (Op::Flush, "flush"),
    (Op::Report, "report"),
    (Op::Open, "open"),
    (Op::Close, "close"),
    (Op::Finish, "finish"),
    (Op::Reset, "reset"),
    (Op::ResetAll, "reset-all"),
];

const STATES: [State; 8] = [
    State::NotWp,
    State::Empty,
    State::ImplicitOpen,
    State::ExplicitOpen,
    State::Closed,
    State::Full,
    State::ReadOnly,
    State::Offline,
];

const FAILURES: [(&str, Status); 6] = [
    ("ioerr", Status::IoErr),
    ("unsupp", Status::Unsupp),
    ("invalid", Status::InvalidCmd),
    ("unaligned", Status::UnalignedWp),
    ("open-resource", Status::OpenResource),
    ("active-resource", Status::ActiveResource),
];

fn zone_of(state: State) -> usize {
    if state == State::NotWp { CONVENTIONAL } else { ZONE }
}

/// Blocks below the pointer of a zone that was brought into a state.
fn written(state: State) -> u64 {
    match state {
        State::Empty => 0,
        State::Full => ALL,
        _ => BEFORE,
    }
}

/// Brings the zone into a state: four blocks written, but where that is not the state's.
fn prepare(disk: &mut impl Target, state: State) {
    let zone = zone_of(state);
    let four = write(zone, 0, 7, BEFORE);
    let mut steps = vec![];
    match state {
        State::Empty => {}
        State::ExplicitOpen => steps.extend([Req::open(at(zone, 0)), four]),
        State::Closed => steps.extend([four, Req::close(at(zone, 0))]),
        State::Full => steps.extend([four, Req::finish(at(zone, 0))]),
        State::NotWp | State::ImplicitOpen | State::ReadOnly | State::Offline => steps.push(four),
    }
    for step in steps {
        assert_eq!(disk.ask(&step), Status::Ok, "{state:?}");
    }
    match state {
        State::ReadOnly => disk.add("state", &format!("zone {zone} do zone-state=read-only")),
        State::Offline => disk.add("state", &format!("zone {zone} do zone-state=offline")),
        _ => {}
    }
}

fn request(op: Op, state: State) -> Req {
    let zone = zone_of(state);
    let start = at(zone, 0);
    match op {
        Op::Read => Req::read(start, (COUNT * BLOCK) as usize),
        Op::Write => write(zone, if state == State::NotWp { 0 } else { written(state) }, 9, COUNT),
        Op::Append => Req::append(start, blocks(9, COUNT)),
        Op::Flush => Req::flush(),
        Op::Report => Req::report(start, 64 + 64),
        Op::Open => Req::open(start),
        Op::Close => Req::close(start),
        Op::Finish => Req::finish(start),
        Op::Reset => Req::reset(start),
        Op::ResetAll => Req::reset_all(),
    }
}

/// What the device answers without a rule.
fn by_itself(op: Op, state: State) -> Status {
    let ok = match op {
        Op::Flush | Op::Report | Op::ResetAll => true,
        Op::Read => state != State::Offline,
        Op::Write => !matches!(state, State::Full | State::ReadOnly | State::Offline),
        Op::Append => !matches!(state, State::NotWp | State::Full | State::ReadOnly | State::Offline),
        Op::Open => !matches!(state, State::NotWp | State::Full | State::ReadOnly | State::Offline),
        Op::Close => matches!(state, State::ImplicitOpen | State::ExplicitOpen | State::Closed),
        Op::Finish | Op::Reset => !matches!(state, State::NotWp | State::ReadOnly | State::Offline),
    };
    if ok { Status::Ok } else { Status::InvalidCmd }
}

/// How much of a write lands.
fn landing(landed: &str) -> u64 {
    match landed {
        "0" => 0,
        "1" => 1,
        "half" => COUNT / 2,
        _ => COUNT,
    }
}

/// State and written blocks after a request of which so much was done.
fn after(op: Op, state: State, landed: &str) -> (State, u64) {
    let before = (state, written(state));
    if landing(landed) == 0 || by_itself(op, state) != Status::Ok {
        return before;
    }
    match (op, state) {
        (Op::Write | Op::Append, State::NotWp) => before,
        (Op::Write | Op::Append, State::ExplicitOpen) => (state, before.1 + landing(landed)),
        (Op::Write | Op::Append, _) => (State::ImplicitOpen, before.1 + landing(landed)),
        (Op::Open, _) => (State::ExplicitOpen, before.1),
        (Op::Close, _) => (State::Closed, before.1),
        (Op::Finish, _) => (State::Full, ALL),
        (Op::Reset, _) => (State::Empty, 0),
        (Op::ResetAll, State::NotWp | State::ReadOnly | State::Offline) => before,
        (Op::ResetAll, _) => (State::Empty, 0),
        (Op::Read | Op::Flush | Op::Report, _) => before,
    }
}

/// The first twelve blocks of the zone after a request.
fn bytes_after(op: Op, state: State, landed: &str) -> Vec<u8> {
    let mut bytes = vec![0; (BEFORE + COUNT) as usize * BLOCK as usize];
    let mut put = |block: u64, data: &[u8]| {
        let from = (block * BLOCK) as usize;
        bytes[from..from + data.len()].copy_from_slice(data);
    };
    let (end, count) = (after(op, state, landed), landing(landed));
    if end.1 != 0 && (end.1 >= BEFORE) {
        put(0, &if state == State::Empty { vec![] } else { blocks(7, BEFORE) });
    }
    let lands = matches!(op, Op::Write | Op::Append) && by_itself(op, state) == Status::Ok;
    if lands {
        let place = if state == State::NotWp { 0 } else { written(state) };
        put(place, &blocks(9, COUNT)[..(count * BLOCK) as usize]);
    }
    bytes
}

/// One case: the rule is added, met, cleared; then everything is looked at.
fn case(disk: &mut impl Target, (op, name): (Op, &str), state: State, landed: &str, (error, failed): (&str, Status)) {
    let context = format!("{name} in {state:?}, {error} landed={landed}");
    let zone = zone_of(state);
    assert_eq!(disk.ask(&Req::reset_all()), Status::Ok, "{context}");
    let zeros = vec![0; ((BEFORE + COUNT) * BLOCK) as usize];
    assert_eq!(disk.ask(&Req::write(at(CONVENTIONAL, 0), zeros.clone())), Status::Ok, "{context}");
    prepare(disk, state);
    disk.add("x", &format!("on {name} do error={error} landed={landed}"));
    let answer = disk.ask(&request(op, state));
    let acted = disk.acted("x");
    disk.clear("x");

    let natural = by_itself(op, state);
    let expected = if landing(landed) == 0 || natural == Status::Ok { failed } else { natural };
    assert_eq!(answer, expected, "{context}");
    assert_eq!(acted, (1, 1), "{context}");
    let (state_now, pointer_now) = disk.zone(zone);
    let (state_after, blocks_after) = after(op, state, landed);
    assert_eq!(state_now, state_after, "{context}");
    if state != State::NotWp {
        assert_eq!(pointer_now, at(zone, blocks_after), "{context}");
    }
    disk.assert_slots(&context);
    if matches!(state, State::ReadOnly | State::Offline) {
        disk.restore_now(zone);
        assert_eq!(disk.zone(zone), (State::Closed, at(zone, BEFORE)), "{context}, restored");
    }
    let bytes = disk.bytes(at(zone, 0), zeros.len());
    assert!(bytes == Ok(bytes_after(op, state, landed)), "{context}: the bytes are others");
    if !matches!(state_after, State::NotWp | State::Full) {
        let next = write(zone, blocks_after, 11, 1);
        assert_eq!(disk.ask(&next), Status::Ok, "{context}: the next write");
    }
}

fn all_cases(disk: &mut impl Target) {
    let mut cases = 0;
    for (number, op) in OPS.into_iter().enumerate() {
        let lands: &[&str] = match op.0 {
            Op::Write | Op::Append => &["0", "1", "half", "all"],
            _ => &["0", "all"],
        };
        for (turn, state) in STATES.into_iter().enumerate() {
            for landed in lands {
                // Each failure with each operation, and three with each case.
                for failure in 0..3 {
                    case(disk, op, state, landed, FAILURES[(number + turn + 2 * failure) % FAILURES.len()]);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 3 * 8 * (2 * 4 + 8 * 2));
}

#[test]
fn each_operation_fails_as_told_in_each_state_with_as_much_done_as_told() {
    let mut rig = Rig::start();
    all_cases(&mut rig);
    rig.disk.finish_clean();
}

#[test]
fn each_operation_of_a_disk_in_this_process_fails_as_told() {
    all_cases(&mut Library::new());
}
