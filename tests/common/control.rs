//! A client of the daemon's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{PATIENCE, eventually};

/// A client of the control socket.
#[derive(Debug)]
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects; waits for the daemon.
    #[track_caller]
    pub fn connect(path: &Path) -> Self {
        let stream = eventually("the control socket", || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends a command without waiting for its answer.
    pub fn send(&mut self, command: &Value) {
        // A daemon that has ended says so when its answer is awaited.
        let _ = self.0.get_mut().write_all(format!("{command}\n").as_bytes());
    }

    /// The next answer: what was asked for, or why not. None where the daemon has ended.
    pub fn receive(&mut self) -> Option<Result<Value, String>> {
        let mut line = String::new();
        let got = self.0.read_line(&mut line);
        if got.as_ref().is_ok_and(|got| *got == 0) || got.is_err_and(|error| gone(&error)) {
            return None;
        }
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON: {e}: {line:?}"));
        match (answer["result"].take(), answer["error"].as_str()) {
            (_, Some(error)) => Some(Err(error.to_owned())),
            (result, None) => Some(Ok(result)),
        }
    }

    /// Sends a command and waits.
    pub fn ask(&mut self, command: &Value) -> Option<Result<Value, String>> {
        self.send(command);
        self.receive()
    }
}

fn gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let gone = matches!(error.kind(), BrokenPipe | ConnectionReset);
    assert!(gone, "the control socket: {error}");
    gone
}
