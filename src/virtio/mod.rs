//! The virtio block device as bytes: which features it offers, what its configuration space says, what a chain of
//! descriptors asks for, and which status byte answers it. No I/O and no threads.
//!
//! | module | subject |
//! | --- | --- |
//! | [`features`] | the feature bits offered and what was made of them |
//! | [`config`] | the 96 bytes of configuration space |
//! | [`memory`] | the memory of the guest that rings and requests lie in |
//! | [`request`] | from descriptors in guest memory to a [`Request`](request::Request) |
//! | [`report`] | zone reports |
//! | [`status`] | the status byte of every way a request can end |
//!
//! The rules are those of virtio 1.3, "Block Device", and "Split Virtqueues" for the descriptors. Everything a guest
//! wrote is read once and checked before it is used; guest memory is reached only through `vm-memory`.

pub mod config;
pub mod features;
pub mod memory;
pub mod report;
pub mod request;
pub mod status;

#[cfg(test)]
pub(crate) mod testing;
