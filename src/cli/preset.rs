//! Geometries by name, and what those ask of one that a disk may be meant for.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::size;
use crate::units::Bytes;
use crate::zone::Geometry;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A geometry that is worth a name. Every part of it can be overridden.
#[derive(Debug)]
pub(super) struct Preset {
    pub(super) name: &'static str,
    /// What it is like, or good for.
    pub(super) about: &'static str,
    pub(super) size: Bytes,
    pub(super) zone_size: Bytes,
    pub(super) zone_capacity: Bytes,
    pub(super) conventional: Conventional,
    /// 0 is no limit, as for `create`.
    pub(super) max_open_zones: u32,
    pub(super) max_active_zones: u32,
    /// What is known to take it.
    pub(super) takes: &'static [MeantFor],
}

/// Conventional zones.
#[derive(Clone, Copy, Debug)]
pub(super) enum Conventional {
    Zones(u32),
    /// Of all zones, at least one.
    Percent(u64),
}

impl Preset {
    /// How many zones are conventional on a disk of this size with zones of this size.
    pub(super) fn conventional_zones(&self, size: Bytes, zone_size: Bytes) -> u32 {
        match self.conventional {
            Conventional::Zones(zones) => zones,
            Conventional::Percent(percent) => {
                let zones = size.0.checked_div(zone_size.0).unwrap_or(0);
                u32::try_from((zones / 100 * percent).max(1)).unwrap_or(u32::MAX)
            }
        }
    }
}

/// What `--list-presets` lists. What each is for was tried with Linux 6.12 or newer.
pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "zns",
        about: "like an NVMe ZNS drive: large zones, a capacity well below their size, few active",
        size: Bytes(64 * GIB),
        zone_size: Bytes(2 * GIB),
        zone_capacity: Bytes(1077 * MIB),
        conventional: Conventional::Zones(0),
        max_open_zones: 14,
        max_active_zones: 14,
        takes: &[MeantFor::Btrfs, MeantFor::Zonefs, MeantFor::Zenfs],
    },
    Preset {
        name: "smr",
        about: "like a host-managed SMR disk: 256 MiB zones, 1 % of them conventional, 128 open",
        size: Bytes(128 * GIB),
        zone_size: Bytes(256 * MIB),
        zone_capacity: Bytes(256 * MIB),
        conventional: Conventional::Percent(1),
        max_open_zones: 128,
        max_active_zones: 0,
        takes: &[MeantFor::Btrfs, MeantFor::F2fs, MeantFor::Xfs, MeantFor::Zonefs, MeantFor::Zenfs],
    },
    Preset {
        name: "btrfs-small",
        about: "the least that every mkfs.btrfs since 6.2 takes without a word about profiles: zones of 4 MiB",
        size: Bytes(112 * MIB),
        zone_size: Bytes(4 * MIB),
        zone_capacity: Bytes(4 * MIB),
        conventional: Conventional::Zones(0),
        max_open_zones: 0,
        max_active_zones: 0,
        takes: &[MeantFor::Btrfs, MeantFor::Zonefs],
    },
    Preset {
        name: "xfs",
        about: "512 MiB of conventional zones for the metadata of XFS or f2fs",
        size: Bytes(2 * GIB),
        zone_size: Bytes(16 * MIB),
        zone_capacity: Bytes(16 * MIB),
        conventional: Conventional::Zones(32),
        max_open_zones: 16,
        max_active_zones: 24,
        takes: &[MeantFor::Btrfs, MeantFor::F2fs, MeantFor::Xfs, MeantFor::Zonefs, MeantFor::Zenfs],
    },
    Preset {
        name: "zonefs",
        about: "a file for each of 16 small zones, two of them conventional, to look at with zonefs",
        size: Bytes(64 * MIB),
        zone_size: Bytes(4 * MIB),
        zone_capacity: Bytes(3 * MIB),
        conventional: Conventional::Zones(2),
        max_open_zones: 4,
        max_active_zones: 6,
        takes: &[MeantFor::Zonefs],
    },
    Preset {
        name: "short-last",
        about: "a last zone that is shorter than the others, which much software forgets",
        size: Bytes(64 * MIB + MIB + MIB / 2),
        zone_size: Bytes(4 * MIB),
        zone_capacity: Bytes(4 * MIB),
        conventional: Conventional::Zones(2),
        max_open_zones: 0,
        max_active_zones: 0,
        takes: &[MeantFor::Zonefs],
    },
    Preset {
        name: "tight",
        about: "one zone open and two active at a time: what leaves zones open, finds out here",
        size: Bytes(64 * MIB),
        zone_size: Bytes(MIB),
        zone_capacity: Bytes(MIB - 64 * 1024),
        conventional: Conventional::Zones(0),
        max_open_zones: 1,
        max_active_zones: 2,
        takes: &[MeantFor::Zonefs],
    },
];

/// A preset by its name.
pub(super) fn named(name: &str) -> Result<&'static Preset, String> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("'{name}' is not a preset: expected {}", names.join(", "))
    })
}

/// Takes the name of a preset on the command line, and knows them all, for help and completions.
pub(super) fn parser() -> impl TypedValueParser<Value = &'static Preset> {
    let names = PRESETS.iter().map(|preset| PossibleValue::new(preset.name).help(preset.about));
    PossibleValuesParser::new(names).try_map(|name| named(&name))
}

/// A table for people.
pub(super) fn list() -> String {
    let mut list = String::new();
    for preset in PRESETS {
        list += &format!("{:<12} {}\n", preset.name, preset.about);
        let conventional = match preset.conventional {
            Conventional::Zones(zones) => zones.to_string(),
            Conventional::Percent(percent) => format!("{percent} %"),
        };
        let limit = |limit: u32| if limit == 0 { "no limit".into() } else { limit.to_string() };
        list += &format!(
            "{:12} size {}, zones of {}, capacity {}, conventional {conventional}, open {}, active {}\n",
            "",
            size::show(preset.size),
            size::show(preset.zone_size),
            size::show(preset.zone_capacity),
            limit(preset.max_open_zones),
            limit(preset.max_active_zones),
        );
        let takes: Vec<_> = preset.takes.iter().filter_map(MeantFor::to_possible_value).collect();
        let takes: Vec<&str> = takes.iter().map(PossibleValue::get_name).collect();
        list += &format!("{:12} for {}\n", "", takes.join(", "));
    }
    list
}

/// What a disk may be meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MeantFor {
    /// btrfs; asked is what mkfs.btrfs 6.2 and newer and Linux 6.1 and newer want.
    Btrfs,
    /// f2fs.
    F2fs,
    /// XFS, which has zones since Linux 6.15 and xfsprogs 6.15.
    Xfs,
    /// zonefs.
    Zonefs,
    /// ZenFS, RocksDB's own.
    Zenfs,
    /// dm-zoned.
    DmZoned,
    /// QEMU binaries with revision v7 of the zoned series: the write pointer table becomes little-endian.
    QemuV7,
}

/// Bytes of metadata that XFS wants conventional.
const XFS_METADATA: u64 = 300 * MIB;

/// The smallest disks that mkfs.btrfs 6.2 takes, whatever its zones: with single profiles, and with metadata twice.
const OLD_BTRFS_SINGLE: u64 = 47_185_920;
const OLD_BTRFS_DUP: u64 = 114_294_784;

impl MeantFor {
    /// Why it will refuse a disk like this one, or do wrong with it. What Linux and its tools of late 2026 ask for, and
    /// older ones where these say so; docs/reliability.md and tests/guest/software.sh have seen these refusals and what
    /// works.
    pub(super) fn objections(self, geometry: &Geometry, cluster_size: Bytes) -> Vec<String> {
        let mut objections = Vec::new();
        let mut unless = |fine: bool, objection: &str| {
            if !fine {
                objections.push(objection.to_owned());
            }
        };
        let zone = geometry.zone_size().0;
        let conventional = geometry.conventional_zones();
        let at_least = |limit: u32, least: u32| limit == 0 || limit >= least;
        let whole = geometry.zone_capacity().0 == zone;
        let size = geometry.size().0;
        match self {
            Self::Btrfs => {
                unless(zone >= 4 * MIB, "btrfs takes zones of 4 MiB to 8 GiB");
                unless(geometry.nr_zones() >= 7, "mkfs.btrfs takes seven zones or more");
                unless(
                    !(7..12).contains(&geometry.nr_zones()),
                    "mkfs.btrfs takes fewer than twelve zones only with -d single -m single",
                );
                unless(
                    size >= OLD_BTRFS_SINGLE,
                    "mkfs.btrfs 6.2 (Debian 12) and 6.6 (Ubuntu 24.04) take a disk of 45 MiB or more",
                );
                unless(
                    !(OLD_BTRFS_SINGLE..OLD_BTRFS_DUP).contains(&size),
                    "mkfs.btrfs 6.2 (Debian 12) and 6.6 (Ubuntu 24.04) take a disk below 109 MiB only with -d single -m single",
                );
                // Newer kernels take the lower of both limits.
                let limits = [geometry.max_active_zones(), geometry.max_open_zones()];
                unless(
                    limits.into_iter().all(|limit| at_least(limit, 8)),
                    "btrfs takes an active and an open limit of 8 or more, or none (0)",
                );
            }
            Self::F2fs => {
                unless(zone.is_multiple_of(2 * MIB), "f2fs takes zones of a multiple of 2 MiB");
                // The kernel looks at the open limit; an active one below it lowers that.
                unless(
                    at_least(geometry.max_open_zones(), 6) && at_least(geometry.max_active_zones(), 6),
                    "f2fs has six zones open: an active and an open limit of 6 or more, or none (0)",
                );
                unless(conventional > 0, "f2fs keeps metadata in conventional zones, or else on a second device");
            }
            Self::Xfs => {
                let room = geometry.first_sequential().0;
                unless(room >= XFS_METADATA, "XFS wants 300 MiB of conventional zones, or else a second device");
                unless(whole, "mkfs.xfs miscounts where the zone capacity is below the zone size");
            }
            Self::Zonefs => {}
            // Not tried here: as its source has it (ZonedBlockDevice::Open).
            Self::Zenfs => {
                unless(geometry.nr_zones() >= 32, "ZenFS takes 32 zones or more");
                let limits = [geometry.max_active_zones(), geometry.max_open_zones()];
                unless(
                    limits.into_iter().all(|limit| at_least(limit, 3)),
                    "ZenFS keeps two of the active and open zones for itself: limits of 3 or more, or none (0)",
                );
            }
            Self::DmZoned => {
                unless(whole, "dm-zoned takes only zones with a capacity of the zone size");
                unless(conventional > 0, "dm-zoned keeps metadata in conventional zones, or else on a second device");
            }
            // What its binaries were seen to do wrong.
            Self::QemuV7 => {
                unless(size < 4 * GIB, "v7 cuts write pointers to 32 bits: a disk for it is below 4 GiB");
                unless(whole, "v7 tells guests that the capacity of every zone is the zone size");
                unless(size.is_multiple_of(zone), "v7 does not reset a last zone that is shorter than the others");
                unless(zone >= cluster_size.0, "v7 fails to reset zones that are smaller than a cluster");
                unless(geometry.max_append().is_some(), "v7 passes on an append limit of 0, which Linux refuses");
            }
        }
        objections
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::named::Wanted;
    use super::*;
    use crate::qcow2::ByteOrder;

    const CLUSTER: Bytes = Bytes(64 << 10);

    fn geometry(description: &str) -> Geometry {
        let options = Wanted::parse(description).unwrap().complete(ByteOrder::Big).unwrap();
        let (geometry, clamps) = Geometry::new(&options.geometry).unwrap();
        assert!(clamps.is_empty(), "{description}: {clamps:?}");
        geometry
    }

    #[test]
    fn what_a_preset_is_for_has_no_objection_to_it() {
        for preset in PRESETS {
            let geometry = geometry(&format!("preset={}", preset.name));
            for file_system in preset.takes {
                let objections = file_system.objections(&geometry, CLUSTER);
                assert!(objections.is_empty(), "{} {file_system:?}: {objections:?}", preset.name);
            }
        }
    }

    #[test]
    fn each_rule_of_a_file_system_is_an_objection_of_its_own() {
        use MeantFor::{Btrfs, DmZoned, F2fs, QemuV7, Xfs, Zenfs};
        for (file_system, description, reason) in [
            (Btrfs, "128M,zone.size=2M", "4 MiB"),
            (Btrfs, "192M,zone.size=32M", "seven"),
            (Btrfs, "176M,zone.size=16M", "twelve"),
            (Btrfs, "48M,zone.size=4M", "only with -d single -m single"),
            (Btrfs, "108M,zone.size=4M", "only with -d single -m single"),
            (Btrfs, "128M,zone.size=4M,zone.max_active_zones=7", "limit"),
            (Btrfs, "128M,zone.size=4M,zone.max_open_zones=7", "limit"),
            (QemuV7, "4G,zone.size=64M", "below 4 GiB"),
            (QemuV7, "64M,zone.size=4M,zone.capacity=3M", "capacity"),
            (QemuV7, "62M,zone.size=4M", "shorter"),
            (QemuV7, "64M,zone.size=32K", "cluster"),
            (QemuV7, "64M,zone.size=4M,zone.max_append_bytes=0", "append limit"),
            (F2fs, "64M,zone.size=1M,zone.conventional_zones=4", "2 MiB"),
            (F2fs, "64M,zone.size=2M,zone.conventional_zones=4,zone.max_active_zones=5", "six"),
            (F2fs, "64M,zone.size=2M,zone.conventional_zones=4,zone.max_open_zones=5", "six"),
            (F2fs, "64M,zone.size=2M", "second device"),
            (Xfs, "1G,zone.size=4M,zone.conventional_zones=74", "300 MiB"),
            (Xfs, "1G,zone.size=4M,zone.capacity=3M,zone.conventional_zones=75", "below"),
            (Zenfs, "124M,zone.size=4M", "32 zones"),
            (Zenfs, "128M,zone.size=4M,zone.max_open_zones=2", "limits"),
            (DmZoned, "1G,zone.size=4M,zone.capacity=3M,zone.conventional_zones=8", "capacity"),
            (DmZoned, "1G,zone.size=4M", "second device"),
        ] {
            let objections = file_system.objections(&geometry(description), CLUSTER);
            assert_eq!(objections.len(), 1, "{description}: {objections:?}");
            assert!(objections.iter().all(|objection| objection.contains(reason)), "{description}: {objections:?}");
        }
    }

    #[test]
    fn mkfs_btrfs_of_debian_12_says_its_least_size_whatever_the_zones() {
        let objections = MeantFor::Btrfs.objections(&geometry("28M,zone.size=4M"), CLUSTER);
        let reasons = ["only with -d single -m single", "45 MiB or more"];
        assert_eq!(objections.len(), 2, "{objections:?}");
        assert!(objections.iter().zip(reasons).all(|(objection, reason)| objection.contains(reason)), "{objections:?}");
    }

    #[test]
    fn what_is_said_goes_before_the_preset() {
        let smr = geometry("16G,preset=smr");
        assert_eq!((smr.nr_zones(), smr.conventional_zones()), (64, 1));
        let zns = geometry("preset=zns,size=8G,zone.size=256M");
        assert_eq!((zns.nr_zones(), zns.zone_capacity()), (32, zns.zone_size()), "a capacity goes with its zones");
        let limits = |description| {
            let geometry = geometry(description);
            (geometry.max_open_zones(), geometry.max_active_zones())
        };
        assert_eq!(limits("preset=zns"), (14, 14));
        assert_eq!(limits("preset=zns,zone.max_active_zones=9"), (9, 9));
        assert_eq!(limits("preset=zns,zone.max_open_zones=3"), (3, 14));
    }
}
