//! What a service manager is told, as sd_notify(3) has it, and the log in the journal.

use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::common::cli::{Image, SMALL, program, run_command};
use crate::common::daemon::Daemon;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

/// A manager that only listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn at(path: &Path) -> Self {
        Self::on(UnixDatagram::bind(path).unwrap())
    }

    fn on(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut message = [0; 4096];
        let len = self.socket.recv(&mut message).expect("a message to the service manager");
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    /// The next message that is no sign of life.
    #[track_caller]
    fn next_state(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message != "WATCHDOG=1").unwrap()
    }

    /// Whether nothing comes for a while.
    fn is_silent(&self, how_long: Duration) -> bool {
        self.socket.set_read_timeout(Some(how_long)).unwrap();
        let silent = self.socket.recv(&mut [0; 4096]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

/// The daemon with these variables, sandbox and all.
fn start(image: &Image, variables: &[(&str, &str)]) -> Daemon {
    let socket = image.beside("zbd.sock");
    let mut command = Command::new(program());
    command.arg("serve").arg(image.path()).arg("--socket-path").arg(&socket);
    command.envs(variables.iter().copied());
    Daemon::spawn_program(&mut command, &socket)
}

fn works(daemon: &mut Daemon) -> Frontend {
    let mut front = Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
    front
}

#[test]
fn a_service_manager_is_told_when_frontends_can_connect_and_what_the_daemon_does() {
    let image = Image::create(&SMALL);
    let manager = Manager::at(&image.beside("notify"));
    let mut daemon = start(&image, &[("NOTIFY_SOCKET", &image.beside_name("notify"))]);
    let waiting = format!("STATUS=waiting for a frontend on {}", image.beside_name("zbd.sock"));
    assert_eq!(manager.next(), format!("STATUS=opening {}", image.name()));
    assert_eq!(manager.next(), format!("READY=1\n{waiting}"));
    // Not by trying until it works: it was said that this does.
    let mut front = Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(manager.next(), "STATUS=serving a frontend");
    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
    drop(front);
    assert_eq!(manager.next(), waiting);
    let front = works(&mut daemon);
    assert_eq!(manager.next(), "STATUS=serving a frontend");
    assert!(daemon.terminate().success());
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=closing the image");
    drop(front);
}

#[test]
fn signs_of_life_come_at_half_the_time_allowed_whether_there_is_a_frontend_or_not() {
    let image = Image::create(&SMALL);
    let name = "vhost-user-zbd-test-".to_owned() + &std::process::id().to_string();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::on(UnixDatagram::bind_addr(&address).unwrap());
    let mut daemon = start(&image, &[("NOTIFY_SOCKET", &format!("@{name}")), ("WATCHDOG_USEC", "300000")]);
    while !manager.next().starts_with("READY=1") {}
    let five = |what: &str| {
        while !manager.is_silent(Duration::from_millis(1)) {}
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(manager.next(), "WATCHDOG=1", "{what}");
        }
        assert!(began.elapsed() > Duration::from_millis(500), "{what}: more often than that");
    };
    five("no frontend");
    let front = works(&mut daemon);
    assert_eq!(manager.next_state(), "STATUS=serving a frontend");
    five("an idle frontend");
    daemon.signal(libc::SIGSTOP);
    while !manager.is_silent(Duration::from_secs(1)) {}
    daemon.signal(libc::SIGCONT);
    five("after it had been stopped");
    drop(front);
    assert!(daemon.terminate().success());
}

#[test]
fn a_frontend_that_sends_half_a_message_keeps_no_sign_of_life_back() {
    let image = Image::create(&SMALL);
    let manager = Manager::at(&image.beside("notify"));
    let notify = image.beside_name("notify");
    let mut daemon = start(&image, &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "200000")]);
    while !manager.next().starts_with("READY=1") {}
    let mut stream = daemon.connect();
    std::io::Write::write_all(&mut stream, &[1, 0, 0]).unwrap();
    assert_eq!(manager.next_state(), "STATUS=serving a frontend");
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
}

#[test]
fn signs_of_life_that_another_process_is_to_give_are_left_to_it() {
    let image = Image::create(&SMALL);
    let manager = Manager::at(&image.beside("notify"));
    let notify = image.beside_name("notify");
    let variables = [("NOTIFY_SOCKET", notify.as_str()), ("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let _daemon = start(&image, &variables);
    while !manager.next().starts_with("READY=1") {}
    assert!(manager.is_silent(Duration::from_millis(500)));
}

#[test]
fn a_service_manager_that_cannot_be_told_is_worth_a_warning() {
    for (address, why) in [("/nowhere/notify", "No such file"), ("vsock:2:1234", "expected an absolute path or @")] {
        let image = Image::create(&SMALL);
        let mut daemon = start(&image, &[("NOTIFY_SOCKET", address), ("WATCHDOG_USEC", "1000")]);
        daemon.await_socket();
        drop(works(&mut daemon));
        daemon.await_log(&["WARN", address, why]);
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_service_manager_that_takes_no_messages_is_waited_for_once() {
    let image = Image::create(&SMALL);
    let manager = Manager::at(&image.beside("notify"));
    let stuffed = UnixDatagram::unbound().unwrap();
    stuffed.set_nonblocking(true).unwrap();
    while stuffed.send_to(b"full", image.beside("notify")).is_ok() {}
    let mut daemon = start(&image, &[("NOTIFY_SOCKET", &image.beside_name("notify"))]);
    daemon.await_socket();
    drop(works(&mut daemon));
    drop(works(&mut daemon));
    daemon.await_log(&["WARN", "the service manager cannot be told", "it takes no messages"]);
    assert_eq!(daemon.log().matches("cannot be told").count(), 1, "{}", daemon.log());
    while !manager.is_silent(Duration::from_millis(1)) {}
    drop(works(&mut daemon));
    while manager.next() != "STATUS=serving a frontend" {}
    assert!(daemon.terminate().success());
}

#[test]
fn lines_to_the_journal_begin_with_their_priority_and_no_others_do() {
    for to_journal in [true, false] {
        let image = Image::create(&SMALL);
        let log = File::create(image.beside("zbd.log")).unwrap().metadata().unwrap();
        let inode = log.ino() + u64::from(!to_journal);
        let stream = format!("{}:{inode}", log.dev());
        let mut daemon = start(&image, &[("JOURNAL_STREAM", &stream), ("NOTIFY_SOCKET", "nowhere")]);
        daemon.await_socket();
        assert!(daemon.terminate().success());
        let log = daemon.log();
        assert_eq!(log.lines().any(|line| line.starts_with("<4>NOTIFY_SOCKET=nowhere: ")), to_journal, "{log}");
        assert_eq!(log.lines().any(|line| line.starts_with("<6>serving on /")), to_journal, "{log}");
        assert!(log.lines().all(|line| line.starts_with('<') == to_journal), "{log}");
    }
}

#[test]
fn a_failure_is_an_error_in_the_journal() {
    let image = Image::absent();
    let stderr = image.beside("stderr");
    let file = File::create(&stderr).unwrap();
    let stream = file.metadata().map(|about| format!("{}:{}", about.dev(), about.ino())).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" serve \"$1\" --fd 0 2>\"$2\"", program(), &image.name()]).arg(&stderr);
    let run = run_command(command.env("JOURNAL_STREAM", stream));
    assert_eq!(run.status.code(), Some(1));
    let said = fs::read_to_string(&stderr).unwrap();
    assert_eq!(
        said,
        format!("<3>{}: the image cannot be opened: No such file or directory (os error 2)\n", image.name())
    );
}
