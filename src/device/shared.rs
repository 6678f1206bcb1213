//! What the queues of a device share.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::counts::Counts;
use super::limiter::Lines;
use super::router::{Bell, Router};
use super::standstill::Standstill;
use crate::fault::Faults;
use crate::observe::stats::Stats;
use crate::observe::{Refused, Subject};
use crate::power::cache::Done;
use crate::power::{CutOutcome, Switch, VolatileCache};
use crate::record::Log;
use crate::store::device::Layered;
use crate::store::{Batch, ZonedDevice};
use crate::units::Bytes;
use crate::virtio::features::Features;
use crate::virtio::request::Request;
use crate::virtio::status::RequestError;

/// What a device is beside its disk.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// What GET_ID answers.
    pub serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    /// The longest append.
    pub max_append: Bytes,
    /// The unit of writes.
    pub block: Bytes,
    /// Whether a change is durable before it is answered, whatever the driver says.
    pub write_through: bool,
}

/// What the queues of a device, its transport and its housekeeper share.
pub struct Device {
    /// The zones and their image.
    pub disk: Arc<dyn ZonedDevice>,
    /// What it is beside that.
    pub identity: Identity,
    /// The queues' mailboxes.
    pub router: Router,
    /// What was seen of its requests.
    pub counts: Counts,
    /// How much may be logged because of guests and frontends.
    pub lines: Lines,
    /// Whether there is power.
    pub switch: Arc<Switch>,
    /// What is done while nothing moves.
    pub standstill: Standstill,
    /// Rules that fail and delay requests; the disk is behind them.
    pub faults: Arc<Faults>,
    /// What knows how to lose what is not stable, where that is wanted.
    pub cache: Option<Arc<VolatileCache>>,
    /// It is no zoned disk: any driver may use it, and zone requests are none.
    pub is_ordinary: bool,
    /// Where its disk is recorded, if it is.
    pub log: Option<Arc<Log>>,
    write_through: AtomicBool,
    zoned: AtomicBool,
}

impl Device {
    /// A device whose queues are woken by these bells, one a queue. Each request is noted in `trace`, whose header is
    /// written.
    pub fn new(disk: Arc<dyn ZonedDevice>, identity: Identity, bells: Vec<Arc<dyn Bell>>, trace: Option<File>) -> Self {
        let switch = Arc::new(Switch::new(bells.len()));
        Self::with_switch(disk, identity, bells, trace, switch)
    }

    /// A device with a volatile cache before its disk.
    pub fn cached(
        cache: Arc<VolatileCache>,
        identity: Identity,
        bells: Vec<Arc<dyn Bell>>,
        trace: Option<File>,
    ) -> Self {
        let disk = Arc::new(Layered(Arc::clone(&cache)));
        let switch = Arc::clone(cache.switch());
        Self { cache: Some(cache), ..Self::with_switch(disk, identity, bells, trace, switch) }
    }

    fn with_switch(
        disk: Arc<dyn ZonedDevice>,
        identity: Identity,
        bells: Vec<Arc<dyn Bell>>,
        trace: Option<File>,
        switch: Arc<Switch>,
    ) -> Self {
        let queues = bells.len();
        let faults = Faults::over(disk, identity.block);
        Self {
            disk: Arc::new(Layered(Arc::clone(&faults))),
            faults,
            identity,
            router: Router::new(bells),
            counts: Counts::new(queues, trace),
            lines: Lines::new(queues),
            standstill: Standstill::new(Arc::clone(&switch)),
            switch,
            cache: None,
            is_ordinary: false,
            log: None,
            write_through: AtomicBool::new(identity.write_through),
            zoned: AtomicBool::new(false),
        }
    }

    /// Takes over what follows from the negotiated features and the cache mode of the configuration space.
    pub fn set_mode(&self, accepted: Features, writeback: bool) {
        self.zoned.store(accepted.zoned() || self.is_ordinary, Ordering::Relaxed);
        // A driver that never flushes has to find its writes durable (virtio 1.3, 5.2.6.2, case 1 and 2).
        let write_through = self.identity.write_through || !accepted.flush() || !writeback;
        self.write_through.store(write_through, Ordering::Relaxed);
    }

    /// Whether the driver knows that the disk is zoned, where it is; otherwise no request may succeed.
    pub fn zoned(&self) -> bool {
        self.zoned.load(Ordering::Relaxed)
    }

    /// Whether a change has to be durable before it is acknowledged.
    pub fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    /// Sets a mark, in the recording and for whatever waits for it. Where that is a power cut, `done` is called when it is over;
    /// returns whether it is one.
    pub fn mark(&self, name: &str, done: Done) -> bool {
        if let Some(log) = &self.log {
            log.mark(name);
        }
        self.faults.mark(name);
        self.cache.as_ref().is_some_and(|cache| cache.mark(name, done))
    }

    /// Has all queues look again: the power was cut, with this outcome, or stays on after all.
    pub fn power_is_cut(&self, outcome: Option<&CutOutcome>) {
        if let Some(outcome) = outcome {
            self.counts.trace_cut(outcome);
        }
        self.router.ring_all();
    }

    /// A queue that has nothing in flight any more, while all is to come to rest, says so.
    pub fn is_at_rest(&self) {
        if let Some(cache) = &self.cache {
            cache.ring();
        }
        self.standstill.ring();
    }

    /// Does what blocks, a step of it; returns whether there was anything to do. The housekeeper's thread calls it.
    pub fn housekeep(&self, batch: &mut Batch) -> bool {
        self.standstill.go_on(&*self.disk, self.cache.as_deref(), &self.router) || self.disk.housekeep(batch)
    }

    /// Does what follows for its power and its zones when the driver has reset the device. No request is in flight.
    pub fn reset(&self) {
        if let Some(log) = &self.log {
            log.device_reset();
        }
        self.faults.device_reset();
        if self.switch.device_reset() {
            self.counts.trace_power_back();
            log::info!("the device is reset: the power is back");
        }
    }

    /// Looks into a refused request and remembers it.
    pub(super) fn look_into(&self, queue: u16, request: Option<Request>, error: RequestError) -> Refused {
        let at = Subject::from(request).sector;
        let mut refused = Refused {
            request,
            error,
            zone: at.and_then(|at| self.disk.zone_now(at)),
            usage: self.disk.usage(),
            block: self.identity.block,
            max_append: self.identity.max_append,
            disk: self.disk.geometry().size(),
            fault: None,
        };
        refused.fault = refused.fault_number().and_then(|number| self.faults.name_of(number));
        self.counts.remember(queue, refused.clone());
        refused
    }

    /// What was seen so far.
    pub fn stats(&self) -> Stats {
        Stats {
            power_off: Some(self.switch.power().is_off()).filter(|off| *off || self.cache.is_some()),
            volatile_bytes: self.cache.as_ref().map(|cache| cache.volatile_bytes()),
            ..self.counts.stats(&self.disk.usage())
        }
    }
}
