//! `convert`: an image becomes a disk of another form, or is made of one.
//!
//! A source is never written. A target must not exist, and has its name only when it is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use super::create::Endian;
use super::make::{fill, make_filled, unfinished};
use super::named::Wanted;
use super::progress::Progress;
use super::{image, output, parse_size};
use crate::control::ZoneRow;
use crate::convert::image::{ImageSource, ImageTarget};
use crate::convert::raw::{RawSource, RawTarget};
use crate::convert::table::{self, Limits};
use crate::convert::zloop::{Said, ZloopSource, ZloopTarget};
use crate::convert::{self, Source, Target};
use crate::logging;
use crate::qcow2::{ByteOrder, MAGIC};
use crate::storage::file::FileMedium;
use crate::store::ZoneInfo;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, Zone};

/// A form of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// An image of this program.
    Image,
    /// A directory of Linux's zoned loop driver.
    Zloop,
    /// A file, and a zone table beside it.
    Raw,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An image, a directory of Linux's zoned loop driver, or a raw file with --zones.
    source: PathBuf,
    /// What is made; it must not exist.
    target: PathBuf,
    /// What to make; an image when not given, unless the source is one.
    #[arg(long, value_enum, value_name = "FORM")]
    to: Option<Form>,
    /// The zone table of the raw file: read with a raw source (JSON of report, or blkzone's text), made with a raw target.
    #[arg(long, value_name = "FILE")]
    zones: Option<PathBuf>,
    /// Bytes of a zone, where the source does not say that.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    zone_size: Option<Bytes>,
    /// Writable bytes of a sequential zone, where the source does not say that.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    zone_capacity: Option<Bytes>,
    /// Most zones open at a time, in the image that is made; 0 is no limit. As in the source when not given.
    #[arg(long, value_name = "N")]
    max_open_zones: Option<u32>,
    /// Most zones active at a time, in the image that is made; 0 is no limit. As in the source when not given.
    #[arg(long, value_name = "N")]
    max_active_zones: Option<u32>,
    /// Longest zone append, in the image that is made. As in the source, or as "create" has it.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_append_bytes: Option<Bytes>,
    /// Cluster size of the image that is made, 512 to 2M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cluster_size: Option<Bytes>,
    /// Byte order of the write pointer table of the image that is made.
    #[arg(long, value_enum, value_name = "ORDER")]
    table_endian: Option<Endian>,
    /// Do not say what was made.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = || args.source.display().to_string();
    let (form, mut source) = args.open().with_context(name)?;
    let to = match (args.to, form) {
        (Some(to), _) => to,
        (None, Form::Image) => bail!("{}: an image already: expected --to zloop, raw or image", name()),
        (None, _) => Form::Image,
    };
    if args.zones.is_some() != (form == Form::Raw || to == Form::Raw) || (form, to) == (Form::Raw, Form::Raw) {
        bail!("--zones: expected with a raw source or a raw target, and only then");
    }
    if fs::symlink_metadata(&args.target).is_ok() {
        bail!("{}: it exists: remove it first, or choose another name", args.target.display());
    }
    match to {
        Form::Image => args.make_image(&mut *source, form)?,
        Form::Zloop => args.make_zloop(&mut *source).with_context(|| args.target.display().to_string())?,
        Form::Raw => args.make_raw(&mut *source).with_context(|| args.target.display().to_string())?,
    }
    if !args.quiet {
        output::print(format_args!("Made '{}' of '{}'\n", args.target.display(), name()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Opens the source, whatever it is.
    fn open(&self) -> Result<(Form, Box<dyn Source>)> {
        let limits = Limits {
            max_open_zones: self.max_open_zones.unwrap_or(0),
            max_active_zones: self.max_active_zones.unwrap_or(0),
            max_append_bytes: self.max_append_bytes.unwrap_or_default(),
        };
        if self.source.is_dir() {
            let said = Said { zone_size: self.zone_size, zone_capacity: self.zone_capacity, limits };
            return Ok((Form::Zloop, Box::new(ZloopSource::open(&self.source, &said)?)));
        }
        let file =
            image::open_regular(&self.source, File::options().read(true), "an image, a raw file or a directory")?;
        if self.zone_size.is_some() || self.zone_capacity.is_some() {
            bail!("--zone-size and --zone-capacity: expected with a directory only, as anything else says them");
        }
        let mut magic = [0; 4];
        if (&file).read_exact(&mut magic).is_ok() && magic == MAGIC.to_be_bytes() {
            let image = image::open_to_read(&self.source)?;
            return Ok((Form::Image, Box::new(ImageSource::new(image)?)));
        }
        let Some(zones) = &self.zones else {
            bail!("neither an image nor a directory: expected --zones with the zone table of a raw file");
        };
        let text = fs::read_to_string(zones).map_err(anyhow::Error::from);
        let table = text.and_then(|text| table::read(&text, limits)).with_context(|| zones.display().to_string());
        let (geometry, pointers) = table?;
        Ok((Form::Raw, Box::new(RawSource::new(file, geometry, pointers)?)))
    }

    fn make_image(&self, source: &mut dyn Source, form: Form) -> Result<()> {
        let geometry = *source.geometry();
        let table_order = match self.table_endian {
            Some(Endian::Little) => ByteOrder::Little,
            _ => ByteOrder::Big,
        };
        let wanted = Wanted {
            preset: None,
            size: Some(geometry.size()),
            cluster_size: self.cluster_size,
            zone_size: Some(geometry.zone_size()),
            zone_capacity: Some(geometry.zone_capacity()),
            // An image that states no limit has said so; the other forms say nothing.
            max_append_bytes: self
                .max_append_bytes
                .or((form == Form::Image).then(|| geometry.max_append().unwrap_or_default())),
            conventional_zones: Some(geometry.conventional_zones()),
            max_open_zones: self.max_open_zones.or(Some(geometry.max_open_zones())),
            max_active_zones: self.max_active_zones.or(Some(geometry.max_active_zones())),
        };
        let options = wanted.complete(table_order)?;
        let warnings = make_filled(&self.target, &mut |file| {
            let file = Arc::new(FileMedium::new(file));
            let warnings = fill(&file, &options)?;
            copy(source, ImageTarget::new(file)?)?;
            Ok(warnings)
        })?;
        warnings.iter().for_each(|warning| logging::warning(format_args!("{}: {warning}", self.target.display())));
        Ok(())
    }

    fn make_zloop(&self, source: &mut dyn Source) -> Result<()> {
        let unfinished = unfinished(&self.target);
        fs::create_dir(&unfinished)?;
        let made = ZloopTarget::new(&unfinished, source.geometry())
            .and_then(|target| copy(source, target))
            .and_then(|()| Ok(fs::rename(&unfinished, &self.target)?));
        made.inspect_err(|_| {
            // What was begun is worth nothing; the first error is the one to tell.
            let _ = fs::remove_dir_all(&unfinished);
        })
    }

    fn make_raw(&self, source: &mut dyn Source) -> Result<()> {
        let zones = self.zones.as_ref().ok_or_else(|| anyhow!("no zone table given: expected --zones FILE"))?;
        let geometry = *source.geometry();
        let rows = rows(&geometry, source.pointers());
        make_filled(zones, &mut |file| {
            let mut out = BufWriter::new(&file);
            table::write_json(&mut out, rows.iter().cloned())?;
            out.flush()?;
            drop(out);
            file.sync_all()?;
            Ok(Vec::new())
        })?;
        let made = make_filled(&self.target, &mut |file| {
            copy(source, RawTarget::new(file, &geometry)?)?;
            Ok(Vec::new())
        });
        made.map(drop).inspect_err(|_| {
            // The table of a file that is not there.
            let _ = fs::remove_file(zones);
        })
    }
}

/// Makes the target hold what the source does, and shows on a terminal how far that is.
fn copy(source: &mut dyn Source, target: impl Target) -> Result<()> {
    let mut progress = Progress::new("converting");
    convert::copy(source, target, |done, of| progress.at(done.0, of.0))
}

fn rows(geometry: &Geometry, pointers: &[Bytes]) -> Vec<ZoneRow> {
    let row = |(index, pointer): (ZoneIndex, &Bytes)| {
        ZoneRow::from(&ZoneInfo::of(geometry, index, &Zone::from_pointer(geometry, index, *pointer)))
    };
    (0..).map(ZoneIndex).zip(pointers).map(row).collect()
}
