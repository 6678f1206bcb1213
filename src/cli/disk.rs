//! The disk that a command is about: that of an image, or the one that a running daemon serves.

use std::path::Path;

use anyhow::{Context, Result};

use super::image::{self, Opened};
use super::map::look;
use super::size;
use crate::control::client::Client;
use crate::control::{Command, MAX_CELLS};
use crate::observe::info::Info;
use crate::observe::summary::{Summary, Tally};
use crate::units::Bytes;
use crate::zone::{Geometry, GeometryError, GeometryRequest, State};

/// Where its zones come from.
pub(super) enum Source {
    /// An image.
    Image(Box<Opened>),
    /// A running daemon.
    Daemon(Client),
}

/// A disk, as far as its zones do not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What it is called: the image's file.
    pub(super) name: String,
    /// Its shape and limits.
    pub(super) geometry: Geometry,
    /// The longest append: of a running daemon the one in force, of an image the one that it states, if any.
    pub(super) longest_append: Option<Bytes>,
    /// It is served with a volatile cache.
    pub(super) cached: bool,
}

impl Source {
    /// The disk of an image.
    pub(super) fn image(path: &Path) -> Result<(Disk, Self)> {
        let opened = image::look(path)?;
        let name = path.display().to_string();
        let geometry = *opened.image.geometry();
        Ok((
            Disk { name, geometry, longest_append: geometry.max_append(), cached: false },
            Self::Image(Box::new(opened)),
        ))
    }

    /// The disk that the daemon with this control socket serves.
    pub(super) fn daemon(path: &Path) -> Result<(Disk, Self)> {
        let mut client = Client::connect(path)?;
        let info: Info = client.ask(&Command::Info {})?;
        let disk = Disk::served(&info).with_context(|| path.display().to_string())?;
        Ok((disk, Self::Daemon(client)))
    }

    /// Its zones in at most so many cells.
    pub(super) fn summary(&mut self, disk: &Disk, cells: u32) -> Result<Summary> {
        let cells = cells.min(MAX_CELLS);
        match self {
            Self::Image(opened) => {
                let zones = disk.geometry.nr_zones();
                let summary = opened.with_zones(0..zones, |all| Summary::of(all, zones, cells));
                Ok(summary.with_context(|| disk.name.clone())?)
            }
            Self::Daemon(client) => Ok(client.ask(&Command::Map { cells })?),
        }
    }
}

impl Disk {
    /// What a daemon says that it serves.
    pub(super) fn served(info: &Info) -> Result<Self, GeometryError> {
        let (geometry, _) = Geometry::new(&GeometryRequest {
            size: Bytes(info.virtual_size),
            zone_size: Bytes(info.zone_size),
            zone_capacity: Bytes(info.zone_capacity),
            conventional_zones: info.conventional_zones,
            max_open_zones: info.max_open_zones,
            max_active_zones: info.max_active_zones,
            // What is in force is no limit of the image, and need not keep the rules for one.
            max_append_bytes: Bytes(0),
        })?;
        Ok(Self {
            name: info.image.clone(),
            geometry,
            longest_append: Some(Bytes(info.max_append_bytes)),
            cached: info.power.is_some(),
        })
    }

    /// Size and zones, in words.
    pub(super) fn shape(&self) -> String {
        let geometry = &self.geometry;
        let (zone, capacity) = (geometry.zone_size(), geometry.zone_capacity());
        let (zones, plural) = (geometry.nr_zones(), if geometry.nr_zones() == 1 { "" } else { "s" });
        let mut shape = format!("{}: {zones} zone{plural} of {}", size::brief(geometry.size()), size::brief(zone));
        if capacity < zone {
            shape += &format!(", {} of each writable", size::brief(capacity));
        }
        if geometry.conventional_zones() > 0 {
            shape += &format!(", {} conventional", geometry.conventional_zones());
        }
        shape
    }

    /// What is in use, of what there is.
    pub(super) fn usage(&self, totals: &Tally) -> String {
        format!("{}, open {}, active {}", written(totals), self.open(totals), self.active(totals))
    }

    /// Open zones against their limit.
    pub(super) fn open(&self, totals: &Tally) -> String {
        against(totals.states.sum(State::is_open), self.geometry.max_open_zones())
    }

    /// Active zones against their limit.
    pub(super) fn active(&self, totals: &Tally) -> String {
        against(totals.states.sum(State::is_active), self.geometry.max_active_zones())
    }
}

/// A count and its limit, 0 being none.
fn against(count: u64, limit: u32) -> String {
    if limit == 0 { format!("{count} (no limit)") } else { format!("{count} of {limit}") }
}

/// What is written of what can be.
pub(super) fn written(tally: &Tally) -> String {
    let (written, capacity) = (size::brief(Bytes(tally.written)), size::brief(Bytes(tally.capacity)));
    format!("written {written} of {capacity} ({:.1} %)", look::fill(tally) * 100.0)
}
