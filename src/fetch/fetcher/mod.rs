//! The fetcher: a process of its own, outside the daemon's confinement, that fetches one object's chunks into the cache.
//!
//! | module | subject |
//! | --- | --- |
//! | [`store`] | the object store: where the object is, what it is, ranges of it |
//! | [`work`] | what is asked for, fetched once and answered |
//! | [`process`] | how the process is started, started again when it dies, and confined |
//!
//! It answers only what the daemon asks, writes nowhere but in the cache folder, and ends with the daemon's end of the socket.

pub mod process;
pub mod store;
pub mod work;
