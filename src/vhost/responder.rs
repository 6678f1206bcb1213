//! What the clients of the control socket are told of a device.

use std::fs::File;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use vmm_sys_util::eventfd::EventFd;

use super::host::Host;
use super::options::{CacheMode, ServeOptions};
use super::snapshot;
use crate::control::server::{Later, Responder};
use crate::control::{Command, MAX_CELLS, MAX_REPORTED, Snapshot, ZoneRow, Zones};
use crate::device::Device;
use crate::device::standstill::{Check, Failure, Order, Outcome};
use crate::fault::{Done, Faults};
use crate::io::Files;
use crate::logging;
use crate::observe::info::{Info, PowerInfo};
use crate::observe::metrics;
use crate::observe::summary::Summary;
use crate::observe::versioned;
use crate::power::{Commanded, CutError, CutOutcome, PowerStatus, Then, VolatileCache, Words};
use crate::store::{ZoneInfo, ZonedDevice};
use crate::units::ZoneIndex;

/// How long a client waits for a power cut, for which what is in flight has to come to its end.
const CUT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client waits for a rule, which may wait for the requests of a zone.
const FAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Zones looked at in one go.
const CHUNK: usize = 256;

/// A device, to those who ask.
pub(super) struct DeviceResponder {
    device: Arc<Device>,
    files: Arc<Files>,
    stop: Arc<EventFd>,
    info: Info,
}

impl DeviceResponder {
    /// `stop` is fired when a client says so.
    pub(super) fn new(
        host: &Host,
        stop: &EventFd,
        (image, bases): (String, Vec<String>),
        options: &ServeOptions,
    ) -> io::Result<Self> {
        let device = Arc::clone(&host.device);
        let geometry = device.disk.geometry();
        let info = Info {
            image,
            bases,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            virtual_size: geometry.size().0,
            zone_size: geometry.zone_size().0,
            zone_capacity: geometry.zone_capacity().0,
            nr_zones: geometry.nr_zones(),
            conventional_zones: geometry.conventional_zones(),
            max_open_zones: geometry.max_open_zones(),
            max_active_zones: geometry.max_active_zones(),
            max_append_bytes: device.identity.max_append.0,
            block_size: options.block_size,
            num_queues: options.num_queues,
            cache: match options.cache {
                CacheMode::Writeback => "writeback".to_owned(),
                CacheMode::None => "none".to_owned(),
                CacheMode::Writethrough => "writethrough".to_owned(),
            },
            poll_us: u64::try_from(options.poll.as_micros()).unwrap_or(u64::MAX),
            read_only: options.read_only || device.disk.read_only(),
            serial: options.serial.clone(),
            frontend: false,
            zoned_negotiated: false,
            power: None,
        };
        Ok(Self { device, files: Arc::clone(&host.files), stop: Arc::new(stop.try_clone()?), info })
    }

    fn info(&self) -> Info {
        let (frontend, zoned_negotiated) = (self.device.counts.has_frontend(), self.device.zoned());
        let power =
            |cache: &VolatileCache| PowerInfo { now: cache.status(), last_cut: cache.last_cut().map(versioned) };
        // Without a cache the power goes with a revert alone.
        let off = PowerStatus { state: "off".to_owned(), at: None, volatile_bytes: 0 };
        let off = self.device.switch.power().is_off().then_some(PowerInfo { now: off, last_cut: None });
        let power = self.device.cache.as_deref().map(power).or(off);
        Info { frontend, zoned_negotiated: frontend && zoned_negotiated, power, ..self.info.clone() }
    }

    fn report(&self, first: u32, count: u32) -> Result<Zones, String> {
        let nr_zones = self.info.nr_zones;
        if first >= nr_zones {
            return Err(format!("first is {first}: expected a zone below {nr_zones}"));
        }
        let wanted = count.min(nr_zones - first);
        let part = wanted.min(MAX_REPORTED);
        let zones = zones_of(&*self.device.disk, first).take(part as usize);
        let next = (part < wanted).then_some(first + part);
        let stable = |zone: &ZoneInfo| self.device.cache.as_ref()?.stable_pointer(zone.index);
        let row = |zone: ZoneInfo| ZoneRow {
            stable_write_pointer: stable(&zone).map(|pointer| pointer.0),
            ..ZoneRow::from(&zone)
        };
        Ok(Zones { zones: zones.map(row).collect(), next })
    }

    fn map(&self, cells: u32) -> Result<Summary, String> {
        if !(1..=MAX_CELLS).contains(&cells) {
            return Err(format!("cells is {cells}: expected 1 to {MAX_CELLS}"));
        }
        let (zones, count) = (zones_of(&*self.device.disk, 0), self.info.nr_zones);
        Ok(match self.device.cache.as_deref() {
            Some(cache) => Summary::of_volatile(zones, |zone| cache.stable_pointer(zone), cache.status(), count, cells),
            None => Summary::of(zones, count, cells),
        })
    }

    /// Cuts the power, or has that come later, or not at all.
    fn cut(&self, words: Words) -> Result<Value, String> {
        let (tell, told) = mpsc::channel();
        let done = Box::new(move |result| _ = tell.send(result));
        match self.cache()?.command(words, done).map_err(|error| error.to_string())? {
            Commanded::Waits(at) => value(json!({ "armed": true, "at": at })),
            Commanded::CalledOff(at) => value(json!({ "armed": false, "called_off": at })),
            Commanded::Begun => value(wait_for_cut(&told)?),
        }
    }

    /// Does something about the rules for faults, and waits until that is in force.
    fn fault(&self, with: impl FnOnce(&Faults, Done) -> Result<(), String>) -> Result<Value, String> {
        let (tell, told) = mpsc::channel();
        with(&self.device.faults, Box::new(move || _ = tell.send(())))?;
        let late = format!("not done yet: requests of the zone are in flight for {} s", FAULT_TIMEOUT.as_secs());
        told.recv_timeout(FAULT_TIMEOUT).map_err(|_| late)?;
        value(json!({}))
    }

    /// Sets a mark; where that cuts the power, tells what is left when it has.
    fn mark(&self, name: &str) -> Result<Value, String> {
        let (tell, told) = mpsc::channel();
        match self.device.mark(name, Box::new(move |result| _ = tell.send(result))) {
            true => value(wait_for_cut(&told)?),
            false => value(json!({})),
        }
    }

    /// Has the image copied into a file, or become what a file holds.
    fn snapshot(&self, order: Order, check: Check) -> Result<Later, String> {
        let (tell, told) = mpsc::channel();
        let stop = Arc::clone(&self.stop);
        let done = move |result: Result<Outcome, Failure>| {
            if let Err(Failure::Lost(_)) = result
                && let Err(error) = stop.write(1)
            {
                log::error!("the program does not end, and has lost its image: {error}");
            }
            let answer = |Outcome { held, method }: Outcome| {
                let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
                value(Snapshot { held_us, method: method.name().to_owned() })
            };
            // Whoever has gone needs no answer.
            let _ = tell.send(result.map_err(|failure| failure.to_string()).and_then(answer));
        };
        let busy = || "another snapshot is being saved or reverted to: try again when that is done".to_owned();
        let hurry = self.device.standstill.begin(order, check, Box::new(done)).ok_or_else(busy)?;
        Ok(Later { told, give_up: Box::new(move || hurry.give_up()) })
    }

    fn cache(&self) -> Result<&VolatileCache, String> {
        let none = || "the disk has no volatile cache: serve it with --volatile-cache".to_owned();
        self.device.cache.as_deref().ok_or_else(none)
    }

    fn quit(&self) -> Result<(), String> {
        log::info!("told to stop by the control socket");
        self.stop.write(1).map_err(|error| format!("cannot stop: {error}"))
    }
}

/// All zones from one on, each as it is when its turn comes.
fn zones_of(disk: &dyn ZonedDevice, first: u32) -> impl Iterator<Item = ZoneInfo> {
    let geometry = disk.geometry();
    (first..geometry.nr_zones()).step_by(CHUNK).flat_map(move |first| {
        let mut chunk = Vec::with_capacity(CHUNK);
        // Cannot fail: the zone exists.
        let _ = disk.report(geometry.start(ZoneIndex(first)).to_sector(), CHUNK, &mut chunk);
        chunk
    })
}

fn wait_for_cut(told: &mpsc::Receiver<Result<CutOutcome, CutError>>) -> Result<CutOutcome, String> {
    match told.recv_timeout(CUT_TIMEOUT) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the power is not cut yet: requests are in flight for {} s", CUT_TIMEOUT.as_secs())),
    }
}

fn log_level(level: Option<&str>) -> Result<Value, String> {
    if let Some(level) = level {
        let known = level.parse().ok().filter(|level| *level != log::LevelFilter::Off);
        let wrong = || format!("level is '{level}': expected error, warn, info, debug or trace");
        logging::set_level(known.ok_or_else(wrong)?);
        log::info!("told by the control socket to log {level}");
    }
    value(json!({ "level": log::max_level().as_str().to_lowercase() }))
}

fn value(answer: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(versioned(answer)).map_err(|error| error.to_string())
}

impl Responder for DeviceResponder {
    fn answer(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Info {} => value(self.info()),
            Command::Report { first, count } => value(self.report(first, count)?),
            Command::Stats {} => value(self.device.stats()),
            Command::Map { cells } => value(self.map(cells)?),
            Command::Flush {} => {
                self.device.disk.make_durable().map_err(|refusal| refusal.to_string())?;
                value(json!({}))
            }
            Command::PowerCut(words) => self.cut(words),
            Command::FaultAdd { rule, now: true } => self.fault(|faults, done| faults.restore_now(&rule, done)),
            Command::FaultAdd { rule, now: false } => self.fault(|faults, done| faults.add(rule, done)),
            Command::FaultList {} => value(self.device.faults.list()),
            Command::FaultClear { name } => self.fault(|faults, done| faults.clear(name.as_deref(), done)),
            Command::FaultRelease { name } => self.fault(|faults, done| faults.release(&name, done)),
            Command::Mark { name } => self.mark(&name),
            Command::SnapshotSave {} | Command::SnapshotRevert { .. } => Err("a file is missing".to_owned()),
            Command::Quit {} => self.quit().and_then(|()| value(json!({}))),
            Command::LogLevel { level } => log_level(level.as_deref()),
            Command::Metrics {} => Ok(self.metrics().into()),
        }
    }

    fn begin(&self, command: Command, files: Vec<File>) -> Result<Later, String> {
        let one =
            <[File; 1]>::try_from(files).map_err(|files| format!("{} files came along: expected one", files.len()));
        let file = || one.map(|[file]| Arc::new(file));
        match command {
            Command::SnapshotSave {} => {
                let (order, check) = snapshot::save(&self.files, file()?);
                self.snapshot(order, check)
            }
            Command::SnapshotRevert { then: Then::Exit, .. } => Err("then is exit: expected dead or fail".to_owned()),
            Command::SnapshotRevert { name, then } => {
                let (order, check) = snapshot::revert(&self.files, file()?, name, then);
                self.snapshot(order, check)
            }
            _ => Err("not a command that takes long".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let zones = Summary::of(zones_of(&*self.device.disk, 0), self.info.nr_zones, 1);
        metrics::render(&self.info(), &self.device.stats(), &zones.totals)
    }
}
