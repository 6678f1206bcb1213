//! One object in the cache folder: a folder with
//!
//! | file | holds |
//! | --- | --- |
//! | `object` | the identity, as JSON; locked shared by whoever uses the entry |
//! | `data` | the object's bytes, holes where they are not present |
//! | `words` | a page of header, then the words of [`presence`](super::presence); byte n of it is locked by who has the claim of chunk n |
//! | `read` | the marks of readers |
//! | `durable` | the words that were made durable with their data, as far as none was given up since |
//!
//! Words say what is in the page cache, so after the host has started anew they say nothing: the entry then goes on from `durable`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use sha2::{Digest, Sha256};

use super::chunks::{self, CHUNK};
use super::message::{Files, Identity};
use super::presence::{Presence, words_len};

/// What the file of words begins with, before the host's boot.
const MAGIC: &[u8; 16] = b"zbd-cache-words1";

/// Bytes of a host's boot identity.
const BOOT: usize = 36;

/// Where the hand of the clock stands that gives up chunks.
const HAND: u64 = 64;

/// An object in the cache.
#[derive(Debug)]
pub(super) struct Entry {
    folder: PathBuf,
    identity: Identity,
    held: File,
    data: File,
    words: Arc<File>,
    presence: Presence,
}

/// The right to fetch a chunk or to give it up; it ends with this value, or with the process.
#[derive(Debug)]
pub(super) struct Claim {
    words: Arc<File>,
    chunk: u64,
}

impl Claim {
    /// Of which chunk.
    pub(super) fn chunk(&self) -> u64 {
        self.chunk
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // It would fail for a range that cannot be; the process's end gives it back as well.
        let _ = lock(&self.words, libc::F_UNLCK, self.chunk, false);
    }
}

/// Locks a byte of a file: whether it could be.
fn lock(file: &File, kind: i32, byte: u64, wait: bool) -> io::Result<bool> {
    let start = i64::try_from(byte).map_err(|_| io::ErrorKind::InvalidInput)?;
    let range =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: 1, l_pid: 0 };
    loop {
        let locked = if wait { FcntlArg::F_OFD_SETLKW(&range) } else { FcntlArg::F_OFD_SETLK(&range) };
        match fcntl(file.as_fd(), locked) {
            Ok(_) => return Ok(true),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN | nix::Error::EACCES) if !wait => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Locks a file as a whole, for one process alone; ends with the file.
pub(super) fn lock_alone(file: &File, wait: bool) -> io::Result<bool> {
    lock(file, libc::F_WRLCK, 0, wait)
}

/// Locks a file against those that want it alone; ends with the file.
fn lock_shared(file: &File) -> io::Result<bool> {
    lock(file, libc::F_RDLCK, 0, true)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Which start of the host this is.
fn boot() -> [u8; BOOT] {
    let text = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.get(..BOOT).and_then(|text| text.try_into().ok()).unwrap_or([b'0'; BOOT])
}

/// The folder's name for an identity.
pub(super) fn name_of(identity: &Identity) -> String {
    let digest = Sha256::digest(serde_json::to_vec(identity).unwrap_or_default());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Entry {
    /// Opens the entry of an object below a folder, and makes it where there is none. The cache is locked: nobody else opens or
    /// removes one meanwhile.
    pub(super) fn open(below: &Path, identity: &Identity) -> io::Result<Self> {
        let folder = below.join(name_of(identity));
        fs::create_dir_all(&folder)?;
        let mut held = open(&folder.join("object"))?;
        let told = serde_json::to_vec(identity)?;
        let mut there = Vec::new();
        held.read_to_end(&mut there)?;
        if there != told {
            // New, or not made to its end.
            held.set_len(0)?;
            held.write_all_at(&told, 0)?;
        }
        // When it was used last, for who has to give something up.
        held.set_modified(SystemTime::now())?;
        let is_alone = lock_alone(&held, false)?;
        let count = chunks::count(identity.len);
        let data = open(&folder.join("data"))?;
        data.set_len(identity.len)?;
        let words = open(&folder.join("words"))?;
        words.set_len(words_len(count))?;
        let read = open(&folder.join("read"))?;
        read.set_len(count.max(1))?;
        let presence = Presence::of_fetcher(words.try_clone()?, read, count)?;
        let entry = Self { folder, identity: identity.clone(), held, data, words: Arc::new(words), presence };
        if is_alone {
            entry.trust_or_clear()?;
        }
        lock_shared(&entry.held)?;
        Ok(entry)
    }

    /// Opens an entry that somebody has in use, to give chunks of it up. The cache is locked.
    pub(super) fn look(folder: &Path) -> io::Result<Self> {
        let identity: Identity = serde_json::from_slice(&fs::read(folder.join("object"))?)?;
        let count = chunks::count(identity.len);
        let words = open(&folder.join("words"))?;
        let presence = Presence::of_fetcher(words.try_clone()?, open(&folder.join("read"))?, count)?;
        let (held, data) = (File::open(folder.join("object"))?, open(&folder.join("data"))?);
        Ok(Self { folder: folder.to_owned(), identity, held, data, words: Arc::new(words), presence })
    }

    /// Whether the words are of this start of the host; else goes on from what is durable. Nobody else has the entry.
    fn trust_or_clear(&self) -> io::Result<()> {
        let mut header = [0; MAGIC.len() + BOOT];
        self.words.read_exact_at(&mut header, 0)?;
        let now = [&MAGIC[..], &boot()].concat();
        if header == now[..] {
            return Ok(());
        }
        let durable =
            self.durable().unwrap_or_else(|| vec![false; usize::try_from(self.presence.chunks()).unwrap_or(0)]);
        for (chunk, present) in (0..).zip(durable) {
            self.presence.store(chunk, present.into());
            if !present {
                let bytes = chunks::bytes(&(chunk..chunk + 1), self.identity.len);
                self.punch(bytes.start, bytes.end - bytes.start);
            }
        }
        self.words.write_all_at(&now, 0)
    }

    /// What was made durable, with a digest behind it.
    fn durable(&self) -> Option<Vec<bool>> {
        let text = fs::read(self.folder.join("durable")).ok()?;
        let (marks, digest) = text.split_at_checked(usize::try_from(self.presence.chunks()).ok()?)?;
        (Sha256::digest(marks)[..] == *digest).then(|| marks.iter().map(|mark| *mark == 1).collect())
    }

    /// Syncs the data. Returns the words that were there before: what they say is present is durable as long as they stay.
    pub(super) fn sync(&self) -> io::Result<Vec<u32>> {
        let words = (0..self.presence.chunks()).map(|chunk| self.presence.word(chunk)).collect();
        self.data.sync_data()?;
        Ok(words)
    }

    /// Notes what is present and durable for the host's next start. The cache is locked: nothing is given up meanwhile.
    pub(super) fn note_durable(&self, synced: &[u32]) -> io::Result<()> {
        let is_durable = |(chunk, word): (u64, &u32)| word & 1 == 1 && self.presence.word(chunk) == *word;
        let marks: Vec<u8> = (0..).zip(synced).map(|both| u8::from(is_durable(both))).collect();
        let (new, path) = (self.folder.join("durable.new"), self.folder.join("durable"));
        let mut file = File::create(&new)?;
        file.write_all(&marks)?;
        file.write_all(&Sha256::digest(&marks))?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Forgets what is durable, before some of it is given up.
    fn forget_durable(&self) -> io::Result<()> {
        match fs::remove_file(self.folder.join("durable")) {
            Ok(()) => File::open(&self.folder)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Which object it is.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Which of its chunks are present.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// What a daemon gets of it.
    pub(super) fn files(&self) -> io::Result<Files> {
        let reading = |name: &str| File::open(self.folder.join(name));
        Ok(Files {
            data: reading("data")?,
            words: reading("words")?,
            read: open(&self.folder.join("read"))?,
            held: self.held.try_clone()?,
        })
    }

    /// Takes the claim of a chunk; waits for who has it, or returns none.
    pub(super) fn claim(&self, chunk: u64, wait: bool) -> io::Result<Option<Claim>> {
        let locked = lock(&self.words, libc::F_WRLCK, chunk, wait)?;
        Ok(locked.then(|| Claim { words: Arc::clone(&self.words), chunk }))
    }

    /// Puts a chunk's bytes in and says that it is there.
    pub(super) fn fill(&self, claim: &Claim, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, claim.chunk.saturating_mul(CHUNK))?;
        // Somebody is about to read it: the hand of the clock is to pass it by once.
        self.presence.mark_read(&(claim.chunk..claim.chunk + 1));
        self.presence.set(claim.chunk, true);
        Ok(())
    }

    /// Finds space for chunks that are about to be filled, so that it is counted from now on.
    pub(super) fn allocate(&self, chunks: &Range<u64>) -> io::Result<()> {
        let bytes = chunks::bytes(chunks, self.identity.len);
        let off = |at: u64| i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput);
        match fallocate(
            &self.data,
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            off(bytes.start)?,
            off(bytes.end - bytes.start)?,
        ) {
            // Counted as it is written, then.
            Err(nix::Error::EOPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The space it takes, in bytes.
    pub(super) fn space(folder: &Path) -> u64 {
        let of = |name: &str| fs::metadata(folder.join(name)).map_or(0, |about| about.blocks().saturating_mul(512));
        ["data", "words", "read", "durable"].map(of).iter().sum()
    }

    /// Gives up chunks until `wanted` bytes are free, those first that nobody has read since the hand of the clock last came by.
    /// Returns how many bytes there are.
    pub(super) fn give_up(&self, wanted: u64) -> io::Result<u64> {
        let count = self.presence.chunks();
        if count == 0 {
            return Ok(0);
        }
        let mut hand = self.hand()? % count;
        let mut freed = 0;
        let mut is_forgotten = false;
        for _ in 0..count.saturating_mul(2) {
            if freed >= wanted {
                break;
            }
            let chunk = hand;
            hand = (hand + 1) % count;
            if !self.presence.is_present(chunk) || self.presence.take_read(chunk) {
                continue;
            }
            let Some(_claim) = self.claim(chunk, false)? else { continue };
            if !std::mem::replace(&mut is_forgotten, true) {
                self.forget_durable()?;
            }
            self.presence.set(chunk, false);
            let bytes = chunks::bytes(&(chunk..chunk + 1), self.identity.len);
            self.punch(bytes.start, bytes.end - bytes.start);
            freed += bytes.end - bytes.start;
        }
        self.words.write_all_at(&hand.to_le_bytes(), HAND)?;
        Ok(freed)
    }

    fn hand(&self) -> io::Result<u64> {
        let mut hand = [0; 8];
        self.words.read_exact_at(&mut hand, HAND)?;
        Ok(u64::from_le_bytes(hand))
    }

    fn punch(&self, start: u64, len: u64) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(len)) else { return };
        if len > 0
            && let Err(error) = fallocate(&self.data, flags, start, len)
        {
            log::debug!("the cache's file system takes no space back: {error}");
        }
    }
}

/// Removes an entry that nobody uses; whether it could. The cache is locked.
pub(super) fn remove(folder: &Path) -> io::Result<bool> {
    let held = match File::options().read(true).write(true).open(folder.join("object")) {
        Ok(held) => Some(held),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(held) = &held
        && !lock_alone(held, false)?
    {
        return Ok(false);
    }
    // First what says that something is there.
    for name in ["durable", "words", "object"] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir_all(folder)?;
    Ok(true)
}
