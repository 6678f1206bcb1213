//! The jobs: which sources each of them gives to the queues.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::connection::{Connection, Lane, Zoned};
use crate::slot::{Op, Request, SECTOR};
use crate::source::{Blocks, InOrder, Mixed, Random, Reports, Scattered, Source, Space, Writes};
use crate::worker;
use crate::zones::{self, Plan, Zone, ZoneWriter};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Reads of one block at random
    Randread,
    /// Reads from the beginning to the end, again and again
    Seqread,
    /// Writes from the beginning to the end, again and again (not on zoned disks)
    Seqwrite,
    /// Writes to --zones zones in turn, --per-zone in flight in each
    Zonewrite,
    /// Appends to --zones zones in turn
    Append,
    /// Reports of all zones, --bs bytes each
    Report,
    /// Writes of one block to a zone, each after a reset
    Reset,
    /// Seven reads at random for three writes behind them (zoned disks: as zonewrite)
    Mixed,
    /// Writes the first --size bytes once, for others to read
    Fill,
}

/// How large and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) len: u32,
    /// How much of the disk is used, from its beginning.
    pub(crate) size: Option<u64>,
    pub(crate) queues: usize,
    pub(crate) depth: u32,
    pub(crate) zones: usize,
    pub(crate) per_zone: u32,
}

type Sources = Vec<Box<dyn Source>>;

/// The sources of `job`, one a queue.
pub(crate) fn sources(connection: &mut Connection, job: Job, shape: &Shape) -> Result<Sources> {
    let zoned = connection.disk.zoned;
    match (job, zoned) {
        (Job::Fill, _) => return Ok(vec![fill(connection, shape)?]),
        (Job::Seqwrite, Some(_)) => bail!("a zoned disk takes no seqwrite; use zonewrite"),
        (Job::Zonewrite | Job::Append | Job::Report | Job::Reset, None) => bail!("the disk has no zones"),
        (Job::Append, Some(zoned)) if u64::from(shape.len) > zoned.max_append => {
            bail!("the disk takes appends of up to {} bytes", zoned.max_append);
        }
        _ => {}
    }
    let zones = zoned.map_or(Ok(Vec::new()), |zoned| report(connection, zoned))?;
    let space = if zoned.is_some() { zones::space(&zones)? } else { Space::Plain };
    let capacity = match &space {
        Space::Plain => connection.disk.bytes,
        Space::Zones { starts, capacity } => {
            let len = u64::from(shape.len);
            let whole = capacity % len == 0 || matches!(job, Job::Report);
            ensure!(whole, "the zones' capacity of {capacity} bytes is not a multiple of {len}");
            starts.len() as u64 * capacity
        }
    };
    let size = shape.size.unwrap_or(capacity);
    ensure!(size <= capacity, "the disk has {capacity} bytes");
    let maker = Maker { job, shape, zones, space, size, capacity, zoned, sectors: connection.disk.bytes / SECTOR };
    (0..shape.queues).map(|queue| maker.source(queue)).collect()
}

struct Maker<'a> {
    job: Job,
    shape: &'a Shape,
    zones: Vec<Zone>,
    space: Space,
    size: u64,
    capacity: u64,
    zoned: Option<Zoned>,
    sectors: u64,
}

impl Maker<'_> {
    fn source(&self, queue: usize) -> Result<Box<dyn Source>> {
        Ok(match self.job {
            Job::Randread => Box::new(self.scattered(queue)?),
            Job::Seqread => Box::new(InOrder::new(self.share(queue, Op::Read, 0, self.size)?, true)),
            Job::Seqwrite => Box::new(InOrder::new(self.share(queue, Op::Write, 0, self.size)?, true)),
            Job::Zonewrite | Job::Append | Job::Reset => {
                let end = self.size / (self.capacity / self.zones.len() as u64);
                Box::new(self.zone_writer(queue, 0, end as usize)?)
            }
            Job::Report => Box::new(self.reports()?),
            Job::Mixed => Box::new(self.mixed(queue)?),
            Job::Fill => bail!("a fill is not a queue's"),
        })
    }

    /// One queue's part of the blocks between two places.
    fn share(&self, queue: usize, op: Op, from: u64, to: u64) -> Result<Blocks> {
        let (queue, queues) = (queue as u64, self.shape.queues as u64);
        let len = u64::from(self.shape.len);
        let (first, blocks) = (from.div_ceil(len), to / len);
        let at = |queue: u64| first + blocks.saturating_sub(first) * queue / queues;
        let range = at(queue)..at(queue + 1);
        ensure!(!range.is_empty(), "there is no block of {len} bytes for each queue from byte {from} to byte {to}");
        Ok(Blocks { space: self.space.clone(), op, len: self.shape.len, range })
    }

    fn scattered(&self, queue: usize) -> Result<Scattered> {
        let mut blocks = self.share(queue, Op::Read, 0, self.size)?;
        blocks.range = 0..self.size / u64::from(self.shape.len);
        Ok(Scattered { blocks, random: Random::new(queue as u64 + 1) })
    }

    fn zone_writer(&self, queue: usize, from: usize, to: usize) -> Result<ZoneWriter> {
        let queues = self.shape.queues;
        let all = self.zones.get(from..to.min(self.zones.len())).unwrap_or_default();
        let zones: Vec<Zone> = all.iter().skip(queue).step_by(queues).copied().collect();
        let (op, depth) = match self.job {
            Job::Append => (Op::Append, self.shape.depth),
            _ => (Op::Write, self.shape.per_zone),
        };
        let one_block = u64::from(self.shape.len) / SECTOR;
        let capacity = zones.first().map_or(0, |zone| zone.capacity);
        let limit = if self.job == Job::Reset { one_block } else { capacity };
        let streams = (self.shape.zones / queues).max(1);
        ZoneWriter::new(Plan { op, len: self.shape.len, streams, depth, limit, again: true }, &zones)
    }

    fn reports(&self) -> Result<Reports> {
        let zoned = self.zoned.context("the disk has no zones")?;
        let step = zones::zones_in(self.shape.len) * zoned.zone_sectors;
        ensure!(step > 0, "a report of {} bytes has no room for a zone", self.shape.len);
        Ok(Reports { len: self.shape.len, step, sectors: self.sectors, at: 0 })
    }

    fn mixed(&self, queue: usize) -> Result<Mixed> {
        ensure!(self.size < self.capacity, "mixed reads the first --size bytes and writes behind them: give a size");
        let writes = if self.zoned.is_some() {
            let first = self.size.div_ceil(self.capacity / self.zones.len() as u64) as usize;
            Writes::Zones(self.zone_writer(queue, first, self.zones.len())?)
        } else {
            Writes::Plain(InOrder::new(self.share(queue, Op::Write, self.size, self.capacity)?, true))
        };
        Ok(Mixed { reads: self.scattered(queue)?, writes, random: Random::new(queue as u64 + 1000) })
    }
}

/// Bytes in a request that fills.
pub(crate) const FILL_LEN: u32 = 1 << 20;
const FILL_DEPTH: u32 = 8;

/// Writes the first bytes of the disk once. Zones that are full are left as they are.
fn fill(connection: &mut Connection, shape: &Shape) -> Result<Box<dyn Source>> {
    let bytes = shape.size.unwrap_or(connection.disk.bytes);
    ensure!(bytes <= connection.disk.bytes, "the disk has {} bytes", connection.disk.bytes);
    let Some(zoned) = connection.disk.zoned else {
        let len = if bytes.is_multiple_of(u64::from(FILL_LEN)) { FILL_LEN } else { shape.len };
        let blocks = Blocks { space: Space::Plain, op: Op::Write, len, range: 0..bytes / u64::from(len) };
        return Ok(Box::new(InOrder::new(blocks, false)));
    };
    let all = report(connection, zoned)?;
    let Some(first) = all.first() else { bail!("the disk has no sequential zone") };
    let capacity = first.capacity * SECTOR;
    let wanted = all.into_iter().take(bytes.div_ceil(capacity) as usize);
    let zones: Vec<Zone> = wanted.filter(|zone| zone.written < zone.capacity).collect();
    let len = if capacity.is_multiple_of(u64::from(FILL_LEN)) { FILL_LEN } else { shape.len };
    let limit = capacity / SECTOR;
    let streams = usize::from(!zones.is_empty());
    let plan = Plan { op: Op::Write, len, streams, depth: FILL_DEPTH.min(shape.depth), limit, again: false };
    Ok(Box::new(ZoneWriter::new(plan, &zones)?))
}

/// The sequential zones of the disk.
pub(crate) fn report(connection: &mut Connection, zoned: Zoned) -> Result<Vec<Zone>> {
    let sectors = connection.disk.bytes / SECTOR;
    let lane: &mut Lane = connection.lanes.first_mut().context("no queue")?;
    let len = lane.slots[0].capacity();
    let mut zones = Vec::new();
    let mut sector = 0;
    while sector < sectors {
        let request = Request { op: Op::Report, sector, len, stream: 0 };
        worker::call(lane, &request)?;
        let (count, some) = zones::parse(lane.slots[0].data(len));
        ensure!(count > 0, "{}: no zone", request.describe());
        zones.extend(some);
        sector += count * zoned.zone_sectors;
    }
    Ok(zones)
}
