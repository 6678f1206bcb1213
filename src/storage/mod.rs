//! What the image lives in: one file, reached through a trait so that a simulated disk can take the file's place, and a layer
//! can stand before it.
//!
//! Everything here is blocking and is used for metadata; the guest's data goes through the data paths of [`io`](crate::io),
//! straight between guest memory and the same file.
//!
//! Ordering: an operation that returned is visible to every later read and survives the death of the process (it is
//! in the kernel's page cache). Only [`Medium::flush`] makes it survive a loss of power (and [`Medium::sync_ranges`]
//! parts of it); operations between two flushes may become durable in any order, in part, torn at 512 bytes.

pub mod copy;
pub mod file;
pub mod lock;
pub mod memory;

use std::io;
use std::sync::Arc;

use crate::units::{Bytes, FileOffset};

/// A part of the file: where it begins, how long it is.
pub type FileRange = (FileOffset, Bytes);

/// Declares [`Medium`], [`Layer`] and what makes a medium of a layer from one list of methods, so that none can be forgotten
/// in one of them.
macro_rules! medium {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        /// A byte-addressed file with holes.
        pub trait Medium: Send + Sync {
            $($(#[$doc])* fn $name(&self $(, $arg: $type)*) -> $result;)*
        }

        /// What a layer does otherwise than the medium below it. A method that is left out hands on.
        pub trait Layer: Send + Sync {
            /// The kind of medium below.
            type Below: Medium;
            /// The medium below.
            fn below(&self) -> &Self::Below;
            $($(#[$doc])* fn $name(&self $(, $arg: $type)*) -> $result { self.below().$name($($arg),*) })*
        }

        impl<L: Layer> Medium for Layered<L> {
            $(fn $name(&self $(, $arg: $type)*) -> $result { self.0.$name($($arg),*) })*
        }

        impl<M: Medium + ?Sized> Medium for Arc<M> {
            $(fn $name(&self $(, $arg: $type)*) -> $result { (**self).$name($($arg),*) })*
        }
    };
}

/// A layer as a medium.
#[derive(Debug)]
pub struct Layered<L>(pub L);

medium! {
    /// Fills `buf` from `offset`. Bytes past the end of the file read as zeros.
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, growing the file where needed. Eight bytes at a multiple of eight are never torn.
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()>;

    /// Makes all operations that returned before this call durable. After an error nothing is known of them.
    fn flush(&self) -> io::Result<()>;

    /// Makes durable what was written and punched in these ranges before this call, and the length of the file. What the
    /// rest of the file holds need not become durable: the guest's data is not waited for. Does nothing for no ranges.
    /// After an error nothing is known of anything that returned before this call.
    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()>;

    /// Makes the range read as zeros and gives its whole blocks back to the file system. Never changes the length.
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()>;

    /// Cuts the file, or grows it by a hole that reads as zeros.
    fn set_len(&self, len: Bytes) -> io::Result<()>;

    /// The present length of the file.
    fn len(&self) -> io::Result<Bytes>;
}
