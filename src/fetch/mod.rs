//! Bases by network: the parts of an object that are read come over the network once a host, into a cache on its disk.
//!
//! ```text
//!  queue's thread ── path ──┐  reads below a base: present, or held until they are
//!  metadata ────── medium ──┤
//!                           ▼
//!                          link ── messages, one socket ──► fetcher, a process of its own ──► object store
//!                           ▲                                        │ claims, fills, evicts
//!                           └── presence, data (mapped, read) ── cache folder, shared by the fetchers of a host
//! ```
//!
//! The daemon opens nothing and speaks no network: it has the cache's files from the fetcher, by descriptor, and reads them.
//!
//! | module | subject |
//! | --- | --- |
//! | [`chunks`] | an object as chunks |
//! | [`presence`] | which chunks are in the cache: one word a chunk, in memory that all processes share |
//! | [`message`] | what daemon and fetcher say to each other |
//! | [`link`] | the daemon's end: what is wanted, what came of it |
//! | [`medium`] | a base's metadata, read where it is present, waited for where it is not |
//! | [`path`] | a layer over a data path: the guest's reads of bases |
//! | `ahead` | reads that go on from each other, and what to fetch before they come |
//! | `entry`, `cache` | one object in the cache folder; all of them, in bounded space |
//! | `fetcher` | the fetcher: the only code that waits for a network |
//!
//! # What holds
//!
//! * A byte is shown only while the word of its chunk is odd, and the same before and after the read. A fetcher makes it odd
//!   after the chunk's bytes are in the file, and even before it gives their space back. So no order of fetches, evictions and
//!   kills shows a byte that was not fetched.
//! * A chunk is fetched by whoever holds its claim, a lock that dies with its process; the others wait for that one.
//! * An entry is of one [`Identity`](message::Identity), URL and tag. Each answer of the server has to carry that tag.

mod ahead;
#[cfg(feature = "network")]
pub mod cache;
pub mod chunks;
#[cfg(feature = "network")]
mod entry;
#[cfg(feature = "network")]
pub mod fetcher;
pub mod link;
pub mod medium;
pub mod message;
pub mod path;
pub mod presence;
