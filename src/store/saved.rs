//! Copies of the image while it is in use, and the way back to one. The housekeeper's thread calls what is in here, while nothing
//! is in the hands of a data path.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clearing::Clearing;
use super::keeper::Keeper;
use super::zones::lock;
use super::{ZonedStore, sequential};
use crate::qcow2::reverting::{self, HEAD, ReplaceError};
use crate::qcow2::{Access, Image};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::{Resources, State, Zone};

/// What an image becomes again.
pub struct Reversion<'a> {
    /// An earlier state of it.
    pub saved: &'a Arc<dyn Medium>,
    /// What that is called, for whoever finds an image that has only half become it.
    pub name: &'a str,
    /// What is noted for a successor: whether requests fail until the device is reset, or are not answered.
    pub fails: bool,
    /// Called when there is no way back any more.
    pub decided: &'a dyn Fn(),
    /// Replaces the file from [`HEAD`] on, and its length. The blocks of a range stay where they are.
    pub replace: &'a dyn Fn(FileRange) -> io::Result<()>,
}

/// Why an image has not become what was saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevertError {
    /// It cannot, or could not; nothing has changed.
    #[error("{0}")]
    Unchanged(String),
    /// It is no image any more: the snapshot has to be copied over it.
    #[error("the image is lost, and its snapshot is whole: copy that over it: {0}")]
    Lost(String),
}

impl<S: Medium> ZonedStore<S> {
    /// Has the file copied as it is now: whole, and without space that is counted and unused.
    pub fn save_copy(&self, copy: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let keeper = &mut *lock(&self.keeper);
        if !self.read_only {
            keeper.image.release().map_err(io::Error::other)?;
        }
        copy()
    }

    /// Why an image cannot take the place of this one; none where it can.
    pub fn cannot_become(&self, saved: &Arc<dyn Medium>) -> Option<String> {
        self.check_saved(saved).err()
    }

    fn check_saved(&self, saved: &Arc<dyn Medium>) -> Result<(), String> {
        if self.read_only {
            return Err("the disk is served read-only".to_owned());
        }
        let image = Image::open_without_base(Arc::new(Arc::clone(saved)), Access::ReadOnly);
        let image = image.map_err(|error| error.to_string())?;
        if let Some(what) = lock(&self.keeper).image.differs_from(&image) {
            return Err(format!("the snapshot has {what}: expected one of this disk"));
        }
        let mut wrong = None;
        let all = image.each_write_pointer(0..self.geometry.nr_zones(), |zone, pointer| {
            let closed = Zone::from_pointer(&self.geometry, zone, pointer).state() == State::Closed;
            if closed && !pointer.is_multiple_of(self.granularity.0) {
                wrong = Some((zone, pointer));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        all.map_err(|error| error.to_string())?;
        match wrong {
            None => Ok(()),
            Some((zone, pointer)) => Err(format!(
                "the write pointer of zone {zone} is {pointer} in the snapshot: expected a multiple of the block size, {}",
                self.granularity
            )),
        }
    }

    /// Becomes what was saved, with all zones as after a start.
    pub fn revert(&self, to: &Reversion<'_>) -> Result<(), RevertError> {
        self.check_saved(to.saved).map_err(RevertError::Unchanged)?;
        let keeper = &mut *lock(&self.keeper);
        let unread = |error: io::Error| RevertError::Unchanged(format!("the snapshot cannot be read: {error}"));
        let len = to.saved.len().map_err(unread)?.0.min(HEAD.0);
        let mut head = vec![0; usize::try_from(len).unwrap_or(0)];
        to.saved.read_at(FileOffset(0), &mut head).map_err(unread)?;
        let decided = || {
            self.lost.store(true, Ordering::Release);
            self.journal(|journal| journal.power_lost(to.fails));
            (to.decided)();
        };
        let replace = || (to.replace)(self.table.range());
        reverting::replace(&*self.storage, &head, to.name, decided, replace).map_err(|error| match error {
            ReplaceError::Unchanged(error) => RevertError::Unchanged(format!("the image cannot be changed: {error}")),
            ReplaceError::Half(error) => RevertError::Lost(error.to_string()),
        })?;
        self.read_again(keeper).map_err(RevertError::Lost)?;
        self.lost.store(false, Ordering::Release);
        Ok(())
    }

    /// Takes over all that the file says.
    fn read_again(&self, keeper: &mut Keeper<S>) -> Result<(), String> {
        let base = keeper.image.take_base();
        let image = Image::open_over(Arc::clone(&self.storage), Access::ReadWrite, base);
        let image = image.map_err(|error| error.to_string())?;
        let orderly = image.ended_orderly();
        lock(&self.jobs).clear();
        let mut resources = lock(&self.resources);
        *resources = Resources::new(&self.geometry);
        let all = image.each_write_pointer(0..self.geometry.nr_zones(), |zone, pointer| {
            self.begin_again(&mut resources, zone, pointer, orderly);
            ControlFlow::Continue(())
        });
        drop(resources);
        *keeper = Keeper::new(image);
        all.map_err(|error| error.to_string())
    }

    fn begin_again(&self, resources: &mut Resources, zone: ZoneIndex, pointer: Bytes, orderly: bool) {
        let mut inner = self.zones.inner(zone);
        let explicit = inner.zone.state() == State::ExplicitOpen;
        inner.map = None;
        inner.forget_traffic();
        inner.clearing = Clearing::at_open(Zone::from_pointer(&self.geometry, zone, pointer).state(), orderly);
        if sequential(&self.geometry, zone) {
            // A zone that the drive has taken away stays so.
            inner.zone = inner.zone.moved_to(&self.geometry, zone, pointer);
        }
        resources.count(&inner.zone);
        drop(inner);
        if explicit {
            self.note_open(zone);
        }
    }
}
