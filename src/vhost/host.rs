//! A device with what it takes to serve it here: its file, its notes for a successor, what wakes its queues.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::journal::Journals;
use super::options::{CacheMode, MAX_QUEUES, ServeOptions};
use super::texts::Texts;
use super::wake::Waker;
use super::{Disk, Rules, ServeError, Served};
use crate::device::router::Bell;
use crate::device::{Device, Identity};
use crate::fetch::path::RemoteBases;
use crate::io::{AioMode, Files};
use crate::power::Then;
use crate::record::{Faulted, Log};
use crate::sandbox::Sandbox;
use crate::units::Bytes;

/// Who sees what the data paths of queues carry.
pub(super) enum LooksOn {
    Nobody,
    /// Where the disk is recorded.
    Log(Arc<Log>),
    /// What makes marks of it.
    Marks(Arc<Texts>),
}

/// What the queues' threads, the connection and the housekeeper share.
pub(super) struct Host {
    pub(super) device: Arc<Device>,
    pub(super) files: Arc<Files>,
    pub(super) remote: RemoteBases,
    pub(super) journals: Arc<Journals>,
    pub(super) aio: AioMode,
    pub(super) poll: Duration,
    pub(super) sandbox: Sandbox,
    pub(super) looks_on: LooksOn,
    wakers: Vec<Arc<Waker>>,
}

impl Host {
    pub(super) fn new(
        served: Served,
        options: &ServeOptions,
        max_append: Bytes,
        trace: Option<File>,
        sandbox: Sandbox,
        marks: Option<Arc<Texts>>,
    ) -> Result<Self, ServeError> {
        let mut identity = Identity {
            serial: Default::default(),
            max_append,
            block: Bytes(options.block_size.into()),
            write_through: options.cache == CacheMode::Writethrough,
        };
        let serial = options.serial.as_bytes();
        let room = identity.serial.get_mut(..serial.len()).ok_or(ServeError::Serial(serial.len()))?;
        room.copy_from_slice(serial);
        let wakers = (0..MAX_QUEUES).map(|_| Waker::new().map(Arc::new)).collect::<Result<Vec<_>, _>>();
        let wakers = wakers.map_err(ServeError::system("create event descriptors"))?;
        let bells = wakers.iter().map(|waker| Arc::clone(waker) as Arc<dyn Bell>).collect();
        let journals = Arc::new(Journals::new());
        let Served { disk, files, remote, power_lost, rules, log } = served;
        let mut device = match disk {
            Disk::Plain(disk) => Device::new(disk, identity, bells, trace),
            Disk::Cached(cache) => Device::cached(cache, identity, bells, trace),
        };
        if let Some(fails) = power_lost {
            device.switch.cut(if fails { Then::Fail } else { Then::Dead });
        }
        if let Some(Rules { name, saved, keep }) = rules {
            device.faults.take_over(saved).map_err(|reason| ServeError::Rules { name, reason })?;
            device.faults.set_keep(keep);
        }
        device.disk.set_journal(match &log {
            Some(log) => Box::new(Faulted::new(Arc::clone(log), Arc::clone(&journals))),
            None => Box::new(Arc::clone(&journals)),
        });
        device.log.clone_from(&log);
        device.is_ordinary = marks.is_some();
        Ok(Self {
            device: Arc::new(device),
            files: Arc::new(Files::new(files)),
            remote,
            journals,
            aio: options.aio,
            poll: options.poll,
            sandbox,
            looks_on: match (log, marks) {
                (Some(log), _) => LooksOn::Log(log),
                (None, Some(texts)) => LooksOn::Marks(texts),
                (None, None) => LooksOn::Nobody,
            },
            wakers,
        })
    }

    /// What wakes the worker of `queue`.
    pub(super) fn waker(&self, queue: u16) -> Option<&Arc<Waker>> {
        self.wakers.get(usize::from(queue))
    }
}
