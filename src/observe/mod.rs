//! What is told about an image and a running device.
//!
//! | module | subject |
//! | --- | --- |
//! | [`summary`] | the zones of a disk in as many cells as there is room for |

pub mod summary;
