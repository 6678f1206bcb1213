//! Operation x state of the zone x how much lands: each case over the ring. What is expected is told here from the state before, by the
//! specification and the rules of faults: a request that the device refuses anyway is refused by it, and nothing lands of it; of
//! others so much lands as is said, and the answer is the error.

use crate::common::request::{Req, State, Status};
use crate::rig::{BLOCK, GEO, Rig, at, blocks, status, write};

/// The zone of the cases, and the conventional one.
const ZONE: usize = 5;
const CONVENTIONAL: usize = 1;
/// Blocks written before, and by a request.
const BEFORE: u64 = 4;
const COUNT: u64 = 8;
/// Blocks that a zone can have.
const ALL: u64 = GEO.cap / BLOCK;

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
fn prepare(rig: &mut Rig, state: State) {
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
        assert_eq!(status(rig, &step), Status::Ok, "{state:?}");
    }
    match state {
        State::ReadOnly => rig.add("state", &format!("zone {zone} do zone-state=read-only")),
        State::Offline => rig.add("state", &format!("zone {zone} do zone-state=offline")),
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
fn case(rig: &mut Rig, (op, name): (Op, &str), state: State, landed: &str, (error, failed): (&str, Status)) {
    let context = format!("{name} in {state:?}, {error} landed={landed}");
    let zone = zone_of(state);
    assert_eq!(rig.disk.reset_all(), Status::Ok, "{context}");
    let zeros = vec![0; ((BEFORE + COUNT) * BLOCK) as usize];
    assert_eq!(rig.disk.write(at(CONVENTIONAL, 0), &zeros), Status::Ok, "{context}");
    prepare(rig, state);
    rig.add("x", &format!("on {name} do error={error} landed={landed}"));
    let answer = status(rig, &request(op, state));
    let acted = rig.acted("x");
    rig.clear("x");

    let natural = by_itself(op, state);
    let expected = if landing(landed) == 0 || natural == Status::Ok { failed } else { natural };
    assert_eq!(answer, expected, "{context}");
    assert_eq!(acted, (1, 1), "{context}");
    let now = rig.disk.zone(zone);
    let (state_after, blocks_after) = after(op, state, landed);
    let pointer = if state == State::NotWp { None } else { Some(at(zone, blocks_after)) };
    assert_eq!(now.state, state_after, "{context}");
    if let Some(pointer) = pointer {
        assert_eq!(now.wp, pointer, "{context}");
    }
    rig.assert_slots(&context);
    if matches!(state, State::ReadOnly | State::Offline) {
        rig.restore_now(&zone.to_string());
        let back = rig.disk.zone(zone);
        assert_eq!((back.state, back.wp), (State::Closed, at(zone, BEFORE)), "{context}, restored");
    }
    let bytes = rig.disk.read(at(zone, 0), zeros.len());
    assert!(bytes == Ok(bytes_after(op, state, landed)), "{context}: the bytes are others");
    if !matches!(state_after, State::NotWp | State::Full) {
        let next = write(zone, blocks_after, 11, 1);
        assert_eq!(status(rig, &next), Status::Ok, "{context}: the next write");
    }
}

#[test]
fn each_operation_fails_as_told_in_each_state_with_as_much_done_as_told() {
    let mut rig = Rig::start();
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
                    case(&mut rig, op, state, landed, FAILURES[(number + turn + 2 * failure) % FAILURES.len()]);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 3 * 8 * (2 * 4 + 8 * 2));
    rig.disk.finish_clean();
}
