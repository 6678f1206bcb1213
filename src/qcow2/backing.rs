//! What an image says of the base that it builds on: its file (QEMU's docs/interop/qcow2, "backing_file_offset" and the header
//! extension "backing file format name"), and, in a header extension of this project's own, which content of that file is meant.
//!
//! The extension [`IDENTITY`] is, every integer big-endian: one byte 1 (version), one byte 1 while the image is being committed and else
//! 0, two bytes 0, four bytes length of the stamp,
//! eight bytes length of the base's file, 32 bytes SHA-256 of its first cluster, 32 bytes SHA-256 of its write-pointer table, and
//! the stamp: what whoever opens the base knows of its last change, in words. Programs that do not know the extension pass
//! over it, as the format asks.

use sha2::{Digest, Sha256};

use super::error::{Changed, OpenError};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// The header extension "backing file format name".
pub(super) const FORMAT: u32 = 0xe279_2aca;
/// The header extension that says which content of the base is meant: "zbas".
pub(super) const IDENTITY: u32 = 0x7a62_6173;
/// The only format that a base has.
pub(super) const QCOW2: &str = "qcow2";
/// The most bytes of the name, by the format.
pub(super) const LONGEST_NAME: usize = 1023;
/// Bytes of the extension before the stamp.
const FIXED: usize = 80;
/// The most bytes of a stamp.
const LONGEST_STAMP: usize = 255;
/// How much is read at a time.
const PIECE: u64 = 64 * 1024;

/// The base of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its file, as whoever made the image has named it: a relative name begins in the image's own folder.
    pub name: String,
    /// Which content is meant; an image of another program does not say.
    pub identity: Option<Identity>,
}

/// Which content of a file is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The length of the file.
    pub len: Bytes,
    /// SHA-256 of its first cluster.
    pub header: [u8; 32],
    /// SHA-256 of its write-pointer table.
    pub pointers: [u8; 32],
    /// Its last change, in the words of whoever opens it: a file's time, an object's tag.
    pub stamp: String,
    /// The image's changes are being taken into the base, which may have any of them by now.
    pub committing: bool,
}

impl Identity {
    /// The identity of an image, whose write-pointer table is at `pointers`.
    pub(super) fn of<S: Medium>(
        storage: &S,
        cluster_size: Bytes,
        pointers: FileRange,
        stamp: String,
    ) -> Result<Self, OpenError> {
        let reading = || OpenError::io("read the file to tell whether it has changed");
        let len = storage.len().map_err(reading())?;
        let digest = |from: u64, len: u64| {
            let mut digest = Sha256::new();
            let mut piece = Vec::new();
            for done in (0..len).step_by(PIECE as usize) {
                piece.resize(PIECE.min(len - done) as usize, 0);
                storage.read_at(FileOffset(from + done), &mut piece).map_err(reading())?;
                digest.update(&piece);
            }
            Ok::<[u8; 32], OpenError>(digest.finalize().into())
        };
        Ok(Self {
            len,
            header: digest(0, cluster_size.0.min(len.0))?,
            pointers: digest(pointers.0.0, pointers.1.0)?,
            stamp,
            committing: false,
        })
    }

    /// What sets the content that was found apart from this, which is meant.
    pub(super) fn changed(&self, found: &Self) -> Option<Changed> {
        let same = [
            (self.len == found.len, Changed::Length),
            (self.header == found.header, Changed::Header),
            (self.pointers == found.pointers, Changed::Pointers),
            (self.stamp == found.stamp, Changed::Stamp),
        ];
        same.into_iter().find(|(same, _)| !same).map(|(_, changed)| changed)
    }

    /// The extension's data.
    pub(super) fn encode(&self) -> Vec<u8> {
        let stamp = self.stamp.as_bytes();
        let stamp = stamp.get(..LONGEST_STAMP).unwrap_or(stamp);
        let lengths =
            [&[1, u8::from(self.committing), 0, 0][..], &(stamp.len() as u32).to_be_bytes(), &self.len.0.to_be_bytes()]
                .concat();
        [&lengths[..], &self.header, &self.pointers, stamp].concat()
    }

    /// Reads the extension's data.
    pub(super) fn parse(data: &[u8]) -> Result<Self, OpenError> {
        let wrong = |field, value: usize, expected: String| OpenError::field(field, value, expected);
        let short = || wrong("the length of the base's identity", data.len(), format!("at least {FIXED}"));
        let (fixed, stamp) = data.split_at_checked(FIXED).ok_or_else(short)?;
        let array = |from: usize| fixed.get(from..from + 32).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 32]);
        let word = |from: usize| fixed.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 4]);
        let [version, committing, ..] = word(0);
        if version != 1 {
            return Err(wrong("the version of the base's identity", version.into(), "1".to_owned()));
        }
        let len = u32::from_be_bytes(word(4)) as usize;
        let stamp = stamp.get(..len).filter(|_| len <= LONGEST_STAMP);
        let stamp =
            stamp.and_then(|stamp| std::str::from_utf8(stamp).ok()).filter(|stamp| !stamp.contains(char::is_control));
        let expected = || format!("UTF-8 of at most {LONGEST_STAMP} bytes inside the extension");
        let stamp = stamp.ok_or_else(|| wrong("the length of the stamp in the base's identity", len, expected()))?;
        let high = u64::from(u32::from_be_bytes(word(8)));
        Ok(Self {
            len: Bytes(high << 32 | u64::from(u32::from_be_bytes(word(12)))),
            header: array(16),
            pointers: array(48),
            stamp: stamp.to_owned(),
            committing: committing != 0,
        })
    }
}
