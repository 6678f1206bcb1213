//! What is asked for, fetched once and answered.
//!
//! A run of chunks that nobody has is claimed as far as nobody else has claims in it, allocated and asked for as one range; each
//! chunk is filled as it comes. Where another fetcher has a chunk's claim this one waits for it, with no claim of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::{Semaphore, mpsc};

use super::store::{Object, Wrong};
use crate::fetch::cache::Cache;
use crate::fetch::chunks;
use crate::fetch::entry::{Claim, Entry};
use crate::fetch::message::{Answer, Ask, Socket};

/// Chunks of one request, at most.
const RUN: u64 = 16;

/// Requests under way at a time; of those ahead of reads, so many.
const REQUESTS: usize = 16;
const AHEAD: usize = 4;

/// Messages read and not looked at.
const INBOX: usize = 256;

/// Fetches an object's chunks for the daemon at the other end of the socket, until that ends.
pub fn work(url: &str, cache: &Cache, socket: Socket) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = Arc::new(socket);
    socket.send(&Answer::Ready)?;
    let (sender, inbox) = mpsc::channel(INBOX);
    let listening = Arc::clone(&socket);
    std::thread::Builder::new().name("listen".into()).spawn(move || listen(&listening, &sender))?;
    let served = tokio::task::LocalSet::new().block_on(&runtime, serve(url, cache, &socket, inbox));
    // Nothing is waited for: a thread that waits for a claim ends with the process.
    runtime.shutdown_background();
    served
}

fn listen(socket: &Socket, asks: &mpsc::Sender<Ask>) {
    while let Ok(Some((ask, _))) = socket.receive::<Ask>() {
        if asks.blocking_send(ask).is_err() {
            return;
        }
    }
}

async fn serve(url: &str, cache: &Cache, socket: &Arc<Socket>, mut inbox: mpsc::Receiver<Ask>) -> io::Result<()> {
    let Some((object, entry)) = open(url, cache, socket, &mut inbox).await? else { return Ok(()) };
    let fetcher = Rc::new(Fetcher::new(object, entry, cache.clone(), Arc::clone(socket)));
    while let Some(ask) = inbox.recv().await {
        fetcher.take(&ask);
    }
    if fetcher.fetched.get() > 0 {
        log::debug!("{url}: {} chunks fetched in {} requests", fetcher.fetched.get(), fetcher.requests.get());
        if let Err(error) = cache.make_durable(&fetcher.entry) {
            log::warn!("{url}: what was fetched is fetched again after the host's next start: {error}");
        }
    }
    Ok(())
}

/// Opens what the daemon wants opened; none where that cannot be, or the daemon has ended.
async fn open(
    url: &str,
    cache: &Cache,
    socket: &Socket,
    inbox: &mut mpsc::Receiver<Ask>,
) -> io::Result<Option<(Object, Entry)>> {
    let refuse = |why: String| socket.send(&Answer::Refused(why)).map(|()| None);
    let object = match Object::new(url) {
        Ok(object) => object,
        Err(Wrong(why)) => return refuse(why),
    };
    let (identity, is_new) = loop {
        match inbox.recv().await {
            Some(Ask::Open) => match object.identity().await {
                Ok(identity) => break (identity, true),
                Err(Wrong(why)) => return refuse(why),
            },
            Some(Ask::Resume(identity)) => break (identity, false),
            // Meant for a fetcher that has died; it is asked again.
            Some(Ask::Want { .. } | Ask::Ahead { .. }) => {}
            None => return Ok(None),
        }
    };
    let opened = cache.entry(&identity).and_then(|entry| Ok((entry.files()?, entry)));
    match opened {
        Ok((files, entry)) => {
            if is_new {
                socket.send_files(&Answer::Opened(identity), &files)?;
            }
            Ok(Some((object, entry)))
        }
        Err(error) => refuse(format!("the cache cannot be used: {error}")),
    }
}

/// A want of the daemon's.
#[derive(Debug)]
struct Waiting {
    id: u64,
    /// Chunks that are not there yet.
    left: Cell<u64>,
    failed: RefCell<Option<Wrong>>,
}

struct Fetcher {
    object: Object,
    entry: Arc<Entry>,
    cache: Cache,
    socket: Arc<Socket>,
    /// Chunks that are being fetched, each with who waits for it.
    under_way: RefCell<BTreeMap<u64, Vec<Rc<Waiting>>>>,
    all: Semaphore,
    ahead: Semaphore,
    fetched: Cell<u64>,
    requests: Cell<u64>,
}

impl Fetcher {
    fn new(object: Object, entry: Entry, cache: Cache, socket: Arc<Socket>) -> Self {
        let (all, ahead) = (Semaphore::new(REQUESTS), Semaphore::new(AHEAD));
        let (fetched, requests, under_way) = (Cell::new(0), Cell::new(0), RefCell::default());
        Self { object, entry: Arc::new(entry), cache, socket, under_way, all, ahead, fetched, requests }
    }

    fn take(self: &Rc<Self>, ask: &Ask) {
        let count = self.entry.presence().chunks();
        match *ask {
            Ask::Want { id, first, end } => {
                let waiting = Rc::new(Waiting { id, left: Cell::new(1), failed: RefCell::default() });
                self.begin(first..end.min(count), Some(&waiting));
                // That all are noted was waited for as well.
                self.count_down(&waiting);
            }
            Ask::Ahead { first, end } => self.begin(first..end.min(count), None),
            // It is open.
            Ask::Open | Ask::Resume(_) => {}
        }
    }

    /// Begins to fetch what is not there and not under way.
    fn begin(self: &Rc<Self>, chunks: Range<u64>, waiting: Option<&Rc<Waiting>>) {
        let mut run = chunks.start..chunks.start;
        for chunk in chunks {
            if self.is_new(chunk, waiting) {
                if run.end != chunk || run.end - run.start >= RUN {
                    self.fetch(std::mem::replace(&mut run, chunk..chunk), waiting.is_none());
                }
                run.end = chunk + 1;
            }
        }
        self.fetch(run, waiting.is_none());
    }

    /// Notes who waits for a chunk; whether it is to be fetched.
    fn is_new(&self, chunk: u64, waiting: Option<&Rc<Waiting>>) -> bool {
        if self.entry.presence().is_present(chunk) {
            return false;
        }
        let mut under_way = self.under_way.borrow_mut();
        let is_new = !under_way.contains_key(&chunk);
        let waiters = under_way.entry(chunk).or_default();
        if let Some(waiting) = waiting {
            waiting.left.set(waiting.left.get() + 1);
            waiters.push(Rc::clone(waiting));
        }
        is_new
    }

    /// Fetches a run of chunks that are noted as under way.
    fn fetch(self: &Rc<Self>, mut run: Range<u64>, is_ahead: bool) {
        let fetcher = Rc::clone(self);
        if run.is_empty() {
            return;
        }
        tokio::task::spawn_local(async move {
            // A hint that would have to wait is forgotten: a read may come and want the same at once.
            let hint = is_ahead.then(|| fetcher.ahead.try_acquire());
            let fetched = match hint {
                Some(Err(_)) => Err(Wrong("too much is fetched ahead".to_owned())),
                _ => fetcher.fetch_run(&mut run).await,
            };
            if let Err(wrong) = fetched {
                run.for_each(|chunk| fetcher.settle(chunk, Some(&wrong)));
            }
        });
    }

    /// Fetches a run, which is what is left of it when that fails.
    async fn fetch_run(&self, run: &mut Range<u64>) -> Result<(), Wrong> {
        let _permit = self.all.acquire().await.map_err(|error| Wrong(error.to_string()))?;
        while !run.is_empty() {
            let (entry, cache, wanted) = (Arc::clone(&self.entry), self.cache.clone(), run.clone());
            let claims = blocking(move || claim(&entry, &cache, &wanted)).await?;
            if claims.is_empty() {
                // Another fetcher was there first.
                self.settle(run.start, None);
                run.start += 1;
                continue;
            }
            self.fetch_claimed(claims, run).await?;
        }
        Ok(())
    }

    /// Fetches claimed chunks, which are the first ones of a run, as one range.
    async fn fetch_claimed(&self, claims: Vec<Claim>, run: &mut Range<u64>) -> Result<(), Wrong> {
        let identity = self.entry.identity();
        let whole = chunks::bytes(&(run.start..run.start + claims.len() as u64), identity.len);
        self.requests.set(self.requests.get() + 1);
        let mut parts = self.object.range(identity, whole).await?;
        let mut claims = claims.into_iter().peekable();
        let mut filled: Vec<u8> = Vec::with_capacity(chunks::CHUNK as usize);
        while let Some(part) = parts.next().await {
            let mut part = part?;
            while let Some(claim) = claims.peek().filter(|_| !part.is_empty()) {
                let chunk = chunks::bytes(&(claim.chunk()..claim.chunk() + 1), identity.len);
                let missing =
                    usize::try_from(chunk.end - chunk.start).unwrap_or(usize::MAX).saturating_sub(filled.len());
                filled.extend_from_slice(&part.split_to(missing.min(part.len())));
                if (filled.len() as u64) < chunk.end - chunk.start {
                    continue;
                }
                self.entry.fill(claim, &filled).map_err(|error| cache_fails(&error))?;
                filled.clear();
                claims.next();
                self.fetched.set(self.fetched.get() + 1);
                self.settle(run.start, None);
                run.start += 1;
            }
        }
        match claims.next() {
            None => Ok(()),
            Some(_) => Err(Wrong("the server has sent less than was asked for".to_owned())),
        }
    }

    /// Tells who waits for a chunk what came of it.
    fn settle(&self, chunk: u64, wrong: Option<&Wrong>) {
        let waiters = self.under_way.borrow_mut().remove(&chunk).unwrap_or_default();
        for waiting in waiters {
            if let Some(wrong) = wrong {
                *waiting.failed.borrow_mut() = Some(wrong.clone());
            }
            self.count_down(&waiting);
        }
    }

    fn count_down(&self, waiting: &Waiting) {
        waiting.left.set(waiting.left.get().saturating_sub(1));
        if waiting.left.get() > 0 {
            return;
        }
        let answer = match waiting.failed.take() {
            None => Answer::Done(waiting.id),
            Some(Wrong(why)) => Answer::Failed(waiting.id, why),
        };
        // A daemon that has ended wants no answer.
        let _ = self.socket.send(&answer);
    }
}

fn cache_fails(error: &io::Error) -> Wrong {
    Wrong(format!("the cache cannot be written: {error}"))
}

/// Does on another thread what waits.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Wrong> {
    let done = tokio::task::spawn_blocking(act).await.map_err(|error| Wrong(error.to_string()))?;
    done.map_err(|error| cache_fails(&error))
}

/// Claims the first chunk of a run, for which it waits, and those after it as far as nobody has them, and takes space for them.
/// Returns none where the first is there by then.
fn claim(entry: &Arc<Entry>, cache: &Cache, run: &Range<u64>) -> io::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for chunk in run.clone() {
        let Some(claim) = entry.claim(chunk, claims.is_empty())? else { break };
        if entry.presence().is_present(chunk) {
            break;
        }
        claims.push(claim);
    }
    if !claims.is_empty() {
        cache.take_space(entry, &(run.start..run.start + claims.len() as u64))?;
    }
    Ok(claims)
}
