//! New images that build on others: the base's zones with their write pointers, and no data.

use std::io;
use std::ops::ControlFlow;

use super::backing::Backing;
use super::base::Base;
use super::create::{CreateOptions, lay_out};
use super::error::CreateError;
use super::order::ByteOrder;
use super::table::TableWriter;
use crate::storage::Medium;
use crate::units::Bytes;
use crate::zone::{State, Zone};

/// What a fork is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOptions {
    /// The base's file, as it will be found from the fork: a relative name begins in the fork's folder.
    pub name: String,
    /// Bytes of a cluster of the fork.
    pub cluster_size: Bytes,
}

impl ForkOptions {
    /// A fork with clusters like those of its base, which is in the file of this name.
    pub fn of(base: &Base, name: String) -> Self {
        Self { name, cluster_size: base.header().cluster_size() }
    }
}

/// Makes an image in an empty file that is as its base is, and builds on that. All of it is durable on return; after an error or a
/// crash midway the file is no image.
pub fn fork<S: Medium>(storage: &S, base: &Base, options: &ForkOptions) -> Result<(), CreateError> {
    let image = base.image();
    let request = image.zoned().geometry_request(image.geometry().size());
    let create = CreateOptions { geometry: request, cluster_size: options.cluster_size, table_order: ByteOrder::Big };
    let backing = Backing { name: options.name.clone(), identity: Some(base.identity().clone()) };
    let doing = "write the zonedmeta table";
    lay_out(storage, &create, Some(&backing), |at, entries| {
        let geometry = &entries.geometry;
        let mut writer = TableWriter::new(storage, at, 0);
        let mut written = Ok(());
        let read = image.each_write_pointer(0..geometry.nr_zones(), |index, pointer| {
            // Each layout has a pointer of its own for a full zone.
            let is_full = Zone::from_pointer(geometry, index, pointer).state() == State::Full;
            let pointer = if is_full { entries.layout.full_pointer(geometry, index) } else { pointer };
            written = writer.add(entries.encode(index, pointer));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        read.map_err(|error| CreateError::Io {
            doing: "read the write pointers of the base",
            source: io::Error::other(error),
        })?;
        written.and_then(|()| writer.finish()).map_err(|source| CreateError::Io { doing, source })
    })?;
    Ok(())
}
