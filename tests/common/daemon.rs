//! The daemon as a child process.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::cli::program;
use super::eventually;

/// A running daemon. Killed when dropped; its log is printed when the test has failed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    first: Option<UnixStream>,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Serves `image` on `socket` and waits until a connection is taken, which is kept for the first frontend. Its
    /// log goes beside the socket.
    #[track_caller]
    pub fn start(image: &Path, socket: &Path, args: &[&str]) -> Self {
        let mut daemon = Self::spawn(image, socket, args);
        daemon.await_socket();
        daemon
    }

    /// The same without waiting.
    pub fn spawn(image: &Path, socket: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg("serve").arg(image).arg("--socket-path").arg(socket).args(args);
        Self::spawn_command(&mut command, socket)
    }

    /// Serves on descriptor 3, which is `listener`, bound to `socket`.
    pub fn spawn_on_fd(image: &Path, listener: OwnedFd, socket: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg("serve").arg(image).args(["--fd", "3"]).args(args);
        let fd = listener.as_raw_fd();
        let pass = move || {
            // SAFETY: both are plain system calls that are allowed between fork and exec.
            let failed = if fd == 3 {
                // SAFETY: as above.
                unsafe { libc::fcntl(3, libc::F_SETFD, 0) < 0 }
            } else {
                // SAFETY: as above.
                unsafe { libc::dup2(fd, 3) < 0 }
            };
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: the closure makes only async-signal-safe calls and owns nothing but a number.
        unsafe { command.pre_exec(pass) };
        Self::spawn_command(&mut command, socket)
    }

    /// Runs any command line of the program that serves on `socket`.
    pub fn spawn_program(command: &mut Command, socket: &Path) -> Self {
        Self::spawn_command(command, socket)
    }

    /// A daemon that somebody else runs: what is here in its place only waits.
    pub fn elsewhere(socket: &Path) -> Self {
        let log = std::env::temp_dir().join(format!("elsewhere-{}.log", std::process::id()));
        let child = Command::new("sleep").arg("infinity").spawn().expect("sleep");
        Self { child, socket: socket.to_path_buf(), log, first: None, ended: None }
    }

    fn spawn_command(command: &mut Command, socket: &Path) -> Self {
        let log = socket.with_extension("log");
        let stderr = File::options().create(true).append(true).open(&log).expect("log file");
        Self::spawn_logging_to(command, socket, stderr.into())
    }

    /// Runs any command line of the program that serves on `socket`, with a standard error of the test's own.
    pub fn spawn_logging_to(command: &mut Command, socket: &Path, stderr: Stdio) -> Self {
        let log = socket.with_extension("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, socket: socket.to_path_buf(), log, first: None, ended: None }
    }

    /// Waits until a connection is taken.
    #[track_caller]
    pub fn await_socket(&mut self) {
        let stream = eventually("the daemon's socket", || {
            if let Some(status) = self.try_wait() {
                panic!("the daemon ended with {status} instead of listening");
            }
            match UnixStream::connect(&self.socket) {
                Ok(stream) => Some(stream),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => None,
                Err(e) => panic!("connecting to the daemon: {e}"),
            }
        });
        self.first = Some(stream);
    }

    /// A new connection, or the one with which [`Daemon::start`] waited.
    pub fn connect(&mut self) -> UnixStream {
        self.first.take().unwrap_or_else(|| UnixStream::connect(&self.socket).expect("connecting to the daemon"))
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All that the daemon has logged, earlier daemons on the same socket included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has a line with all of `fragments`, in any letter case.
    #[track_caller]
    pub fn await_log(&self, fragments: &[&str]) {
        eventually(&format!("a log line with {fragments:?}"), || {
            let log = self.log().to_lowercase();
            log.lines().any(|line| fragments.iter().all(|f| line.contains(&f.to_lowercase()))).then_some(())
        });
    }

    /// The process's number.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait");
        }
        self.ended
    }

    /// Whether the daemon still runs.
    pub fn is_alive(&mut self) -> bool {
        self.try_wait().is_none()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&mut self, signal: i32) {
        assert!(self.is_alive(), "the daemon ended by itself with {:?}", self.ended);
        // SAFETY: the child is ours and not yet reaped, so its number is its own.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0, "kill");
    }

    /// Waits for the daemon's end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the daemon's end", || self.try_wait())
    }

    /// Kills the daemon between any two instructions.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Asks the daemon to end, and waits for it.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Lets every write past `limit` bytes of a file fail with EFBIG, as a full file system does with ENOSPC.
    pub fn limit_file_size(&self, limit: Option<u64>) {
        let limit = libc::rlimit { rlim_cur: limit.unwrap_or(libc::RLIM_INFINITY), rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the structure is valid during the call; the old limit is not asked for.
        let set = unsafe { libc::prlimit(self.pid(), libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "prlimit: {}", std::io::Error::last_os_error());
    }

    /// A number of the process's status file, in KiB.
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process's status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_whitespace().next()).expect("the field of the status");
        number.parse().expect("a number")
    }

    /// The process's memory that is its own: what the host would have back if it ended.
    pub fn private_kib(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("the process's memory");
        let private = rollup.lines().filter(|line| line.starts_with("Private_"));
        private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    }

    /// Processor time of all its threads so far, in ticks of the clock.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process's times");
        // The name in front may hold anything, and ends at the last parenthesis.
        let fields = stat.rsplit(')').next().expect("the fields behind the name");
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// How many descriptors the process has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process's descriptors").count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ({}):", ended.map_or("it was running".to_string(), |s| s.to_string()));
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("--- end of the log");
        }
    }
}
