//! A real S3 server: s3s-fs, which tests/s3.sh builds and names in S3S_FS.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::rig::{MIB, Rig};
use super::server::content;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn set(name: &str, value: &str) {
    // SAFETY: tests/s3.sh runs this test alone, and no other thread of it is there while a variable is set.
    unsafe { std::env::set_var(name, value) };
}

#[test]
#[ignore = "needs an S3 server: run by tests/s3.sh"]
fn s3_objects_are_read_with_credentials_from_the_environment_and_survive_a_server_that_dies() {
    let program = std::env::var("S3S_FS").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("images/golden/disk.qcow2");
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, content(1, 0..5 * MIB)).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = || {
        let mut command = Command::new(&program);
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--access-key", "GOLDEN", "--secret-key", "secret"]).arg(folder.path());
        let child = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let since = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "the S3 server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    };
    let server = start();
    set("AWS_ENDPOINT_URL", &format!("http://{address}"));
    set("AWS_REGION", "us-east-1");
    set("AWS_ACCESS_KEY_ID", "GOLDEN");
    let rig = Rig::new(1 << 40);
    let url = "s3://images/golden/disk.qcow2";

    set("AWS_SECRET_ACCESS_KEY", "wrong");
    let error = rig.open_process(url).err().unwrap().to_string();
    assert!(error.contains("expected credentials in the environment"), "{error}");

    set("AWS_SECRET_ACCESS_KEY", "secret");
    let error = rig.open_process("s3://images/golden/other").err().unwrap().to_string();
    assert!(error.contains("no such object"), "{error}");

    let daemon = rig.open_process(url).unwrap();
    assert!(daemon.link.identity().tag.to_string().starts_with("etag \""), "{:?}", daemon.link.identity());
    daemon.check(1, 0, MIB as usize);
    drop(server);
    daemon.check(1, 0, MIB as usize);
    assert!(daemon.read(3 * MIB, 1).is_err());
    let server = start();
    daemon.check(1, 0, 5 << 20);

    std::fs::write(&object, content(2, 0..5 * MIB)).unwrap();
    let other = rig.open_process(url).unwrap();
    other.check(2, 0, 5 << 20);
    daemon.check(1, 0, 5 << 20);
    drop(server);
}
