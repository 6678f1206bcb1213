//! An HTTP server in this process with one object, whose every byte says where it is: it counts what it sends, and can die in the
//! middle, be late, change its object, and answer as other servers do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// How a server answers.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// The object's length in bytes.
    pub(crate) len: u64,
    /// Its bytes, where they are not those of [`content`].
    pub(crate) bytes: Option<Arc<Vec<u8>>>,
    /// Which content it has.
    pub(crate) version: u64,
    /// Whether there is an ETag, and whether a time of the last change.
    pub(crate) etag: bool,
    pub(crate) modified: bool,
    /// Looks at Range, at If-Match.
    pub(crate) ranges: bool,
    pub(crate) matches: bool,
    /// Answers all with this status.
    pub(crate) status: Option<u16>,
    /// Before each answer.
    pub(crate) late: Duration,
    /// Ends after so many bytes of bodies.
    pub(crate) dies_after: Option<u64>,
}

impl Manner {
    pub(crate) fn of(len: u64) -> Self {
        let (late, status, dies_after, bytes) = (Duration::ZERO, None, None, None);
        Self {
            len,
            bytes,
            version: 1,
            etag: true,
            modified: true,
            ranges: true,
            matches: true,
            status,
            late,
            dies_after,
        }
    }

    fn etag(&self) -> String {
        format!("\"version-{}\"", self.version)
    }
}

#[derive(Default)]
struct Seen {
    ranges: Vec<Range<u64>>,
    heads: usize,
    gets: usize,
    sent: u64,
    connections: Vec<TcpStream>,
    dead: bool,
}

struct Shared {
    manner: Mutex<Manner>,
    seen: Mutex<Seen>,
}

/// The server, which ends with this value.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The byte of a content at a place.
pub(crate) fn byte(version: u64, at: u64) -> u8 {
    let mut word = (at / 8) ^ (version << 48);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // Never zero, which is what a hole would read as.
    (word.rotate_left((at % 8) as u32 * 8) as u8) | 1
}

pub(crate) fn content(version: u64, range: Range<u64>) -> Vec<u8> {
    range.map(|at| byte(version, at)).collect()
}

impl Server {
    pub(crate) fn start(manner: Manner) -> Self {
        let shared = Arc::new(Shared { manner: Mutex::new(manner), seen: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Self { address, shared, thread: None };
        server.listen(listener);
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/golden.qcow2", self.address)
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut seen = shared.seen.lock().unwrap();
                if seen.dead {
                    return;
                }
                let Ok(stream) = stream else { continue };
                seen.connections.push(stream.try_clone().unwrap());
                drop(seen);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(answer(&shared, stream)));
            }
        }));
    }

    /// Ends it at once, with all its connections.
    pub(crate) fn kill(&mut self) {
        self.shared.kill();
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Brings a killed one back.
    pub(crate) fn revive(&mut self) {
        self.kill();
        self.shared.seen.lock().unwrap().dead = false;
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.shared.manner.lock().unwrap());
    }

    /// How often each byte range of so many bytes was sent to its end.
    pub(crate) fn counts(&self, unit: u64) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for range in &self.shared.seen.lock().unwrap().ranges {
            for chunk in range.start.div_ceil(unit)..range.end.div_ceil(unit) {
                *counts.entry(chunk).or_default() += 1;
            }
        }
        counts
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().gets
    }

    pub(crate) fn heads(&self) -> usize {
        self.shared.seen.lock().unwrap().heads
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn kill(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.dead = true;
        for connection in seen.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

struct Request {
    method: String,
    headers: BTreeMap<String, String>,
}

fn read(lines: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|len| *len > 0)?;
    let method = line.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        lines.read_line(&mut line).ok()?;
        match line.trim().split_once(": ") {
            None => return Some(Request { method, headers }),
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.to_owned())),
        }
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut lines) {
        let manner = shared.manner.lock().unwrap().clone();
        sleep(manner.late);
        if let Some(status) = manner.status {
            write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        if manner.matches && request.headers.get("if-match").is_some_and(|wanted| *wanted != manner.etag()) {
            write!(stream, "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let mut headers = String::new();
        if manner.etag {
            headers += &format!("ETag: {}\r\n", manner.etag());
        }
        if manner.modified {
            headers += &format!("Last-Modified: Tue, 01 Jan 2030 00:00:{:02} GMT\r\n", manner.version);
        }
        if request.method == "HEAD" {
            shared.seen.lock().unwrap().heads += 1;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", manner.len)?;
            continue;
        }
        shared.seen.lock().unwrap().gets += 1;
        let wanted = request.headers.get("range").and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some(start.parse::<u64>().ok()?..end.parse::<u64>().ok()? + 1)
        });
        let range = match wanted.filter(|_| manner.ranges) {
            None => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", manner.len)?;
                0..manner.len
            }
            Some(range) => {
                let range = range.start..range.end.min(manner.len);
                let (first, last, len) = (range.start, range.end - 1, range.end - range.start);
                let about = format!("Content-Range: bytes {first}-{last}/{}\r\nContent-Length: {len}\r\n", manner.len);
                write!(stream, "HTTP/1.1 206 Partial Content\r\n{about}{headers}\r\n")?;
                range
            }
        };
        send(shared, &mut stream, &manner, range)?;
    }
    Ok(())
}

/// Sends a body; what was sent is counted, whether all of it is or not.
fn send(shared: &Shared, stream: &mut TcpStream, manner: &Manner, range: Range<u64>) -> std::io::Result<()> {
    // Noted before it is sent: whoever has it may ask at once.
    let noted = {
        let mut seen = shared.seen.lock().unwrap();
        seen.ranges.push(range.start..range.start);
        seen.ranges.len() - 1
    };
    let mut at = range.start;
    let mut written = Ok(());
    while at < range.end && written.is_ok() {
        let end = range.end.min(at + 64 * 1024);
        {
            let mut seen = shared.seen.lock().unwrap();
            seen.sent += end - at;
            seen.ranges[noted].end = end;
            let dies = shared.manner.lock().unwrap().dies_after.is_some_and(|after| seen.sent > after);
            if dies || seen.dead {
                drop(seen);
                shared.kill();
                break;
            }
        }
        written = match &manner.bytes {
            Some(bytes) => stream.write_all(&bytes[at as usize..end as usize]),
            None => stream.write_all(&content(manner.version, at..end)),
        };
        at = end;
    }
    written
}
