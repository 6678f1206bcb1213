//! A zoned disk for any virtual machine: virtio-blk with VIRTIO_BLK_F_ZONED over vhost-user, kept in one qcow2 image.
//!
//! Layers, each blind to the ones above it (ARCHITECTURE.md has the map and the road of a request):
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | the commands |
//! | [`vhost`] | sockets, connections, guest memory, rings, the threads of queues |
//! | [`disk`] | a disk in a test's own process |
//! | [`device`] | the requests of queues: from their chains to the store, through their I/O, to their answers |
//! | [`fault`] | rules that fail, delay and spoil requests, and take zones away: a layer over the device and one over the data path |
//! | [`fetch`] | bases by network: what is read of an object comes once a host, into a cache on its disk |
//! | [`record`] | what a disk is asked and answers, recorded and done again |
//! | [`io`] | data paths: who carries the guest's bytes between its memory and the file |
//! | [`workload`] | small workloads on a file system, all of them, and the judgement of what a crash has left of one |
//! | [`explore`] | the crash states of a recording, made and checked |
//! | [`convert`] | disks of other forms: read from one, written as another |
//! | [`control`] | the control socket: asking and telling a running daemon |
//! | [`observe`] | what is told about an image and a running device: zones summed up, counts, refusals in words, traces |
//! | [`chain`] | the files of a backing chain, found and locked |
//! | [`virtio`] | a descriptor chain becomes a request, a result becomes a status byte; features and configuration space |
//! | [`store`] | the device's meaning: zones and image together, in the order that keeps them safe |
//! | [`qcow2`] | the image format: header, extensions, refcounts, mapping, allocation, check |
//! | [`zone`] | the pure state machine: geometry, states, write pointers, resources |
//! | [`storage`] | the file below, behind a trait |
//! | [`sandbox`] | what the process may still do once it serves |
//! | [`service`] | the service manager: readiness, status, signs of life |
//! | [`logging`] | where messages go, and how many |
//! | [`units`] | sectors, bytes, file offsets and zone numbers as types |

// These two panic where their stream cannot be written: `cli::output` and `logging` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

// Files that integration tests share name this crate as they do.
#[cfg(test)]
extern crate self as vhost_user_zbd;

pub mod chain;
pub mod cli;
pub mod control;
pub mod convert;
pub mod device;
pub mod disk;
pub mod explore;
pub mod fault;
pub mod fetch;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub mod io;
pub mod logging;
pub mod observe;
pub mod power;
pub mod qcow2;
pub mod record;
pub mod sandbox;
pub mod service;
pub mod storage;
pub mod store;
pub mod units;
pub mod vhost;
pub mod virtio;
pub mod workload;
pub mod zone;
