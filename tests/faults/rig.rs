//! A served disk with its control socket and its file of rules.

use serde_json::{Value, json};

use crate::common::SECTOR;
use crate::common::cli::{Geo, Image, TWELVE};
use crate::common::control::Control;
use crate::common::disk::{Disk, Setup};
use crate::common::model::pattern;
use crate::common::request::{Req, State, Status, Zone};

/// A block of the disk.
pub(crate) const BLOCK: u64 = 4096;

/// The shape of the disk.
pub(crate) const GEO: Geo = TWELVE;

/// The disk.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) disk: Disk,
    control: Control,
}

impl Rig {
    /// A disk of the usual shape that keeps its rules in a file.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(Setup::new(GEO))
    }

    #[track_caller]
    pub(crate) fn start_with(setup: Setup) -> Self {
        let image = Image::create(&setup.geo);
        Self::start_on(setup, image)
    }

    #[track_caller]
    pub(crate) fn start_on(setup: Setup, image: Image) -> Self {
        let (control, rules) = (image.beside_name("control"), image.beside_name("rules"));
        let path = image.beside("control");
        let disk = setup.args(&["--control-path", &control, "--faults", &rules]).start_on(image);
        Self { disk, control: Control::connect(&path) }
    }

    /// The daemon was started anew.
    #[track_caller]
    pub(crate) fn connect_control(&mut self) {
        self.control = Control::connect(&self.disk.image.beside("control"));
    }

    #[track_caller]
    pub(crate) fn try_ask(&mut self, command: &Value) -> Result<Value, String> {
        self.control.ask(command).expect("the daemon has ended")
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Adds a rule: words as on the command line, `on write --zone 3 do hang`.
    #[track_caller]
    pub(crate) fn add(&mut self, name: &str, words: &str) {
        let rule = rule(name, words);
        self.ask(&json!({"cmd": "fault-add", "rule": rule}));
    }

    pub(crate) fn try_add(&mut self, name: &str, words: &str) -> Result<Value, String> {
        let rule = rule(name, words);
        self.try_ask(&json!({"cmd": "fault-add", "rule": rule}))
    }

    #[track_caller]
    pub(crate) fn clear(&mut self, name: &str) {
        self.ask(&json!({"cmd": "fault-clear", "name": name}));
    }

    #[track_caller]
    pub(crate) fn clear_all(&mut self) {
        self.ask(&json!({"cmd": "fault-clear"}));
    }

    #[track_caller]
    pub(crate) fn release(&mut self, name: &str) {
        self.ask(&json!({"cmd": "fault-release", "name": name}));
    }

    #[track_caller]
    pub(crate) fn list(&mut self) -> Value {
        self.ask(&json!({"cmd": "fault-list"}))
    }

    /// Has zones back at once.
    #[track_caller]
    pub(crate) fn restore_now(&mut self, zones: &str) {
        let rule = json!({"name": "back", "zone": zones, "do": "zone-state=restore"});
        self.ask(&json!({"cmd": "fault-add", "rule": rule, "now": true}));
    }

    /// How often a rule has acted, and how many requests it was about.
    #[track_caller]
    pub(crate) fn acted(&mut self, name: &str) -> (u64, u64) {
        let list = self.list();
        let rule = list["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name).cloned();
        let progress = rule.unwrap_or_else(|| panic!("no rule {name}: {list}"))["progress"].clone();
        (progress["acted"].as_u64().unwrap(), progress["matched"].as_u64().unwrap())
    }

    /// Requests that a rule holds back.
    #[track_caller]
    pub(crate) fn held(&mut self, name: &str) -> u64 {
        let list = self.list();
        let rule = list["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name).cloned();
        rule.unwrap_or_else(|| panic!("no rule {name}: {list}"))["progress"]["held"].as_u64().unwrap()
    }

    /// Open and active zones as the daemon counts them, and as the report shows them.
    #[track_caller]
    pub(crate) fn assert_slots(&mut self, context: &str) {
        let zones = self.disk.zones();
        let stats = self.ask(&json!({"cmd": "stats"}));
        let open = zones.iter().filter(|zone| is_open(zone)).count() as u64;
        let active = zones.iter().filter(|zone| is_open(zone) || zone.state == State::Closed).count() as u64;
        assert_eq!(stats["open_zones"], open, "{context}: open zones");
        assert_eq!(stats["active_zones"], active, "{context}: active zones");
    }
}

fn is_open(zone: &Zone) -> bool {
    matches!(zone.state, State::ImplicitOpen | State::ExplicitOpen)
}

/// The JSON of a rule in words.
fn rule(name: &str, words: &str) -> Value {
    let mut rule = json!({"name": name});
    let (options, action) = words.split_once("do ").unwrap_or_else(|| panic!("no action: {words}"));
    let options: Vec<&str> = options.split_whitespace().collect();
    for pair in options.chunks(2) {
        rule[pair[0]] = match pair[0] {
            "queue" | "nth" | "every" | "seed" | "count" => json!(pair[1].parse::<u64>().unwrap()),
            _ => json!(pair[1]),
        };
    }
    rule["do"] = json!(action);
    rule
}

/// Blocks of recognisable bytes.
pub(crate) fn blocks(seed: u64, count: u64) -> Vec<u8> {
    pattern(seed, 0, (count * BLOCK) as usize)
}

/// The sector of a block of a zone.
pub(crate) fn at(zone: usize, block: u64) -> u64 {
    GEO.start(zone) + block * BLOCK / SECTOR
}

/// A write of blocks at a block of a zone.
pub(crate) fn write(zone: usize, block: u64, seed: u64, count: u64) -> Req {
    Req::write(at(zone, block), blocks(seed, count))
}

/// The status of a request on the first queue.
#[track_caller]
pub(crate) fn status(rig: &mut Rig, req: &Req) -> Status {
    rig.disk.call(req).status
}
