//! Which clusters of the file hold metadata, so that no mapping entry can be made to point at them.
//!
//! Invariant: the regions are disjoint. Everything that opens or allocates enters its clusters here, and a second
//! owner is refused at that point. The memory used follows the number of L2 tables and refcount blocks.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// What a metadata cluster holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The header and its extensions.
    Header,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// The active L1 table.
    L1,
    /// An L2 table.
    L2,
    /// The write-pointer table of the zones.
    Zonedmeta,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::RefcountTable => "the refcount table",
            Self::RefcountBlock => "a refcount block",
            Self::L1 => "the L1 table",
            Self::L2 => "an L2 table",
            Self::Zonedmeta => "the zonedmeta table",
        })
    }
}

/// Cluster ranges by their first cluster.
#[derive(Debug, Default)]
pub(super) struct Regions {
    by_start: BTreeMap<u64, (u64, Kind)>,
}

impl Regions {
    /// Enters a range of clusters, or returns the first cluster that has an owner already, and which.
    pub(super) fn insert(&mut self, clusters: Range<u64>, kind: Kind) -> Result<(), (u64, Kind)> {
        if let Some(taken) = self.find(clusters.clone()) {
            return Err(taken);
        }
        if !clusters.is_empty() {
            self.by_start.insert(clusters.start, (clusters.end, kind));
        }
        Ok(())
    }

    /// Takes out the region that starts at `start`.
    pub(super) fn remove(&mut self, start: u64) {
        self.by_start.remove(&start);
    }

    /// The first cluster of the range that is metadata, and what it holds.
    pub(super) fn find(&self, clusters: Range<u64>) -> Option<(u64, Kind)> {
        if clusters.is_empty() {
            return None;
        }
        if let Some((_, (end, kind))) = self.by_start.range(..=clusters.start).next_back()
            && *end > clusters.start
        {
            return Some((clusters.start, *kind));
        }
        self.by_start.range(clusters).next().map(|(start, (_, kind))| (*start, *kind))
    }

    /// Every region: its clusters and what they hold.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<u64>, Kind)> + '_ {
        self.by_start.iter().map(|(start, (end, kind))| (*start..*end, *kind))
    }
}
