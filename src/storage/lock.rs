//! The image lock that QEMU takes, so that qemu-img, qemu-system and this daemon refuse one another (P7).
//!
//! QEMU guards an image with open-file-description locks on single bytes: byte 100 + n is locked shared by whoever
//! uses permission n, byte 200 + n by whoever does not share permission n with others. A process takes its bytes and
//! then looks whether another holds one that contradicts (QEMU, docs "locking" of the file driver).
//!
//! Every open file description that io_uring writes through holds the lock: after a kill the kernel ends what is in
//! flight a moment later than the process, and nobody else may have the image until then. So an image that nobody
//! alive has open is waited for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// The permissions, by their number in QEMU, that matter for an image file.
const PERMISSIONS: [(i64, &str); 4] = [(0, "consistent read"), (1, "write"), (2, "write unchanged"), (3, "resize")];

/// How long, and how often, an image is tried that is locked by nobody who can be seen: the kernel may be ending the
/// I/O of a killed process, or the holder is another user's.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 150;

/// What the image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading, while nobody writes.
    Read,
    /// Writing, while nobody else does.
    Write,
}

/// Another process holds the image.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// In use.
    #[error("the image is in use by {holder}: could not get the \"{permission}\" lock")]
    InUse {
        /// Who holds it, as far as that can be seen.
        holder: String,
        /// The permission that was refused.
        permission: &'static str,
    },
    /// The file system cannot lock.
    #[error("the image cannot be locked: {0}")]
    Io(#[from] io::Error),
}

impl Purpose {
    fn uses(self, permission: i64) -> bool {
        match self {
            Purpose::Read => permission == 0,
            Purpose::Write => matches!(permission, 0 | 1 | 3),
        }
    }

    fn shares(self, permission: i64) -> bool {
        matches!(permission, 0 | 2)
    }
}

/// Locks `file` for as long as its open file description lives. Waits a few seconds for a holder that has died.
pub fn lock_image(file: &File, purpose: Purpose) -> Result<(), LockError> {
    hold(file, purpose)?;
    for _ in 0..TRIES {
        match contradiction(file, purpose)? {
            None => return Ok(()),
            Some(permission) => {
                if let Some(holder) = holder(file) {
                    return Err(LockError::InUse { holder, permission });
                }
                sleep(PAUSE);
            }
        }
    }
    match contradiction(file, purpose)? {
        None => Ok(()),
        Some(permission) => Err(LockError::InUse { holder: "another process".to_owned(), permission }),
    }
}

/// Holds the lock through another open file description of an image that this process has locked.
pub fn hold(file: &File, purpose: Purpose) -> io::Result<()> {
    for (permission, _) in PERMISSIONS {
        if purpose.uses(permission) {
            set(file, libc::F_RDLCK, USED_BASE + permission)?;
        }
        if !purpose.shares(permission) {
            set(file, libc::F_RDLCK, UNSHARED_BASE + permission)?;
        }
    }
    Ok(())
}

/// The first permission that another's locks refuse.
fn contradiction(file: &File, purpose: Purpose) -> io::Result<Option<&'static str>> {
    for (permission, name) in PERMISSIONS {
        let refused = (purpose.uses(permission) && held(file, UNSHARED_BASE + permission)?)
            || (!purpose.shares(permission) && held(file, USED_BASE + permission)?);
        if refused {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether another process has the image open for writing. Takes no lock.
pub fn is_written(file: &File) -> io::Result<bool> {
    held(file, USED_BASE + 1)
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

fn set(file: &File, kind: i32, byte: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, byte)))?;
    Ok(())
}

/// Whether somebody else has locked this byte.
fn held(file: &File, byte: i64) -> io::Result<bool> {
    let mut probe = range(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

/// Who else has the file open, by what /proc shows to this user; locks themselves name no process.
fn holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let own = std::process::id();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let opened = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let same = |link: fs::DirEntry| {
            fs::metadata(link.path()).is_ok_and(|seen| (seen.dev(), seen.ino()) == (wanted.dev(), wanted.ino()))
        };
        if pid != own && opened.into_iter().any(same) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim_end()));
        }
    }
    None
}
