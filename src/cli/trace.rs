//! `trace`: the requests that `serve --trace` has noted, for people or as JSON lines, when the disk's power went and came, and which
//! rules for faults have refused requests.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};
use zerocopy::{FromBytes, IntoBytes};

use super::{image, output, page};
use crate::observe::fault_names::FaultNames;
use crate::observe::trace::{About, Entry, HEADER_BYTES, Header, RECORD_BYTES, Record, Traced, TracedCut};
use crate::observe::{Rule, versioned};
use crate::picture::timeline::Unit;
use crate::picture::{Ordered, traced};
use crate::virtio::status::Status;
use crate::zone::Geometry;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file of "serve --trace".
    file: PathBuf,
    /// Print a JSON object a request, and one for each time that the power was cut or came back.
    #[arg(long)]
    json: bool,
    /// Draw the zones over time, as an HTML page in this file; - is standard output.
    #[arg(long, value_name = "OUT", conflicts_with_all = ["json", "refused", "zone", "queue", "kind", "rule"])]
    html: Option<PathBuf>,
    /// Only requests that were refused or failed.
    #[arg(long)]
    refused: bool,
    /// Only requests that begin in this zone.
    #[arg(long, value_name = "N")]
    zone: Option<u32>,
    /// Only requests of this queue.
    #[arg(long, value_name = "N")]
    queue: Option<u16>,
    /// Only requests of these kinds; power-cut and power-back are what became of the disk's power, and fault-rule, which is
    /// printed only if it is given here, what a rule for faults is called that refused requests from there on.
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = one_of(About::ALL, About::name))]
    kind: Vec<About>,
    /// Only requests that broke this rule, by the name that is printed.
    #[arg(long, value_name = "RULE", value_parser = one_of(Rule::ALL, Rule::name))]
    rule: Option<Rule>,
}

/// Opens a trace to go on with, or makes it. What is cut off at its end is removed.
pub(super) fn open(path: &Path, geometry: &Geometry) -> Result<File> {
    let go_on = || -> Result<File> {
        let options = &mut OpenOptions::new();
        let file = image::open_regular(path, options.read(true).append(true).create(true), "a trace, or no file yet")?;
        let found = file.metadata()?;
        if found.len() == 0 {
            (&file).write_all(Header::new(geometry).as_bytes())?;
            return Ok(file);
        }
        read_header(&mut &file)?.check_same(geometry)?;
        let records = (found.len() - HEADER_BYTES as u64) / RECORD_BYTES as u64;
        file.set_len(HEADER_BYTES as u64 + records * RECORD_BYTES as u64)?;
        Ok(file)
    };
    go_on().with_context(|| format!("--trace {}", path.display()))
}

fn read_header(file: &mut impl Read) -> Result<Header> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Header::parse(&[])?),
        read => Ok(read.map(|()| Header::parse(&header))??),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = || args.file.display().to_string();
    if let Some(out) = &args.html {
        return draw(&args.file, out);
    }
    let file = File::open(&args.file).context("the trace cannot be opened").with_context(name)?;
    let mut file = BufReader::new(file);
    read_header(&mut file).with_context(name)?;
    let mut out = output::stdout();
    let (mut first, mut names) = (None, FaultNames::default());
    let printed = loop {
        let Some(entry) = read_entry(&mut file).with_context(name)? else { break Ok(()) };
        let is_whole = match &entry {
            Entry::FaultRule(part) => names.take(part),
            _ => true,
        };
        // A name is written later than the request began whose refusal it is for.
        if entry.about() != About::FaultRule {
            first.get_or_insert(entry.time_ns());
        }
        if !is_whole || !args.wants(&entry) {
            continue;
        }
        let began = first.unwrap_or(entry.time_ns());
        let line = if args.json { as_json(&entry, &names)? } else { as_text(&entry, &names, began) };
        if let Err(error) = writeln!(out, "{line}") {
            break Err(error);
        }
    };
    output::finish(out, printed)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the next record; none behind the last whole one.
fn read_entry(file: &mut impl Read) -> Result<Option<Entry>> {
    let mut record = [0; RECORD_BYTES];
    match file.read_exact(&mut record) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let entry = Record::read_from_bytes(&record).ok().and_then(|record| record.decode());
    Ok(Some(entry.ok_or_else(|| anyhow!("a record that makes no sense"))?))
}

/// Draws what is in a trace by now.
fn draw(path: &Path, out: &Path) -> Result<ExitCode> {
    let name = || path.display().to_string();
    let file = image::open_regular(path, OpenOptions::new().read(true), "a trace of serve --trace");
    let file = file.context("the trace cannot be opened").with_context(name)?;
    let len = file.metadata().with_context(name)?.len();
    let geometry = read_header(&mut &file).and_then(|header| Ok(header.geometry()?)).with_context(name)?;
    let events = || {
        (&file).seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        // The daemon may go on writing meanwhile.
        let mut file = BufReader::new((&file).take(len.saturating_sub(HEADER_BYTES as u64)));
        let entries = std::iter::from_fn(move || read_entry(&mut file).with_context(name).transpose());
        Ok(Ordered::new(entries.filter_map(|entry| entry.map(|entry| traced::event(&entry)).transpose())))
    };
    page::draw(out, path, Unit::Nanoseconds, geometry, events)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn wants(&self, entry: &Entry) -> bool {
        let of_requests = self.refused || self.zone.is_some() || self.queue.is_some() || self.rule.is_some();
        let is_wanted = match entry {
            Entry::Request(traced) => self.wants_request(traced),
            Entry::PowerCut(_) | Entry::PowerBack { .. } => !of_requests,
            Entry::FaultRule(_) => !of_requests && !self.kind.is_empty(),
        };
        is_wanted && (self.kind.is_empty() || self.kind.contains(&entry.about()))
    }

    fn wants_request(&self, traced: &Traced) -> bool {
        (!self.refused || traced.status != Status::Ok)
            && self.zone.is_none_or(|zone| traced.zone.is_some_and(|found| found.0 == zone))
            && self.queue.is_none_or(|queue| traced.queue == queue)
            && self.rule.is_none_or(|rule| traced.refused.is_some_and(|(broken, _)| broken == rule))
    }
}

/// Seconds since the first record, and what happened.
fn as_text(entry: &Entry, names: &FaultNames, began: u64) -> String {
    let seconds = entry.time_ns().saturating_sub(began) as f64 / 1e9;
    let what = match entry {
        Entry::Request(traced) => request_as_text(traced, fault_of(traced, names)),
        Entry::PowerCut(TracedCut { digest, touched_zones, .. }) => {
            format!("the power is cut: {touched_zones} zones touched, state {digest:016x}")
        }
        Entry::PowerBack { .. } => "the power is back".to_owned(),
        Entry::FaultRule(part) => {
            format!("rule {} for faults is {}", part.number, names.get(part.number).unwrap_or_default())
        }
    };
    format!("{seconds:13.6} {what}")
}

/// What the rule for faults is called that refused a request.
fn fault_of<'a>(traced: &Traced, names: &'a FaultNames) -> Option<&'a str> {
    traced.fault.and_then(|number| names.get(number))
}

/// What was asked for, how it ended and how long that took. Sectors are of 512 bytes.
fn request_as_text(traced: &Traced, fault: Option<&str>) -> String {
    let mut line = format!("q{} {:<9}", traced.queue, traced.kind.name());
    if let Some(zone) = traced.zone {
        line += &format!(" zone {zone}");
    }
    if let Some(sector) = traced.sector {
        line += &format!(" sector {}", sector.0);
    }
    if traced.len.0 != 0 {
        line += &format!(" +{}", traced.len.to_sector().0);
    }
    line += &format!(" {} {} us", traced.status.name(), traced.duration_ns / 1000);
    if let Some((rule, zone)) = traced.refused {
        line += &format!(": {}", rule.name());
        if let Some(name) = fault {
            line += &format!(" {name}");
        }
        if let Some((state, pointer)) = zone {
            line += &format!(", zone {}, write pointer {}", state.name(), pointer.0);
        }
    }
    match (traced.position, traced.status) {
        (Some(sector), Status::Ok) => line + &format!(" at {}", sector.0),
        (Some(sector), _) => line + &format!(", expected {}", sector.0),
        (None, _) => line,
    }
}

fn as_json(entry: &Entry, names: &FaultNames) -> Result<String> {
    let (time_ns, kind) = (entry.time_ns(), entry.about().name());
    let all = match entry {
        Entry::Request(traced) => request_as_json(traced, fault_of(traced, names)),
        Entry::PowerCut(TracedCut { digest, touched_zones, .. }) => json!({
            "time_ns": time_ns, "kind": kind, "digest": format!("{digest:016x}"), "touched_zones": touched_zones,
        }),
        Entry::PowerBack { .. } => json!({ "time_ns": time_ns, "kind": kind }),
        Entry::FaultRule(part) => json!({
            "time_ns": time_ns, "kind": kind, "number": part.number, "fault": names.get(part.number),
        }),
    };
    Ok(serde_json::to_string(&versioned(all))?)
}

fn request_as_json(traced: &Traced, fault: Option<&str>) -> Value {
    let ok = traced.status == Status::Ok;
    let position = traced.position.map(|sector| sector.0);
    let (rule, zone) = traced.refused.unzip();
    let (state, pointer) = zone.flatten().unzip();
    json!({
        "time_ns": traced.time_ns,
        "duration_ns": traced.duration_ns,
        "queue": traced.queue,
        "kind": traced.kind.name(),
        "zone": traced.zone.map(|zone| zone.0),
        "sector": traced.sector.map(|sector| sector.0),
        "sectors": traced.len.to_sector().0,
        "status": traced.status.name(),
        "appended_at": position.filter(|_| ok),
        "rule": rule.map(Rule::name),
        "fault": fault,
        "zone_state": state.map(|state| state.name()),
        "write_pointer": pointer.map(|pointer| pointer.0),
        "expected": position.filter(|_| !ok),
    })
}

/// Takes one of `all` by its name, and knows all names, for help and completions.
fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.map(name)).try_map(move |text| {
        let known = all.into_iter().find(|one| name(*one) == text);
        known.ok_or("not a known name")
    })
}
