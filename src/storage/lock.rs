//! The image lock that QEMU takes, so that qemu-img, qemu-system and this daemon refuse one another (P7).
//!
//! QEMU guards an image with open-file-description locks on single bytes: byte 100 + n is locked shared by whoever
//! uses permission n, byte 200 + n by whoever does not share permission n with others. A process takes its bytes and
//! then looks whether another holds one that contradicts (QEMU, docs "locking" of the file driver).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, fcntl};

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// The permissions, by their number in QEMU, that matter for an image file.
const PERMISSIONS: [(i64, &str); 4] = [(0, "consistent read"), (1, "write"), (2, "write unchanged"), (3, "resize")];

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

/// Locks `file` for as long as it, or a duplicate of its descriptor, is open.
pub fn lock_image(file: &File, purpose: Purpose) -> Result<(), LockError> {
    for (permission, _) in PERMISSIONS {
        if purpose.uses(permission) {
            set(file, libc::F_RDLCK, USED_BASE + permission)?;
        }
        if !purpose.shares(permission) {
            set(file, libc::F_RDLCK, UNSHARED_BASE + permission)?;
        }
    }
    for (permission, name) in PERMISSIONS {
        let refused = (purpose.uses(permission) && held(file, UNSHARED_BASE + permission)?)
            || (!purpose.shares(permission) && held(file, USED_BASE + permission)?);
        if refused {
            return Err(LockError::InUse { holder: holder(file), permission: name });
        }
    }
    Ok(())
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
fn holder(file: &File) -> String {
    let unknown = || "another process".to_owned();
    let Ok(wanted) = file.metadata() else {
        return unknown();
    };
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else {
        return unknown();
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let opened = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let same = |link: fs::DirEntry| {
            fs::metadata(link.path()).is_ok_and(|seen| (seen.dev(), seen.ino()) == (wanted.dev(), wanted.ino()))
        };
        if pid != own && opened.into_iter().any(same) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("{} (process {pid})", name.trim_end());
        }
    }
    unknown()
}
