//! A host on which a file cannot be made durable: a system call filter of the process that asks for it.

use std::io;

/// From here on, every fsync and fdatasync of this process fails with EIO, but for those of one descriptor.
pub fn refuse_syncs_but_of(descriptor: u32) -> io::Result<()> {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, answer) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET);
    let filter = [
        // The number of the system call is the first word of what the filter sees.
        statement(load, 0, 0, 0),
        statement(equal, 1, 0, libc::SYS_fdatasync as u32),
        statement(equal, 0, 3, libc::SYS_fsync as u32),
        // The lower half of its first argument.
        statement(load, 0, 0, 16),
        statement(equal, 1, 0, descriptor),
        statement(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EIO as u32),
        statement(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: both calls take numbers and a pointer to a program that lives until they return.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}
