//! The daemon's end of the socket to a fetcher: what is wanted of an object, and what came of it.
//!
//! A thread of its own sends and receives ([`Link::run`]); before there is one, whoever waits does so. No want lasts for ever:
//! one without an answer fails after [`LIMIT`].

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::chunks;
use super::message::{Answer, Ask, Identity, LONGEST_TEXT, Socket};
use super::presence::Presence;

/// How long a want may take. A fetcher that reaches no server says so before.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long the fetcher may take to open an object.
const OPENING: Duration = Duration::from_secs(60);

/// How often it is looked whether a want has taken too long.
const TICK: Duration = Duration::from_secs(1);

/// Hints that wait to be sent, at most: more are forgotten.
const MOST_HINTS: usize = 64;

/// Why an object cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The fetcher has said why.
    #[error("{0}")]
    Refused(String),
    /// The fetcher cannot be talked to.
    #[error("the fetcher cannot be talked to: {0}")]
    Io(#[from] io::Error),
    /// It says what makes no sense.
    #[error("the fetcher has ended, or said what was not expected")]
    Fetcher,
}

/// Called when a want has its outcome, with no lock held.
pub type Ring = Arc<dyn Fn() + Send + Sync>;

struct Want {
    chunks: Range<u64>,
    since: Instant,
    ring: Option<Ring>,
    outcome: Option<Result<(), String>>,
}

#[derive(Default)]
struct State {
    next: u64,
    wants: BTreeMap<u64, Want>,
    outbox: VecDeque<Ask>,
    /// A thread sends and receives.
    threaded: bool,
    /// The last want has failed, and it was said.
    failing: bool,
    /// Nothing will be answered any more, and why.
    ended: Option<String>,
}

/// An object that a fetcher has opened.
pub struct Link {
    identity: Identity,
    socket: Socket,
    presence: Presence,
    data: File,
    /// Keeps the entry in the cache.
    _held: File,
    wake: EventFd,
    state: Mutex<State>,
    changed: Condvar,
    /// Counts outcomes.
    news: AtomicU64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Link {
    /// Has the fetcher at the other end of a socket open its object.
    pub fn open(socket: Socket) -> Result<Arc<Self>, LinkError> {
        socket.set_limit(Some(OPENING))?;
        let next = || socket.receive::<Answer>()?.ok_or(LinkError::Fetcher);
        match next()?.0 {
            Answer::Ready => socket.send(&Ask::Open)?,
            _ => return Err(LinkError::Fetcher),
        }
        let (identity, files) = match next()? {
            (Answer::Opened(identity), Some(files)) => (identity, files),
            (Answer::Refused(why), _) => return Err(LinkError::Refused(why)),
            _ => return Err(LinkError::Fetcher),
        };
        socket.set_limit(None)?;
        let presence = Presence::of_reader(files.words, files.read, chunks::count(identity.len))?;
        Ok(Arc::new(Self {
            identity,
            socket,
            presence,
            data: files.data,
            _held: files.held,
            wake: EventFd::new(EFD_NONBLOCK)?,
            state: Mutex::default(),
            changed: Condvar::new(),
            news: AtomicU64::new(0),
        }))
    }

    /// Which object, with which content.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cache's file, to be read where chunks are present.
    pub fn data(&self) -> &File {
        &self.data
    }

    /// Which chunks are present.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The chunks that hold a range of bytes.
    pub fn chunks(&self, range: &Range<u64>) -> Range<u64> {
        chunks::of(range, self.identity.len)
    }

    /// How many wants have had an outcome so far.
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Asks for chunks without waiting; `ring` is called when there is an outcome to [`take`](Self::take).
    pub fn want(&self, chunks: Range<u64>, ring: Option<Ring>) -> u64 {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let outcome = state.ended.clone().map(Err);
        let is_over = outcome.is_some();
        if !is_over {
            state.outbox.push_back(Ask::Want { id, first: chunks.start, end: chunks.end });
        }
        state.wants.insert(id, Want { chunks, since: Instant::now(), ring: ring.clone(), outcome });
        drop(state);
        if is_over {
            self.news.fetch_add(1, Ordering::Release);
            ring.into_iter().for_each(|ring| ring());
        }
        self.rouse();
        id
    }

    /// Says that chunks are likely to be wanted soon.
    pub fn ahead(&self, chunks: Range<u64>) {
        let Some(first) = chunks.clone().find(|chunk| !self.presence.is_present(*chunk)) else { return };
        let mut state = self.state();
        if state.ended.is_none() && state.outbox.len() < MOST_HINTS {
            state.outbox.push_back(Ask::Ahead { first, end: chunks.end });
            drop(state);
            self.rouse();
        }
    }

    /// The outcome of a want, once; none while there is none.
    pub fn take(&self, id: u64) -> Option<Result<(), String>> {
        let mut state = self.state();
        state.wants.get(&id)?.outcome.as_ref()?;
        state.wants.remove(&id).and_then(|want| want.outcome)
    }

    /// Forgets a want.
    pub fn forget(&self, id: u64) {
        self.state().wants.remove(&id);
    }

    /// Asks for chunks and waits for them.
    pub fn fetch(&self, chunks: Range<u64>) -> io::Result<()> {
        let id = self.want(chunks, None);
        loop {
            if let Some(outcome) = self.take(id) {
                return outcome.map_err(|why| io::Error::other(format!("{}: {why}", self.identity.url)));
            }
            let state = self.state();
            if state.threaded {
                // The thread sees to it that there is an outcome in time.
                drop(self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(state);
                self.pump();
            }
        }
    }

    /// Sends and receives from now on, on the calling thread, until [`end`](Self::end) is called.
    pub fn run(&self) {
        self.state().threaded = true;
        while self.state().ended.is_none() {
            self.pump();
        }
    }

    /// Says that a thread is about to [`run`](Self::run): nobody else sends and receives.
    pub fn will_run(&self) {
        self.state().threaded = true;
    }

    /// Ends what is wanted, and the thread.
    pub fn end(&self) {
        self.ended("the daemon is ending");
        self.rouse();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rouse(&self) {
        // The one error is that it is readable anyway.
        let _ = self.wake.write(1);
    }

    /// Sends what there is to send, and takes one message if one comes within a moment.
    fn pump(&self) {
        let mut interest = PollFlags::POLLIN;
        if !self.flush() {
            interest |= PollFlags::POLLOUT;
        }
        // SAFETY: the event's descriptor is open as long as self.
        let wake = unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) };
        let mut fds = [PollFd::new(self.socket.as_fd(), interest), PollFd::new(wake, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
        // Whatever is wrong with it, the end of time for each want stays.
        let _ = poll(&mut fds, timeout);
        let came = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !(events - PollFlags::POLLOUT).is_empty());
        let [from_fetcher, from_here] = fds.each_ref().map(came);
        if from_here {
            let _ = self.wake.read();
        }
        if from_fetcher {
            match self.socket.read::<Answer>() {
                Ok(Some(answer)) => self.hear(answer),
                Ok(None) => self.ended("the fetcher has ended"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.ended(&format!("the fetcher cannot be heard: {error}")),
            }
        }
        self.expire();
    }

    /// Sends what there is room for; false when there is more.
    fn flush(&self) -> bool {
        loop {
            let mut state = self.state();
            let Some(ask) = state.outbox.front() else { return true };
            match self.socket.try_send(ask) {
                Ok(()) => drop(state.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Reading tells what is wrong.
                Err(_) => state.outbox.clear(),
            }
        }
    }

    fn hear(&self, answer: Answer) {
        match answer {
            Answer::Ready => self.begin_again(),
            Answer::Done(id) => self.settle(id, Ok(())),
            Answer::Failed(id, why) => self.settle(id, Err(shortened(why))),
            Answer::Opened(_) => {}
            Answer::Refused(why) => {
                let ids: Vec<u64> = self.state().wants.keys().copied().collect();
                ids.into_iter().for_each(|id| self.settle(id, Err(shortened(why.clone()))));
            }
        }
    }

    /// The fetcher has died and was started again: it is asked again for what it has not answered.
    fn begin_again(&self) {
        let mut state = self.state();
        let open = state.wants.iter().filter(|(_, want)| want.outcome.is_none());
        let open = open.map(|(id, want)| Ask::Want { id: *id, first: want.chunks.start, end: want.chunks.end });
        let again = std::iter::once(Ask::Resume(self.identity.clone())).chain(open).collect();
        state.outbox = again;
        drop(state);
        log::warn!("{}: the fetcher has died and goes on", self.identity.url);
    }

    fn settle(&self, id: u64, outcome: Result<(), String>) {
        let mut state = self.state();
        let Some(want) = state.wants.get_mut(&id).filter(|want| want.outcome.is_none()) else { return };
        let news = match &outcome {
            Err(why) => Some(why.clone()),
            Ok(()) => None,
        };
        want.outcome = Some(outcome);
        let ring = want.ring.clone();
        let was_failing = std::mem::replace(&mut state.failing, news.is_some());
        drop(state);
        match news {
            Some(why) if !was_failing => log::error!("{}: reads fail: {why}", self.identity.url),
            None if was_failing => log::info!("{}: reads succeed again", self.identity.url),
            _ => {}
        }
        self.news.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
        ring.into_iter().for_each(|ring| ring());
    }

    fn expire(&self) {
        let now = Instant::now();
        let late = |want: &Want| want.outcome.is_none() && now.saturating_duration_since(want.since) > LIMIT;
        let late: Vec<u64> = self.state().wants.iter().filter(|(_, want)| late(want)).map(|(id, _)| *id).collect();
        let why = || format!("no answer in {} s", LIMIT.as_secs());
        late.into_iter().for_each(|id| self.settle(id, Err(why())));
    }

    fn ended(&self, why: &str) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(why.to_owned());
        state.outbox.clear();
        let ids: Vec<u64> = state.wants.keys().copied().collect();
        drop(state);
        ids.into_iter().for_each(|id| self.settle(id, Err(why.to_owned())));
    }
}

fn shortened(mut text: String) -> String {
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}
