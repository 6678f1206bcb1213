#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

fn at(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("zbd.sock")
}

fn open(path: &Path) -> Result<Listening, SocketError> {
    Listening::open(ListenOn::Path { path: path.into(), access: SocketAccess { mode: 0o600, group: None } })
}

fn stop() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// Supervised by no manager.
fn nobody(stop: &EventFd) -> Supervised<'_> {
    Supervised { stop, manager: Box::leak(Box::default()) }
}

#[test]
fn a_socket_is_made_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let listening = open(&at(&directory)).unwrap();
    assert_eq!(listening.to_string(), at(&directory).display().to_string());
    let _frontend = UnixStream::connect(at(&directory)).unwrap();
    assert!(listening.accept(nobody(&stop())).unwrap().is_some());
    drop(listening);
    assert!(!at(&directory).exists());
}

#[test]
fn a_socket_left_behind_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(at(&directory)).unwrap());
    assert!(at(&directory).exists());
    let listening = open(&at(&directory)).unwrap();
    let _frontend = UnixStream::connect(at(&directory)).unwrap();
    assert!(listening.accept(nobody(&stop())).unwrap().is_some());
}

#[test]
fn the_socket_of_a_live_process_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let live = open(&at(&directory)).unwrap();
    let refused = open(&at(&directory)).err().unwrap();
    assert!(matches!(refused, SocketError::InUse(_)), "{refused}");
    assert!(refused.to_string().starts_with(&at(&directory).display().to_string()));
    drop(live);
    assert!(open(&at(&directory)).is_ok());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(at(&directory), "precious").unwrap();
    let refused = open(&at(&directory)).err().unwrap();
    assert!(matches!(refused, SocketError::NotASocket(_)), "{refused}");
    assert_eq!(fs::read(at(&directory)).unwrap(), b"precious");
}

#[test]
fn a_socket_that_another_has_put_in_place_of_ours_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let ours = open(&at(&directory)).unwrap();
    fs::remove_file(at(&directory)).unwrap();
    let _theirs = UnixListener::bind(at(&directory)).unwrap();
    drop(ours);
    assert!(at(&directory).exists());
}

#[test]
fn a_path_that_cannot_be_bound_is_named() {
    let refused = open(Path::new("/nonexistent/zbd.sock")).err().unwrap().to_string();
    assert!(refused.starts_with("/nonexistent/zbd.sock: cannot listen"), "{refused}");
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
    assert!(matches!(open(&long), Err(SocketError::Listen { .. })));
}

#[test]
fn a_descriptor_may_be_listening_or_connected_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let descriptor = |fd: OwnedFd| Listening::with(fd);
    let listening = descriptor(UnixListener::bind(at(&directory)).unwrap().into()).unwrap();
    assert!(!listening.is_single());
    drop(listening);
    assert!(at(&directory).exists(), "not our file");
    let (near, _far) = UnixStream::pair().unwrap();
    let connected = descriptor(near.into()).unwrap();
    assert!(connected.is_single());
    assert!(connected.accept(nobody(&stop())).unwrap().is_some());
    assert!(connected.accept(nobody(&stop())).unwrap().is_none());
    let file = fs::File::open("/dev/null").unwrap();
    assert!(matches!(descriptor(file.into()), Err(SocketError::WrongDescriptor(_))));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(descriptor(tcp.into()), Err(SocketError::WrongDescriptor(_))));
    assert!(matches!(Listening::open(ListenOn::Fd(4000)), Err(SocketError::NoDescriptor(4000))));
    let own = fs::File::open("/dev/null").unwrap();
    let number = own.as_raw_fd();
    assert!(matches!(Listening::open(ListenOn::Fd(number)), Err(SocketError::WrongDescriptor(_))));
    assert!(own.metadata().is_ok(), "a descriptor of our own is not closed by mistake");
    assert!(matches!(Listening::open(ListenOn::Systemd), Err(SocketError::NotFromSystemd)));
}

#[test]
fn waiting_ends_when_it_is_time_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let listening = open(&at(&directory)).unwrap();
    let stop = stop();
    stop.write(1).unwrap();
    let _frontend = UnixStream::connect(at(&directory)).unwrap();
    assert!(listening.accept(nobody(&stop)).unwrap().is_none(), "even with a frontend waiting");
    assert!(listening.accept(nobody(&stop)).unwrap().is_none(), "and for everybody who asks");
}
