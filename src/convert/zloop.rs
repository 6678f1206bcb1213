//! A directory of Linux's zoned loop driver (Documentation/admin-guide/blockdev/zoned_loop): a file for each zone,
//! `cnv-NUMBER` or `seq-NUMBER`, the number of six digits. That of a sequential zone is as long as the zone is written, that
//! of a conventional one always as long as the zone.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::syncfs;

use super::table::Limits;
use super::{Source, Target, data_in, read_at};
use crate::storage::file::open_regular;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, GeometryRequest, ZoneKind};

/// The driver's unit of sizes.
const MIB: u64 = 1 << 20;

/// What cannot be seen from the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Bytes of a zone. Needed where there is no conventional zone, whose file has this length.
    pub zone_size: Option<Bytes>,
    /// Writable bytes of a sequential zone; the zone size when not given.
    pub zone_capacity: Option<Bytes>,
    /// The driver has no limits.
    pub limits: Limits,
}

/// A directory that is read. The driver does not have it at the time.
pub struct ZloopSource {
    folder: PathBuf,
    geometry: Geometry,
    pointers: Vec<Bytes>,
    open: Option<(ZoneIndex, File)>,
}

/// The file of a zone.
fn file_of(folder: &Path, kind: ZoneKind, zone: ZoneIndex) -> PathBuf {
    let kind = match kind {
        ZoneKind::Conventional => "cnv",
        ZoneKind::SequentialWriteRequired => "seq",
    };
    folder.join(format!("{kind}-{:06}", zone.0))
}

/// The kind and number that a file's name says.
fn zone_of(name: &str) -> Option<(ZoneKind, u32)> {
    let (kind, number) = name.split_once('-')?;
    let kind = match kind {
        "cnv" => ZoneKind::Conventional,
        "seq" => ZoneKind::SequentialWriteRequired,
        _ => return None,
    };
    let is_number = number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| number.parse().ok()).flatten().map(|number| (kind, number))
}

impl ZloopSource {
    /// Looks at the files of a directory.
    pub fn open(folder: &Path, said: &Said) -> Result<Self> {
        let mut zones = files(folder)?;
        zones.sort_unstable_by_key(|(number, ..)| *number);
        for (expected, (number, ..)) in (0..).zip(&zones) {
            if *number != expected {
                bail!("zone {expected} has no file: expected one for each of {} zones", zones.len());
            }
        }
        let conventional = zones.iter().take_while(|(_, kind, _)| *kind == ZoneKind::Conventional).count();
        if let Some((number, ..)) = zones.iter().skip(conventional).find(|(_, kind, _)| *kind == ZoneKind::Conventional)
        {
            bail!("zone {number} is conventional: expected all conventional zones before all others");
        }
        let by_files = zones.first().filter(|_| conventional > 0).map(|(.., len)| Bytes(*len));
        let zone_size = said.zone_size.or(by_files).ok_or_else(|| {
            anyhow!("no zone size given: expected --zone-size, as no conventional zone shows by its file what it is")
        })?;
        let count = u32::try_from(zones.len()).context("too many zones")?;
        let (geometry, _) = Geometry::new(&GeometryRequest {
            size: Bytes(u64::from(count).saturating_mul(zone_size.0)),
            zone_size,
            zone_capacity: said.zone_capacity.unwrap_or(zone_size),
            conventional_zones: u32::try_from(conventional)?,
            max_open_zones: said.limits.max_open_zones,
            max_active_zones: said.limits.max_active_zones,
            max_append_bytes: said.limits.max_append_bytes,
        })?;
        let pointers = zones.iter().map(|(number, kind, len)| pointer(&geometry, ZoneIndex(*number), *kind, *len));
        let pointers = pointers.collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), geometry, pointers, open: None })
    }

    fn file(&mut self, at: u64) -> Result<(u64, &File)> {
        let geometry = &self.geometry;
        let zone = geometry.zone_at(Bytes(at)).ok_or_else(|| anyhow!("byte {at} is past the disk's end"))?;
        let start = geometry.start(zone).0;
        if self.open.as_ref().is_none_or(|(open, _)| *open != zone) {
            let path = file_of(&self.folder, geometry.kind(zone), zone);
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            self.open = Some((zone, file));
        }
        self.open.as_ref().map(|(_, file)| (start, file)).ok_or_else(|| anyhow!("zone {zone} has no file"))
    }
}

/// The number, the kind and the length of each zone's file.
fn files(folder: &Path) -> Result<Vec<(u32, ZoneKind, u64)>> {
    let mut zones = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((kind, number)) = name.to_str().and_then(zone_of) else {
            bail!("{}: expected only files of zones, cnv-NNNNNN and seq-NNNNNN", Path::new(&name).display());
        };
        let path = entry.path();
        let file = open_regular(&path, File::options().read(true), "the file of a zone");
        let file = file.with_context(|| path.display().to_string())?;
        zones.push((number, kind, file.metadata()?.len()));
    }
    if zones.is_empty() {
        bail!("no zone has a file: expected cnv-000000 or seq-000000, and one for each further zone");
    }
    Ok(zones)
}

/// The write pointer that the length of a zone's file says.
fn pointer(geometry: &Geometry, zone: ZoneIndex, kind: ZoneKind, len: u64) -> Result<Bytes> {
    let (start, size, capacity) = (geometry.start(zone).0, geometry.len(zone).0, geometry.capacity(zone).0);
    match kind {
        ZoneKind::Conventional if len == size => Ok(Bytes(start)),
        ZoneKind::Conventional => bail!("cnv-{:06} has {len} bytes: expected {size}, as the zone", zone.0),
        // Linux before 7 makes the file of a finished zone as long as the zone.
        _ if len == size => Ok(geometry.writable_end(zone)),
        _ if len <= capacity => Ok(Bytes(start + len)),
        _ => bail!("seq-{:06} has {len} bytes: expected at most the zone's capacity, {capacity}", zone.0),
    }
}

impl Source for ZloopSource {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn pointers(&self) -> &[Bytes] {
        &self.pointers
    }

    fn data(&mut self, from: u64, end: u64) -> Result<Option<Range<u64>>> {
        if from >= end {
            return Ok(None);
        }
        let (start, file) = self.file(from)?;
        Ok(data_in(file, from - start, end - start)?.map(|data| data.start + start..data.end + start))
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        let (start, file) = self.file(at)?;
        read_at(file, at - start, into).context("the file of a zone cannot be read")
    }
}

/// A directory that is filled. The driver takes it by `id=NAME,base_dir=FOLDER` when its name is a number.
pub struct ZloopTarget {
    folder: PathBuf,
    geometry: Geometry,
    open: Option<(ZoneIndex, File)>,
}

impl ZloopTarget {
    /// Takes an empty directory.
    pub fn new(folder: &Path, geometry: &Geometry) -> Result<Self> {
        let zone = geometry.zone_size().0;
        if !zone.is_multiple_of(MIB) || !geometry.zone_capacity().0.is_multiple_of(MIB) {
            bail!(
                "zones of {zone} bytes, {} of them writable: expected whole MiB, which the driver counts in",
                geometry.zone_capacity()
            );
        }
        if !geometry.size().is_multiple_of(zone) {
            bail!("the last zone is shorter than {zone} bytes: expected whole zones, as the driver has no others");
        }
        Ok(Self { folder: folder.to_owned(), geometry: *geometry, open: None })
    }

    fn file(&mut self, zone: ZoneIndex) -> Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != zone) {
            let path = file_of(&self.folder, self.geometry.kind(zone), zone);
            let file = File::options().write(true).create(true).truncate(false).open(&path);
            let file = file.with_context(|| path.display().to_string())?;
            self.open = Some((zone, file));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or_else(|| anyhow!("zone {zone} has no file"))
    }
}

impl Target for ZloopTarget {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let zone = self.geometry.zone_at(Bytes(at)).ok_or_else(|| anyhow!("byte {at} is past the disk's end"))?;
        let start = self.geometry.start(zone).0;
        self.file(zone)?.write_all_at(bytes, at - start).context("the file of a zone cannot be written")
    }

    fn finish(mut self, pointers: &[Bytes]) -> Result<()> {
        let geometry = self.geometry;
        for (zone, pointer) in (0..geometry.nr_zones()).map(ZoneIndex).zip(pointers) {
            let len = match geometry.kind(zone) {
                ZoneKind::Conventional => geometry.len(zone).0,
                ZoneKind::SequentialWriteRequired => pointer.0.saturating_sub(geometry.start(zone).0),
            };
            self.file(zone)?
                .set_len(len)
                .context("the file of a zone cannot be made as long as the zone is written")?;
        }
        // All files at once, of which there may be very many.
        syncfs(&File::open(&self.folder)?).context("the files of the zones cannot be made durable")
    }
}
