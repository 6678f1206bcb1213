//! What the process may still do once it serves: what a guest could reach by a bug in this program is the image and
//! nothing else.
//!
//! Entered by the only thread there is, after the image and the socket are open and before the first message of a
//! frontend is read:
//!
//! * capabilities are dropped, and no program run from here could get any (no new privileges);
//! * Landlock: no path can be opened, but for the removal of files in the folders of the sockets of our own, which are
//!   removed at the end; no TCP; no signals or abstract sockets beyond this process where the kernel knows that;
//! * seccomp: a list of system calls, see [`seccomp`]; threads for queues and for housekeeping narrow it further.
//!
//! io_uring runs no path operation without Landlock's consent either, and a queue's thread can make no second ring.
//! Where the kernel lacks one of these, the daemon says so and goes on with the others.

mod seccomp;

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest Landlock that this was written for; of an older kernel's, what there is is used.
const LANDLOCK: ABI = ABI::V6;

/// How far the process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A system call off the list ends the process.
    Enforce,
    /// It is let through and logged by the kernel (audit, type 1326); nothing else is restricted.
    Log,
    /// Nothing is restricted.
    Off,
}

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connections, messages, starting and stopping threads; closing the image at the end.
    Main,
    /// One queue, after its engine was made.
    Queue,
    /// Metadata of the image.
    Housekeeper,
    /// Clients of the control socket.
    Control,
    /// Messages of the fetcher of a base.
    Link,
}

/// Why the process cannot be confined, though the kernel knows how.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A part failed.
    #[error("the process cannot be confined ({what}: {reason}); see --sandbox")]
    Failed {
        /// Which part.
        what: &'static str,
        /// What the system or library said.
        reason: String,
    },
}

impl SandboxError {
    fn of<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |reason| Self::Failed { what, reason: reason.to_string() }
    }
}

/// The confinement in force.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox {
    mode: Mode,
}

impl Sandbox {
    /// Confines the process, which has one thread. `removable`: folders whose files may be removed.
    pub fn enter(mode: Mode, removable: &[&Path]) -> Result<Self, SandboxError> {
        if mode == Mode::Off {
            return Ok(Self { mode });
        }
        let filters = seccomp::exists();
        if mode == Mode::Enforce {
            drop_capabilities()?;
            deny_paths(removable)?;
        }
        if !filters {
            log::warn!("this kernel has no system call filters: all system calls stay allowed");
            return Ok(Self { mode: Mode::Off });
        }
        if mode == Mode::Enforce {
            seccomp::refuse_paths()?;
        }
        let sandbox = Self { mode };
        sandbox.confine(Role::Main)?;
        Ok(sandbox)
    }

    /// Narrows what the calling thread may do to what its role needs.
    pub fn confine(self, role: Role) -> Result<(), SandboxError> {
        match self.mode {
            Mode::Off => Ok(()),
            Mode::Log | Mode::Enforce => seccomp::apply(role, self.mode == Mode::Log),
        }
    }
}

/// Confines a fetcher: it has no capabilities, gets none, and changes no file outside a folder.
pub fn confine_fetcher(folder: &Path) -> Result<(), SandboxError> {
    drop_capabilities()?;
    let failed = SandboxError::of::<landlock::RulesetError>("Landlock");
    let folder = PathFd::new(folder).map_err(SandboxError::of("Landlock"))?;
    let writes = AccessFs::from_write(LANDLOCK);
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(writes)?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .add_rule(PathBeneath::new(folder, writes))?
            .restrict_self()
    };
    restrict().map(|_| ()).map_err(failed)
}

fn drop_capabilities() -> Result<(), SandboxError> {
    for set in [caps::CapSet::Ambient, caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).map_err(SandboxError::of("dropping capabilities"))?;
    }
    Ok(())
}

/// From here on no path can be opened. Sets "no new privileges" too.
fn deny_paths(removable: &[&Path]) -> Result<(), SandboxError> {
    let failed = SandboxError::of::<landlock::RulesetError>("Landlock");
    let folders: Result<Vec<_>, _> = removable.iter().map(PathFd::new).collect();
    let folders = folders.map_err(SandboxError::of("Landlock"))?;
    let restrict = || -> Result<_, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        for folder in folders {
            rules = rules.add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
        }
        rules.restrict_self()
    };
    let status = restrict().map_err(failed)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => log::info!("this kernel's Landlock does not know all that is to be denied"),
        RulesetStatus::NotEnforced => log::warn!("this kernel has no Landlock: files are guarded by seccomp alone"),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn no_path_can_be_opened_and_only_files_of_the_one_folder_removed() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = [own.path().join("socket"), other.path().join("precious")];
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let already_open = File::open(&files[0]).unwrap();
        // Of this thread only: the other tests go on.
        let results = std::thread::scope(|scope| {
            let confined = || {
                deny_paths(&[own.path()]).unwrap();
                let opened = File::open(&files[0]).err().map(|error| error.kind());
                let made = File::create(own.path().join("new")).err().map(|error| error.kind());
                let read = already_open.metadata().is_ok();
                (opened, made, read, fs::remove_file(&files[1]).is_ok(), fs::remove_file(&files[0]).is_ok())
            };
            scope.spawn(confined).join().unwrap()
        });
        let denied = Some(ErrorKind::PermissionDenied);
        assert_eq!(results, (denied, denied, true, false, true));
    }

    /// In a process of its own: what is off the list ends it.
    fn ends_by(action: &str) -> Option<i32> {
        let program = std::env::current_exe().unwrap();
        let name = "sandbox::tests::child";
        let child = Command::new(program).args(["--exact", name, "--ignored"]).env("ZBD_ACTION", action).output();
        let status = child.unwrap().status;
        if status.success() { None } else { Some(status.signal().unwrap_or(0)) }
    }

    #[test]
    #[ignore = "run by the tests below, in a process of its own"]
    fn child() {
        let action = std::env::var("ZBD_ACTION").unwrap();
        let role = match action.split_once(' ').unwrap().0 {
            "queue" => Role::Queue,
            "housekeeper" => Role::Housekeeper,
            "control" => Role::Control,
            "link" => Role::Link,
            _ => Role::Main,
        };
        // The main thread of a test program is not this one and has no filter; this thread is what counts.
        let sandbox = Sandbox { mode: Mode::Enforce };
        seccomp::refuse_paths().unwrap();
        sandbox.confine(Role::Main).unwrap();
        if role != Role::Main {
            sandbox.confine(role).unwrap();
        }
        match action.split_once(' ').unwrap().1 {
            "nothing" => {}
            "open" => assert!(File::open("/dev/null").is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)),
            "run" => drop(Command::new("/bin/true").status()),
            "fork" => {
                // SAFETY: never comes to be; a child would only end.
                unsafe {
                    if libc::fork() == 0 {
                        libc::_exit(0)
                    }
                }
            }
            "connect" => drop(std::net::TcpStream::connect("127.0.0.1:9")),
            "ring" => drop(io_uring::IoUring::new(8)),
            "thread" => drop(std::thread::spawn(|| ()).join()),
            "sleep" => std::thread::sleep(std::time::Duration::from_millis(1)),
            "abort" => std::process::abort(),
            "code" => {
                // SAFETY: a new mapping that nothing uses.
                unsafe {
                    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_EXEC, kind, -1, 0);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn a_system_call_that_a_role_does_not_need_ends_the_process() {
        let (killed, aborted) = (Some(libc::SIGSYS), Some(libc::SIGABRT));
        for (action, end) in [
            ("main nothing", None),
            ("main open", None),
            ("main run", killed),
            ("main fork", killed),
            ("main connect", killed),
            ("main code", killed),
            ("main ring", None),
            ("main thread", None),
            ("queue open", None),
            ("queue ring", killed),
            ("queue thread", killed),
            ("queue code", killed),
            ("housekeeper ring", killed),
            ("housekeeper connect", killed),
            ("control connect", killed),
            ("control thread", killed),
            ("control nothing", None),
            ("link nothing", None),
            ("link connect", killed),
            ("link thread", killed),
            ("housekeeper sleep", None),
            ("main abort", aborted),
            ("queue abort", aborted),
            ("control abort", aborted),
        ] {
            assert_eq!(ends_by(action), end, "{action}");
        }
    }
}
