//! The states of a recording as the explorer finds and makes them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vhost_user_zbd::disk::{Disk, Opening};
use vhost_user_zbd::explore::maker::Recording;
use vhost_user_zbd::explore::survey::Quiet;
use vhost_user_zbd::explore::{Level, Maker, State, Survey};
use vhost_user_zbd::record::{Reader, Scan};
use vhost_user_zbd::units::{Bytes, Sector};

use crate::tape::{BLOCK, Tape};

/// A recording in a folder of its own.
pub(crate) struct Stored {
    folder: tempfile::TempDir,
    pub(crate) recording: Recording,
    pub(crate) maker: Maker,
}

impl Stored {
    pub(crate) fn new(tape: &mut Tape) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (base, log) = (folder.path().join("base.qcow2"), folder.path().join("log"));
        tape.store(&base, &log);
        let mut reader = Reader::new(std::fs::File::open(&log).unwrap()).unwrap();
        let undone = Scan::of(&mut reader, None, |_| {}).unwrap().undone();
        let recording = Recording { log, base, undone };
        let maker = Maker::new(recording.clone(), folder.path());
        Self { folder, recording, maker }
    }

    /// The states of a level.
    pub(crate) fn states(&self, level: Level) -> Vec<State> {
        let path = self.folder.path().join("survey.qcow2");
        self.recording.fork(&path).unwrap();
        let machine = self.recording.machine(&path).unwrap();
        let mut survey = Survey::new(machine, level, Arc::clone(&self.recording.undone));
        let mut records = self.recording.records(Quiet::default()).unwrap();
        let (mut states, mut last) = (Vec::new(), 0);
        while let Some(record) = records.read().unwrap() {
            last = record.number;
            survey.take(&record, records.at(), &mut |state| states.push(state)).unwrap();
        }
        survey.end(last, &mut |state| states.push(state)).unwrap();
        let same: HashSet<_> = states.iter().map(|state| (state.identity, state.marks.len())).collect();
        assert_eq!(same.len(), states.len(), "none is there twice");
        states
    }

    /// Makes a state, and returns where.
    pub(crate) fn make(&mut self, state: &State) -> PathBuf {
        let path = self.folder.path().join("state.qcow2");
        self.maker.make(state, &path).unwrap();
        path
    }
}

/// What a disk shows: of each block its first byte, with the write pointers in blocks.
pub(crate) fn shown(path: &Path) -> (Vec<u8>, Vec<u64>) {
    let mut disk = Disk::open_image(path, Opening::default().block(Bytes(BLOCK)).read_only()).unwrap();
    let zones = disk.report(Sector(0), usize::MAX).unwrap();
    let size = disk.geometry().zone_size();
    let bytes: Vec<u8> = zones.iter().flat_map(|zone| disk.read(zone.start.to_sector(), size).unwrap()).collect();
    let pointers = zones.iter().map(|zone| zone.write_pointer.0 / BLOCK).collect();
    (bytes.chunks(BLOCK as usize).map(|block| block[0]).collect(), pointers)
}
