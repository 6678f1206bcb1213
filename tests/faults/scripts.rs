//! Random rules and requests, then no rule any more: what can be read is what was answered, whatever the rules have done meanwhile.

use crate::common::Rng;
use crate::common::request::{Req, State, Status};
use crate::rig::{BLOCK, GEO, Rig, at, blocks, write};

/// What a zone is to hold: its content, and its pointer as a number of blocks.
#[derive(Clone)]
struct Expected {
    content: Vec<u8>,
    pointer: u64,
}

const CAPACITY: u64 = GEO.cap / BLOCK;

struct Script {
    rng: Rng,
    zones: Vec<Expected>,
    seed: u64,
}

impl Script {
    fn rule(&mut self) -> (String, String) {
        let rng = &mut self.rng;
        let which = *rng.pick(&["", "every 2 ", "every 3 ", "nth 2 ", "prob 0.5 seed 3 ", "count 4 "]);
        let first = 2 + rng.below(10);
        let place = match rng.below(3) {
            0 => String::new(),
            1 => format!("zone {first} "),
            _ => format!("zone 2-{first} "),
        };
        let error = *rng.pick(&["ioerr", "unsupp", "invalid", "unaligned", "open-resource", "active-resource"]);
        let landed = *rng.pick(&["0", "1", "half", "all", "random"]);
        let any = *rng.pick(&["read", "write", "append", "flush", "report", "open", "close", "finish", "reset", "any"]);
        let words = match rng.below(8) {
            0 | 1 => format!("on write,append {place}{which}do error={error} landed={landed}"),
            2 => format!("on {any} {which}do error={error}"),
            3 => format!("on read {place}{which}do corrupt=flip:{}", 1 + rng.below(50)),
            4 => format!("on read {place}{which}do unreadable"),
            5 => format!("on {any} {which}do delay=uniform:1us-900us {}", rng.pick(&["before", "after"])),
            6 => format!("on finish,reset {which}do error={error} landed=all"),
            _ => format!(
                "on any zone {first} nth {} do zone-state={}",
                1 + rng.below(4),
                rng.pick(&["read-only", "offline"])
            ),
        };
        (format!("rule {}", rng.below(1 << 40)), words)
    }

    fn request(&mut self) -> (usize, Req, u64) {
        let zone = self.rng.below(12) as usize;
        let pointer = self.zones[zone].pointer;
        let count = 1 + self.rng.below(4);
        self.seed += 1;
        let start = at(zone, 0);
        let req = match self.rng.below(12) {
            0..5 if zone < 2 => write(zone, self.rng.below(40), self.seed, count),
            0..3 => write(zone, pointer, self.seed, count),
            3 | 4 => Req::append(start, blocks(self.seed, count)),
            5 => Req::flush(),
            6 => Req::open(start),
            7 => Req::close(start),
            8 => Req::reset(start),
            9 if self.rng.below(4) == 0 => Req::finish(start),
            _ => Req::read(at(zone, self.rng.below(40)), BLOCK as usize),
        };
        (zone, req, count)
    }

    /// Takes over what a request has done, of which only the answer is known, and of one that failed the zone's pointer.
    fn note(&mut self, rig: &mut Rig, zone: usize, req: &Req, answer: Status) {
        use crate::common::request::kind;
        let is_write = matches!(req.kind, kind::OUT | kind::ZONE_APPEND);
        let context = format!("zone {zone}, {answer:?}");
        if zone < 2 {
            if is_write && req.kind == kind::OUT {
                let from = ((req.sector - at(zone, 0)) * 512) as usize;
                if answer == Status::Ok {
                    self.zones[zone].content[from..from + req.out.len()].copy_from_slice(&req.out);
                    return;
                }
                // Of a failed write any blocks from the front may be there.
                let read = peek(rig, req.sector, req.out.len());
                let same = |block: usize, of: &[u8]| read[block * 4096..][..4096] == of[block * 4096..][..4096];
                let old = self.zones[zone].content[from..from + req.out.len()].to_vec();
                let landed = (0..req.out.len() / 4096).take_while(|block| same(*block, &req.out)).count();
                assert!((landed..req.out.len() / 4096).all(|block| same(block, &old)), "{context}");
                self.zones[zone].content[from..from + req.out.len()].copy_from_slice(&read);
            }
            return;
        }
        let now = now(rig, zone);
        let expected = &mut self.zones[zone];
        let pointer = (now.1 - at(zone, 0)) / 8;
        match req.kind {
            kind::OUT | kind::ZONE_APPEND => {
                let most = expected.pointer + req.out.len() as u64 / BLOCK;
                assert!((expected.pointer..=most).contains(&pointer), "{context}: {pointer}");
                assert!(answer != Status::Ok || pointer == most, "{context}: {pointer} of {most}");
                let (from, bytes) =
                    ((expected.pointer * BLOCK) as usize, ((pointer - expected.pointer) * BLOCK) as usize);
                expected.content[from..from + bytes].copy_from_slice(&req.out[..bytes]);
            }
            kind::ZONE_RESET if pointer == 0 => expected.content.fill(0),
            kind::ZONE_RESET => assert_ne!(answer, Status::Ok, "{context}"),
            kind::ZONE_FINISH => assert!(answer != Status::Ok || pointer == CAPACITY, "{context}"),
            _ => assert_eq!(pointer, expected.pointer, "{context}"),
        }
        expected.pointer = pointer;
    }
}

/// State and pointer of a zone, as the control socket tells them, which no rule is about.
fn now(rig: &mut Rig, zone: usize) -> (String, u64) {
    let report = rig.ask(&serde_json::json!({"cmd": "report", "first": zone, "count": 1}));
    let row = &report["zones"][0];
    (row["state"].as_str().unwrap().to_owned(), row["write_pointer"].as_u64().unwrap() / 512)
}

/// What is on the disk, without rules.
fn peek(rig: &mut Rig, sector: u64, len: usize) -> Vec<u8> {
    let list = rig.list();
    rig.clear_all();
    let read = rig.disk.read(sector, len).unwrap();
    for rule in list["rules"].as_array().unwrap() {
        let mut rule = rule.clone();
        rule.as_object_mut().unwrap().remove("progress");
        rig.ask(&serde_json::json!({"cmd": "fault-add", "rule": rule}));
    }
    read
}

fn script(rig: &mut Rig, seed: u64) {
    let empty = Expected { content: vec![0; (CAPACITY * BLOCK) as usize], pointer: 0 };
    let mut script = Script { rng: Rng::new(seed), zones: vec![empty.clone(); 12], seed: seed << 20 };
    assert_eq!(rig.disk.reset_all(), Status::Ok);
    for zone in 0..2 {
        assert_eq!(rig.disk.write(at(zone, 0), &empty.content), Status::Ok);
    }
    for _ in 0..40 {
        if script.rng.below(5) == 0 {
            let (name, words) = script.rule();
            rig.add(&name, &words);
        }
        let (zone, req, _) = script.request();
        let answer = rig.disk.call(&req).status;
        script.note(rig, zone, &req, answer);
        if script.rng.below(12) == 0 {
            rig.clear_all();
        }
    }
    rig.clear_all();
    rig.restore_now("2-11");
    for (zone, expected) in script.zones.iter().enumerate() {
        let read = rig.disk.read(at(zone, 0), expected.content.len()).unwrap();
        assert!(read == expected.content, "script {seed}: zone {zone} holds something else");
        if zone >= 2 {
            let now = rig.disk.zone(zone);
            assert_eq!((now.wp - at(zone, 0)) / 8, expected.pointer, "script {seed}: zone {zone}");
            assert!(!matches!(now.state, State::ReadOnly | State::Offline), "script {seed}: zone {zone}");
        }
    }
    rig.assert_slots(&format!("script {seed}"));
}

#[test]
fn nothing_is_destroyed_by_rules() {
    let scripts: u64 = std::env::var("FAULT_SCRIPTS").map_or(60, |scripts| scripts.parse().unwrap());
    let from: u64 = std::env::var("FAULT_SEED").map_or(0, |seed| seed.parse().unwrap());
    let mut rig = Rig::start();
    (from..from + scripts).for_each(|seed| script(&mut rig, seed));
    rig.disk.finish_clean();
    eprintln!("{scripts} scripts");
}
