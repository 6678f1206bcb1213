//! A state as an image: the recording done again on a fork of the image that it began with, and the power cut.
//!
//! States come in the order of the recording. What a recording has done up to the last quiet place before a state is kept in a fork
//! that goes along, so that a state takes no more than what was done since.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::survey::{Quiet, State};
use crate::chain::{self, ChainError};
use crate::power::Words;
use crate::qcow2::{self, CreateError, ForkOptions};
use crate::record::{Machine, ReadError, Reader, ReplayError, Unsynced};
use crate::storage::Layered;
use crate::storage::copy::Copying;
use crate::storage::file::FileMedium;

/// Bytes of a recording that are read at a time.
const READ: usize = 1 << 20;

/// A file that is not made durable: what it holds is of use only while this program runs.
pub type Scratch = Layered<Unsynced<FileMedium>>;

/// Why a state could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The base cannot be read.
    #[error(transparent)]
    Base(#[from] ChainError),
    /// A fork of it cannot be made.
    #[error(transparent)]
    Fork(#[from] CreateError),
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The recording cannot be done again.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A file cannot be written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What a state is cannot be told.
    #[error("a state cannot be told: {0}")]
    Told(#[from] serde_json::Error),
}

/// A recording, and the image that it began with.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The file of the recording.
    pub log: PathBuf,
    /// The file of the image.
    pub base: PathBuf,
    /// What a [scan](crate::record::Scan::undone) has found.
    pub undone: Arc<HashSet<u64>>,
}

impl Recording {
    /// The records from a place on.
    pub fn records(&self, from: Quiet) -> Result<Reader<BufReader<File>>, MakeError> {
        let failed = |error| MakeError::Io { path: self.log.clone(), error };
        let mut file = File::open(&self.log).map_err(failed)?;
        let reader = Reader::new(BufReader::with_capacity(READ, file.try_clone().map_err(failed)?))?;
        if from == Quiet::default() {
            return Ok(reader);
        }
        file.seek(SeekFrom::Start(from.at)).map_err(failed)?;
        Ok(Reader::go_on(BufReader::with_capacity(READ, file), *reader.header(), from.next, from.at))
    }

    /// Makes a fork of the image, in a file that is there or is made, and forgets what it held.
    pub fn fork(&self, path: &Path) -> Result<(), MakeError> {
        let failed = |error| MakeError::Io { path: path.to_owned(), error };
        let medium = FileMedium::new(open(path, true).map_err(failed)?);
        let chain = chain::open(&self.base)?;
        let name =
            std::fs::canonicalize(&self.base).map_err(|error| MakeError::Io { path: self.base.clone(), error })?;
        let options = ForkOptions::of(&chain.base, name.to_string_lossy().into_owned());
        Ok(qcow2::fork(&Layered(Unsynced(Arc::new(medium))), &chain.base, &options)?)
    }

    /// A disk on a fork.
    pub fn machine(&self, path: &Path) -> Result<Machine<Scratch>, MakeError> {
        let file = open(path, false).map_err(|error| MakeError::Io { path: path.to_owned(), error })?;
        let medium = Arc::new(Layered(Unsynced(Arc::new(FileMedium::new(file)))));
        let chain = chain::bases_of(path, &*medium)?;
        let header = *self.records(Quiet::default())?.header();
        let base = chain.map(|chain| chain.base);
        Ok(Machine::new(medium, base, header.block(), Arc::clone(&self.undone))?)
    }
}

fn open(path: &Path, empty: bool) -> io::Result<File> {
    File::options().read(true).write(true).create(empty).truncate(empty).open(path)
}

/// Makes states, in a folder of its own.
pub struct Maker {
    recording: Recording,
    /// The disk as it was at the last quiet place.
    standing: PathBuf,
    stands: Option<Quiet>,
}

impl Maker {
    /// Makes states of a recording; `folder` is there and nobody else's.
    pub fn new(recording: Recording, folder: &Path) -> Self {
        Self { recording, standing: folder.join("standing.qcow2"), stands: None }
    }

    /// Makes a state as an image, in a file that is there or is made.
    pub fn make(&mut self, state: &State, path: &Path) -> Result<(), MakeError> {
        self.stand(state.quiet)?;
        self.copy(path)?;
        let mut machine = self.recording.machine(path)?;
        let mut records = self.recording.records(state.quiet)?;
        while let Some(record) = records.read()?.filter(|record| record.number <= state.record) {
            machine.take(&record)?;
        }
        let words = Words { state: Some(serde_json::to_value(state.told())?), ..Words::default() };
        machine.cut(words)?;
        Ok(machine.finish()?)
    }

    /// Has the disk stand at a quiet place.
    fn stand(&mut self, at: Quiet) -> Result<(), MakeError> {
        let from = match self.stands.take() {
            Some(stands) if stands.next <= at.next => stands,
            _ => {
                self.recording.fork(&self.standing)?;
                Quiet::default()
            }
        };
        if from != at {
            let mut machine = self.recording.machine(&self.standing)?;
            let mut records = self.recording.records(from)?;
            while let Some(record) = records.read()?.filter(|record| record.number < at.next) {
                machine.take(&record)?;
            }
            machine.finish()?;
        }
        self.stands = Some(at);
        Ok(())
    }

    fn copy(&self, path: &Path) -> Result<(), MakeError> {
        let failed = |error| MakeError::Io { path: path.to_owned(), error };
        let (from, to) = (File::open(&self.standing).map_err(failed)?, open(path, true).map_err(failed)?);
        Copying { from: &from, to: &to, start: 0, keep: None }.copy(&|| true).map_err(failed)?;
        Ok(())
    }
}
