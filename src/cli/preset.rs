//! Geometries by name, and what file systems ask of one.

use clap::ValueEnum;
use clap::builder::PossibleValue;

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
    /// The file systems that are known to take it.
    pub(super) takes: &'static [FileSystem],
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
        takes: &[FileSystem::Btrfs, FileSystem::Zonefs, FileSystem::Zenfs],
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
        takes: &[FileSystem::Btrfs, FileSystem::F2fs, FileSystem::Xfs, FileSystem::Zonefs, FileSystem::Zenfs],
    },
    Preset {
        name: "btrfs-small",
        about: "the least that mkfs.btrfs takes, with -d single -m single: seven zones of 4 MiB",
        size: Bytes(28 * MIB),
        zone_size: Bytes(4 * MIB),
        zone_capacity: Bytes(4 * MIB),
        conventional: Conventional::Zones(0),
        max_open_zones: 0,
        max_active_zones: 0,
        takes: &[FileSystem::Btrfs, FileSystem::Zonefs],
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
        takes: &[FileSystem::Btrfs, FileSystem::F2fs, FileSystem::Xfs, FileSystem::Zonefs, FileSystem::Zenfs],
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
        takes: &[FileSystem::Zonefs],
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
        takes: &[FileSystem::Zonefs],
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
        takes: &[FileSystem::Zonefs],
    },
];

/// A preset by its name.
pub(super) fn named(name: &str) -> Result<&'static Preset, String> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("'{name}' is not a preset: expected {}", names.join(", "))
    })
}

/// A table for people.
pub(super) fn print_list() {
    for preset in PRESETS {
        println!("{:<12} {}", preset.name, preset.about);
        let conventional = match preset.conventional {
            Conventional::Zones(zones) => zones.to_string(),
            Conventional::Percent(percent) => format!("{percent} %"),
        };
        let limit = |limit: u32| if limit == 0 { "no limit".into() } else { limit.to_string() };
        println!(
            "{:12} size {}, zones of {}, capacity {}, conventional {conventional}, open {}, active {}",
            "",
            size::show(preset.size),
            size::show(preset.zone_size),
            size::show(preset.zone_capacity),
            limit(preset.max_open_zones),
            limit(preset.max_active_zones),
        );
        let takes: Vec<_> = preset.takes.iter().filter_map(FileSystem::to_possible_value).collect();
        let takes: Vec<&str> = takes.iter().map(PossibleValue::get_name).collect();
        println!("{:12} for {}", "", takes.join(", "));
    }
}

/// What a disk may be meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FileSystem {
    Btrfs,
    F2fs,
    Xfs,
    Zonefs,
    Zenfs,
    DmZoned,
}

/// Bytes of metadata that XFS wants conventional.
const XFS_METADATA: u64 = 300 * MIB;

impl FileSystem {
    /// Why it will refuse a disk like this one. What Linux and its tools of late 2026 ask for; docs/reliability.md and
    /// tests/guest/software.sh have seen these refusals and what works.
    pub(super) fn objections(self, geometry: &Geometry) -> Vec<String> {
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
        match self {
            Self::Btrfs => {
                unless(zone >= 4 * MIB, "btrfs takes zones of 4 MiB to 8 GiB");
                unless(geometry.nr_zones() >= 7, "mkfs.btrfs takes seven zones or more");
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
        }
        objections
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::create::Wanted;
    use super::*;
    use crate::qcow2::ByteOrder;

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
                let objections = file_system.objections(&geometry);
                assert!(objections.is_empty(), "{} {file_system:?}: {objections:?}", preset.name);
            }
        }
    }

    #[test]
    fn each_rule_of_a_file_system_is_an_objection_of_its_own() {
        use FileSystem::{Btrfs, DmZoned, F2fs, Xfs, Zenfs};
        for (file_system, description, reason) in [
            (Btrfs, "64M,zone.size=2M", "4 MiB"),
            (Btrfs, "24M,zone.size=4M", "seven"),
            (Btrfs, "64M,zone.size=4M,zone.max_active_zones=7", "limit"),
            (Btrfs, "64M,zone.size=4M,zone.max_open_zones=7", "limit"),
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
            let objections = file_system.objections(&geometry(description));
            assert_eq!(objections.len(), 1, "{description}: {objections:?}");
            assert!(objections.iter().all(|objection| objection.contains(reason)), "{description}: {objections:?}");
        }
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
