//! The system calls of each kind of thread.
//!
//! Which calls these are depends on the C library that the program is built with, and on the processor: the newer ones
//! have no call that another one can stand for.
//!
//! A thread's filters add up: one of a queue has passed the main thread's and then its own. Memory can never be made
//! executable. Opening a path is refused and does not end the process: the C library tries to read a setting of the
//! kernel's when it gives memory back, and does without. A system call off the list ends the process with SIGSYS, which a
//! supervisor sees and restarts; the frontend's requests in flight are then answered by the next process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Role, SandboxError};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What every thread does: locks, memory, descriptors it has, its own end; and the log, which never waits for its reader
/// (poll, and sendto where that is the journal's socket).
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// What glibc does on its own account: to abort.
#[cfg(not(target_env = "musl"))]
const LIBRARY: &[i64] = &[libc::SYS_tgkill];

/// What musl does on its own account: to abort, and to sleep by the clock that it takes for a relative time.
#[cfg(target_env = "musl")]
const LIBRARY: &[i64] = &[libc::SYS_nanosleep, libc::SYS_tkill];

/// How glibc makes a thread, and what the new thread says to the kernel.
#[cfg(not(target_env = "musl"))]
const NEW_THREAD: &[i64] = &[libc::SYS_clone3, libc::SYS_rseq, libc::SYS_set_robust_list];

/// How musl makes a thread: by clone alone, see [`threads_only`].
#[cfg(target_env = "musl")]
const NEW_THREAD: &[i64] = &[];

/// Waiting for descriptors, by the call that only older processors have.
#[cfg(target_arch = "x86_64")]
const POLL: &[i64] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const POLL: &[i64] = &[];

/// Removing the sockets at the end, after a look whether they are still its own, which musl takes by an older call.
#[cfg(all(target_arch = "x86_64", not(target_env = "musl")))]
const REMOVE: &[i64] = &[libc::SYS_newfstatat, libc::SYS_unlink];
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
const REMOVE: &[i64] = &[libc::SYS_lstat, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const REMOVE: &[i64] = &[libc::SYS_newfstatat, libc::SYS_unlinkat];

/// Opening a path: refused, and harmless so.
#[cfg(target_arch = "x86_64")]
const REFUSED: &[i64] = &[libc::SYS_open, libc::SYS_openat];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED: &[i64] = &[libc::SYS_openat];

/// Metadata of the image.
const IMAGE: &[i64] = &[
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_pread64,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
];

/// A queue with either engine.
const QUEUE: &[i64] =
    &[libc::SYS_io_uring_enter, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_pwritev, libc::SYS_pwritev2];

/// Clients of the control socket; it flushes the image too.
const CONTROL: &[i64] = &[libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_fsync];

/// Frontends, and making threads and their engines; a new thread has these until it has confined itself.
const MAIN: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_eventfd2,
    libc::SYS_fstatfs,
    libc::SYS_getsockopt,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_memfd_create,
    libc::SYS_prctl,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigaction,
    libc::SYS_sched_getaffinity,
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

fn allowed(role: Role) -> Vec<&'static [i64]> {
    match role {
        Role::Main => vec![COMMON, POLL, LIBRARY, IMAGE, QUEUE, MAIN, NEW_THREAD, REMOVE],
        Role::Queue => vec![COMMON, POLL, LIBRARY, QUEUE],
        Role::Housekeeper => vec![COMMON, POLL, LIBRARY, IMAGE],
        Role::Link => vec![COMMON, POLL, LIBRARY],
        Role::Control => vec![COMMON, POLL, LIBRARY, CONTROL],
    }
}

/// mmap and mprotect, but not to make anything executable.
fn never_executable() -> Result<SeccompRule, seccompiler::Error> {
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, executable, 0)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// clone, but only to make a thread: what musl uses, and what glibc falls back to where a supervisor's filter has no
/// clone3, whose flags no filter can look at (systemd's RestrictNamespaces=).
fn threads_only() -> Result<SeccompRule, seccompiler::Error> {
    let thread = libc::CLONE_THREAD as u64;
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// ioctl, but only to ask how much has come on a socket and to make it non-blocking.
fn socket_ioctls() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let only = |request: u32| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(request))?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    // The kernel looks at 32 bits; the C libraries have the numbers in types of different width and sign.
    [libc::FIONREAD as u32, libc::FIONBIO as u32].into_iter().map(only).collect()
}

/// Whether the kernel has system call filters. Asked of the kernel itself: a service may not see all of /proc.
pub(super) fn exists() -> bool {
    // SAFETY: takes no further arguments and changes nothing.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) >= 0 }
}

/// Has the calling thread's attempts to open a path refused.
pub(super) fn refuse_paths() -> Result<(), SandboxError> {
    let rules = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    install(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32))
}

/// Puts the filter of a role on the calling thread; `log` lets everything through and has the kernel log it.
pub(super) fn apply(role: Role, log: bool) -> Result<(), SandboxError> {
    let rules = || -> Result<Rules, seccompiler::Error> {
        let mut rules: Rules = allowed(role).concat().into_iter().map(|number| (number, Vec::new())).collect();
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(number, vec![never_executable()?]);
        }
        if matches!(role, Role::Main | Role::Control) {
            rules.insert(libc::SYS_ioctl, socket_ioctls()?);
        }
        if role == Role::Main {
            rules.insert(libc::SYS_clone, vec![threads_only()?]);
        }
        if !log {
            rules.extend(REFUSED.iter().map(|number| (*number, Vec::new())));
        }
        Ok(rules)
    };
    let otherwise = if log { SeccompAction::Log } else { SeccompAction::KillProcess };
    install(rules().map_err(SandboxError::of("seccomp"))?, otherwise, SeccompAction::Allow)
}

fn install(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> Result<(), SandboxError> {
    let install = || -> Result<(), seccompiler::Error> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let program: BpfProgram = SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()?;
        seccompiler::apply_filter(&program)
    };
    install().map_err(SandboxError::of("seccomp"))
}
