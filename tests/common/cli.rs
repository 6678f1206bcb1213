//! The commands of the program, and images made by them.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::{KIB, MIB, eventually};

/// The program under test: the one that was built with the tests, or the one that VUZ_BIN names.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> =
        LazyLock::new(|| std::env::var("VUZ_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_vhost-user-zbd").into()));
    &PROGRAM
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Run {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub fn run_command(command: &mut Command) -> Run {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let reader = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.expect("piped").read_to_end(&mut text).expect("reading the program's output");
            String::from_utf8(text).expect("the program's output is not UTF-8")
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let status = eventually(&format!("the end of {command:?}"), || child.try_wait().expect("wait"));
    Run { status, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
}

/// Runs the program with `args`.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Run {
    run_command(Command::new(program()).args(args).env_remove("RUST_LOG"))
}

/// Runs the program with `args`, which must succeed; gives its standard output.
#[track_caller]
pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S]) -> String {
    let run = run(args);
    assert!(run.status.success(), "{args:?} failed with {}: {}", run.status, run.stderr);
    run.stdout
}

/// Runs the program with `args`, which must fail as every command fails: see [`assert_refusal`].
#[track_caller]
pub fn fails<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S], fragments: &[&str]) -> Run {
    let run = run(args);
    assert_refusal(&run, fragments, &format!("{args:?}"));
    run
}

/// A failure is an exit status that is not 0, nothing on standard output, and on standard error one line that begins with
/// the program's name, or what clap says of a wrong command line. It says each of `fragments` (in any letter case; alternatives separated by `|`).
#[track_caller]
pub fn assert_refusal(run: &Run, fragments: &[&str], what: &str) {
    let Run { status, stdout, stderr } = run;
    assert!(status.code().is_some_and(|code| code != 0), "{what}: {status}, expected a failure; {stdout}{stderr}");
    assert_eq!(stdout, "", "{what}: a failure prints to standard output");
    if stderr.starts_with("error: ") {
        let help = "For more information, try '--help'.\n";
        assert!(stderr.ends_with(help), "{what}: a wrong command line is not laid out as clap does: {stderr}");
    } else {
        assert_eq!(stderr.lines().count(), 1, "{what}: expected one line on standard error: {stderr}");
        assert!(stderr.starts_with("vhost-user-zbd: "), "{what}: the line does not begin with the program: {stderr}");
    }
    let lower = stderr.to_lowercase();
    for fragment in fragments {
        let found = fragment.split('|').any(|one| lower.contains(&one.to_lowercase()));
        assert!(found, "{what}: the message lacks \"{fragment}\": {stderr}");
    }
}

/// The shape of an image.
#[derive(Clone, Copy, Debug)]
pub struct Geo {
    /// Bytes on the device.
    pub size: u64,
    /// Bytes in a zone.
    pub zone: u64,
    /// Writable bytes in a zone.
    pub cap: u64,
    /// Conventional zones.
    pub conv: u32,
    /// Limit of open zones.
    pub open: u32,
    /// Limit of active zones.
    pub active: u32,
    /// Bytes in the longest append.
    pub append: u64,
    /// Bytes in a cluster.
    pub cluster: u64,
}

/// Eight zones of 1 MiB, 768 KiB of each writable, the first two conventional, no limits: capacity less than size by
/// default, since that is what others got wrong for years.
pub const SMALL: Geo =
    Geo { size: 8 * MIB, zone: MIB, cap: 768 << 10, conv: 2, open: 0, active: 0, append: 64 << 10, cluster: 64 << 10 };

/// Twelve zones of 64 blocks, the first two conventional; of the others 48 blocks each are writable.
pub const TWELVE: Geo = Geo { size: 12 * 256 * KIB, zone: 256 * KIB, cap: 192 * KIB, ..SMALL };

impl Geo {
    /// The arguments of `create` behind the file.
    pub fn create_args(&self) -> Vec<String> {
        let mut args = vec![self.size.to_string()];
        let values = [
            ("--zone-size", self.zone),
            ("--zone-capacity", self.cap),
            ("--conventional-zones", u64::from(self.conv)),
            ("--max-open-zones", u64::from(self.open)),
            ("--max-active-zones", u64::from(self.active)),
            ("--max-append-bytes", self.append),
            ("--cluster-size", self.cluster),
        ];
        args.extend(values.iter().flat_map(|(name, value)| [(*name).to_string(), value.to_string()]));
        args
    }

    /// How many zones there are.
    pub fn zones(&self) -> usize {
        self.size.div_ceil(self.zone) as usize
    }

    /// The first sector of a zone.
    pub fn start(&self, zone: usize) -> u64 {
        zone as u64 * self.zone / 512
    }

    /// The sector behind the device.
    pub fn end(&self) -> u64 {
        self.size / 512
    }

    /// Sectors in zone `zone`.
    pub fn len(&self, zone: usize) -> u64 {
        (self.zone / 512).min(self.end() - self.start(zone))
    }

    /// Sectors that can be written in zone `zone`.
    pub fn cap(&self, zone: usize) -> u64 {
        if self.is_conventional(zone) { self.len(zone) } else { self.len(zone).min(self.cap / 512) }
    }

    /// Whether a zone is conventional.
    pub fn is_conventional(&self, zone: usize) -> bool {
        zone < self.conv as usize
    }

    /// The first sequential zone.
    pub fn first_seq(&self) -> usize {
        self.conv as usize
    }
}

/// An image in a temporary folder of its own, which has room for more files beside it.
#[derive(Debug)]
pub struct Image {
    dir: TempDir,
    path: PathBuf,
}

impl Image {
    /// Makes an image with the program.
    #[track_caller]
    pub fn create(geo: &Geo) -> Self {
        Self::create_with(&geo.create_args())
    }

    /// Makes an image with the program and these arguments behind the file.
    #[track_caller]
    pub fn create_with<S: AsRef<str>>(args: &[S]) -> Self {
        let image = Self::absent();
        let mut all = vec!["create".to_string(), image.name()];
        all.extend(args.iter().map(|arg| arg.as_ref().to_string()));
        ok(&all);
        image
    }

    /// A folder and the name of an image that is not there yet.
    pub fn absent() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("disk.qcow2");
        Self { dir, path }
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's file, as an argument.
    pub fn name(&self) -> String {
        self.path.to_str().expect("a temporary folder has a printable name").to_string()
    }

    /// Another file in the image's folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Another file in the image's folder, as an argument.
    pub fn beside_name(&self, name: &str) -> String {
        self.beside(name).to_str().expect("a temporary folder has a printable name").to_string()
    }

    /// Writes bytes into the file.
    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(&self.path).expect("open for patching");
        file.write_all_at(bytes, offset).expect("patch");
    }

    /// Bytes of the file.
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        fs::File::open(&self.path).and_then(|f| f.read_exact_at(&mut out, offset)).expect("reading the image");
        out
    }

    /// A big-endian number of the file.
    pub fn be64(&self, offset: u64) -> u64 {
        u64::from_be_bytes(self.bytes(offset, 8).try_into().expect("eight bytes"))
    }

    /// A big-endian number of the file.
    pub fn be32(&self, offset: u64) -> u32 {
        u32::from_be_bytes(self.bytes(offset, 4).try_into().expect("four bytes"))
    }

    /// Bytes of the host's file system that the file takes.
    pub fn host_bytes(&self) -> u64 {
        fs::metadata(&self.path).expect("metadata").blocks() * 512
    }

    /// Where the data of the zoned header extension begins in the file.
    pub fn extension(&self) -> u64 {
        let mut at = u64::from(self.be32(100));
        loop {
            let (magic, len) = (self.be32(at), self.be32(at + 4));
            match magic {
                0x007a_6264 => return at + 8,
                0 => panic!("the image has no zoned header extension"),
                _ => at += 8 + u64::from(len.next_multiple_of(8)),
            }
        }
    }

    /// What `trace` prints of the trace in the image's folder.
    #[track_caller]
    pub fn trace(&self, args: &[&str]) -> String {
        ok(&[&["trace", &self.beside_name("trace")], args].concat())
    }

    /// The same, from JSON.
    #[track_caller]
    pub fn traced(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let text = self.trace(&[&["--json"], args].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}"))).collect()
    }

    /// `check` finds nothing.
    #[track_caller]
    pub fn assert_clean(&self) {
        ok(&["check", &self.name()]);
    }

    /// With the zoned bit taken out of a copy, stock qemu-img finds leaks and nothing else.
    pub fn assert_qemu_finds_at_most_leaks(&self) {
        self.qemu_leaks();
    }

    /// With the zoned bit taken out of a copy, stock qemu-img finds the table's clusters as leaks and nothing else.
    #[track_caller]
    pub fn assert_qemu_agrees(&self, table_clusters: u64) {
        assert_eq!(self.qemu_leaks(), table_clusters, "qemu-img finds other leaks than the table's clusters");
    }

    /// Clusters that stock qemu-img finds leaked in a copy without the zoned bit; it must find nothing worse.
    fn qemu_leaks(&self) -> u64 {
        let copy = Self::absent();
        fs::copy(&self.path, &copy.path).expect("copy");
        let features = copy.be64(72);
        assert_eq!(features & 0x20, 0x20, "the image lacks the zoned feature bit");
        copy.patch(72, &(features & !0x20).to_be_bytes());
        let run = run_command(Command::new("qemu-img").args(["check", "-f", "qcow2", "--output=json"]).arg(&copy.path));
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
        let number = |field: &str| report.get(field).and_then(serde_json::Value::as_u64).unwrap_or(0);
        assert_eq!(number("corruptions"), 0, "qemu-img check: {run:?}");
        assert_eq!(number("check-errors"), 0, "qemu-img check: {run:?}");
        number("leaks")
    }
}

/// Runs qemu-img, qemu-io and the like; the test fails when they are not installed.
pub fn tool(program: &str, args: &[&str]) -> Run {
    run_command(Command::new(program).args(args))
}
