use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::*;
use crate::control::Command;

/// Answers with what was asked.
struct Echo;

impl Responder for Echo {
    fn answer(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Flush {} => Err("the disk is gone".to_owned()),
            Command::Stats {} => Ok("x".repeat(8 << 20).into()),
            command => Ok(json!({ "asked": command })),
        }
    }

    /// Answers when the file that comes along is not empty any more.
    fn begin(&self, _: Command, files: Vec<File>) -> Result<Later, String> {
        let [file] = &files[..] else { return Err(format!("{} files", files.len())) };
        let (file, (tell, told)) = (file.try_clone().unwrap(), mpsc::channel());
        let given_up = Arc::new(AtomicBool::new(false));
        let gives_up = Arc::clone(&given_up);
        std::thread::spawn(move || {
            while file.metadata().unwrap().len() == 0 && !given_up.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            file.set_len(7).unwrap();
            let _ = tell.send(Ok(json!("done")));
        });
        Ok(Later { told, give_up: Box::new(move || gives_up.store(true, Ordering::Relaxed)) })
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }
}

fn start() -> (tempfile::TempDir, std::path::PathBuf, Server) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let server = Server::start(UnixListener::bind(&path).unwrap(), Arc::new(Echo), || ()).unwrap();
    (folder, path, server)
}

fn ask(stream: &UnixStream, line: &str) -> Value {
    (&mut &*stream).write_all(line.as_bytes()).unwrap();
    answer(stream)
}

fn answer(stream: &UnixStream) -> Value {
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn each_line_gets_its_answer_in_order() {
    let (_folder, path, server) = start();
    let stream = UnixStream::connect(path).unwrap();
    let table = [
        (r#"{"cmd":"info"}"#, json!({"result": {"asked": {"cmd": "info"}}})),
        (
            r#"{"cmd":"report","first":3}"#,
            json!({"result": {"asked": {"cmd": "report", "first": 3, "count": u32::MAX}}}),
        ),
        (
            r#"{"cmd":"log-level","level":"debug"}"#,
            json!({"result": {"asked": {"cmd": "log-level", "level": "debug"}}}),
        ),
        (r#"{"cmd":"flush"}"#, json!({"error": "the disk is gone"})),
    ];
    for (line, expected) in table {
        assert_eq!(ask(&stream, &format!("{line}\n")), expected);
    }
    for wrong in ["flush", "{}", r#"{"cmd":"format"}"#, r#"{"cmd":"info","verbose":1}"#, r#"{"cmd":"map"}"#, "\0"] {
        let answer = ask(&stream, &format!("{wrong}\n"));
        assert!(answer["error"].as_str().unwrap().starts_with("not a command: "), "{wrong}: {answer}");
    }
    server.stop();
}

#[test]
fn a_vhost_user_frontend_is_told_and_hung_up_on() {
    let (_folder, path, server) = start();
    let stream = UnixStream::connect(path).unwrap();
    // GET_FEATURES of version 1, without a body.
    (&stream).write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(answer(&stream)["error"].as_str().unwrap().contains("--socket-path"));
    assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0, "the connection stays open");
    server.stop();
}

#[test]
fn a_line_may_come_in_pieces_and_several_at_once() {
    let (_folder, path, server) = start();
    let stream = UnixStream::connect(path).unwrap();
    (&mut &stream).write_all(b"{\"cmd\":").unwrap();
    assert_eq!(ask(&stream, "\"quit\"}\n"), json!({"result": {"asked": {"cmd": "quit"}}}));
    (&mut &stream).write_all(b"\n{\"cmd\":\"info\"}\n{\"cmd\":\"flush\"}\n").unwrap();
    let mut lines = BufReader::new(&stream).lines().map(|line| line.unwrap());
    assert_eq!(lines.next().unwrap(), r#"{"result":{"asked":{"cmd":"info"}}}"#);
    assert_eq!(lines.next().unwrap(), r#"{"error":"the disk is gone"}"#);
    server.stop();
}

#[test]
fn a_client_that_takes_no_answers_or_sends_no_end_holds_up_nobody() {
    let (_folder, path, server) = start();
    let greedy = UnixStream::connect(&path).unwrap();
    (0..100).for_each(|_| (&mut &greedy).write_all(b"{\"cmd\":\"stats\"}\n").unwrap());
    let slow = UnixStream::connect(&path).unwrap();
    (&mut &slow).write_all(b"{\"cmd\"").unwrap();
    let endless = UnixStream::connect(&path).unwrap();
    (&mut &endless).write_all(&[b'x'; MAX_LINE]).unwrap();
    assert!(answer(&endless)["error"].as_str().unwrap().starts_with("a line of more than"));
    assert_eq!((&endless).read(&mut [0; 16]).unwrap(), 0, "its stream is of no more use");
    let polite = UnixStream::connect(&path).unwrap();
    assert!(ask(&polite, "{\"cmd\":\"info\"}\n")["result"].is_object());
    // With all of them still connected.
    server.stop();
}

#[test]
fn what_was_answered_is_taken_whole_also_where_the_end_comes_meanwhile() {
    let (_folder, path, server) = start();
    let stream = UnixStream::connect(path).unwrap();
    (&mut &stream).write_all(b"{\"cmd\":\"stats\"}\n").unwrap();
    let mut first = [0; 1];
    (&stream).read_exact(&mut first).unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        (&stream).read_to_end(&mut rest).unwrap();
        rest
    });
    server.stop();
    let rest = reader.join().unwrap();
    let answer: Value = serde_json::from_slice(&[&first[..], &rest].concat()).unwrap();
    assert_eq!(answer["result"].as_str().map(str::len), Some(8 << 20));
}

#[test]
fn more_clients_than_there_are_places_wait_for_one() {
    let (_folder, path, server) = start();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| UnixStream::connect(&path).unwrap()).collect();
    clients.iter().for_each(|client| drop(ask(client, "{\"cmd\":\"info\"}\n")));
    let waiting = UnixStream::connect(&path).unwrap();
    (&mut &waiting).write_all(b"{\"cmd\":\"info\"}\n").unwrap();
    clients.pop();
    assert!(answer(&waiting)["result"].is_object());
    server.stop();
}

#[test]
fn a_client_that_asks_nothing_gives_its_place_to_one_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let silence = Duration::from_millis(50);
    let server = Server::start_with(UnixListener::bind(&path).unwrap(), Arc::new(Echo), || (), silence).unwrap();
    let silent: Vec<_> = (0..MAX_CLIENTS).map(|_| UnixStream::connect(&path).unwrap()).collect();
    // What is no question is silence, too; what nobody waits for the place of is nobody's.
    silent.iter().for_each(|mut client| client.write_all(b"{\"cmd\"").unwrap());
    std::thread::sleep(2 * silence);
    assert_eq!(ask(&silent[0], ":\"info\"}\n")["result"], json!({"asked": {"cmd": "info"}}));
    let waiting: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for mut client in &waiting {
        client.write_all(b"{\"cmd\":\"info\"}\n").unwrap();
    }
    for client in &waiting {
        assert!(answer(client)["result"].is_object());
    }
    let gone = silent.iter().filter(|client| {
        client.set_nonblocking(true).unwrap();
        (&mut &**client).read(&mut [0; 16]).is_ok_and(|read| read == 0)
    });
    assert_eq!(gone.count(), waiting.len());
    server.stop();
}

#[test]
fn a_scraper_gets_its_text_and_the_end() {
    let (_folder, path, server) = start();
    for (question, status, text) in [
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\nup 1\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found\r\n", "expected /metrics\n"),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(status) && answer.ends_with(text), "{answer}");
    }
    server.stop();
}

#[test]
fn what_takes_long_holds_up_nobody_and_is_given_up_when_its_client_goes() {
    let (_folder, path, server) = start();
    let file = tempfile::tempfile().unwrap();
    let save = b"{\"cmd\":\"snapshot-save\"}\n";
    let clients = [0, 1].map(|_| {
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(client.send_with_fds(&[&save[..]], &[file.as_raw_fd()]).unwrap(), save.len());
        client
    });
    let other = UnixStream::connect(&path).unwrap();
    assert!(ask(&other, "{\"cmd\":\"info\"}\n")["result"].is_object());
    assert_eq!(ask(&other, "{\"cmd\":\"snapshot-save\"}\n"), json!({"error": "0 files"}));
    let [gone, waits] = clients;
    drop(gone);
    assert_eq!(answer(&waits), json!({"result": "done"}));
    assert_eq!(file.metadata().unwrap().len(), 7, "nobody else has written it");
    // More files than any command takes end the connection.
    let files = [file.as_raw_fd(); MAX_FILES + 1];
    assert_eq!(other.send_with_fds(&[&b"{"[..]], &files).unwrap(), 1);
    assert_eq!((&other).read(&mut [0; 1]).unwrap_or(0), 0);
    server.stop();
}
