//! A layer over a data path: reads of remote bases are held until what they read is in the cache.
//!
//! A read of what is present goes below at once, and is looked at again when it is back: where one of its chunks was given up
//! meanwhile it is done again. A read of what is not is held, its chunks are asked for, and the queue's bell is rung when there is
//! an outcome. What cannot be fetched fails with EIO; the next read asks again.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::ahead::Streams;
use super::link::{Link, Ring};
use super::presence::Seen;
use crate::io::{Completion, Cover, DataPath, Transfer};

/// How often a read is begun whose chunks are given up before it is over.
const TRIES: u8 = 16;

/// The bases of an image that are remote, by their depth less one.
#[derive(Clone, Debug, Default)]
pub struct RemoteBases(Vec<Option<Arc<Link>>>);

impl RemoteBases {
    /// The bases of an image from the first one down, each with its link where it is remote.
    pub fn new(bases: Vec<Option<Arc<Link>>>) -> Self {
        Self(bases)
    }

    /// The links there are.
    pub fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.0.iter().flatten()
    }

    /// The layer that holds reads of these bases, below another one; nothing where none is remote. `ring` wakes the thread of
    /// the path.
    pub fn below<C: Cover>(&self, cover: C, ring: Ring) -> Held<C> {
        Held { bases: self.clone(), ring, cover }
    }
}

/// A cover with the layer for remote bases below it.
pub struct Held<C> {
    bases: RemoteBases,
    ring: Ring,
    cover: C,
}

impl<C: Cover> Cover for Held<C> {
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath> {
        let Held { bases, ring, cover } = self;
        if bases.links().next().is_none() {
            return cover.over(below);
        }
        cover.over(HeldPath::new(bases, ring, below))
    }
}

/// A read of a remote base.
struct Read {
    transfer: Transfer,
    link: Arc<Link>,
    chunks: Range<u64>,
    tries: u8,
}

/// The layer over a data path.
pub struct HeldPath<P> {
    bases: RemoteBases,
    ring: Ring,
    streams: Streams,
    /// Below, with what was seen before.
    flying: Vec<(Read, Seen)>,
    /// Held, with what was asked for.
    held: Vec<(Read, u64)>,
    /// Outcomes of all links when the held reads were last looked at.
    news: u64,
    /// Over, without anything below.
    over: Vec<Completion>,
    below: P,
}

impl<P: DataPath> HeldPath<P> {
    /// The layer over a path.
    pub fn new(bases: RemoteBases, ring: Ring, below: P) -> Self {
        let (flying, held, over) = (Vec::new(), Vec::new(), Vec::new());
        Self { bases, ring, streams: Streams::default(), flying, held, news: 0, over, below }
    }

    /// What is to be held of a transfer: a read of a remote base.
    fn read_of(&mut self, transfer: &Transfer) -> Option<Read> {
        let base = usize::from(transfer.depth.0).checked_sub(1).filter(|_| !transfer.write)?;
        let link = Arc::clone(self.bases.0.get(base)?.as_ref()?);
        let range = transfer.offset..transfer.offset.saturating_add(transfer.len);
        if let Some(ahead) = self.streams.note(base, &range) {
            link.ahead(link.chunks(&ahead));
        }
        Some(Read { transfer: *transfer, chunks: link.chunks(&range), link, tries: 0 })
    }

    /// Begins a read, or holds it.
    ///
    /// # Safety
    ///
    /// As for [`DataPath::submit`].
    unsafe fn begin(&mut self, mut read: Read) {
        if read.tries >= TRIES {
            return self.over.push(Completion { token: read.transfer.token, result: -libc::EIO });
        }
        read.tries += 1;
        match read.link.presence().look(&read.chunks) {
            Some(seen) => {
                let transfer = read.transfer;
                self.flying.push((read, seen));
                // SAFETY: the caller promises the same.
                unsafe { self.below.submit(transfer) };
            }
            None => {
                let id = read.link.want(read.chunks.clone(), Some(Arc::clone(&self.ring)));
                self.held.push((read, id));
            }
        }
    }

    /// Goes on with held reads that have an outcome; whether any went below.
    fn go_on(&mut self) -> bool {
        let news = self.bases.links().map(|link| link.news()).fold(0, u64::wrapping_add);
        if self.held.is_empty() || news == self.news {
            return false;
        }
        self.news = news;
        let flying = self.flying.len();
        for (read, id) in std::mem::take(&mut self.held) {
            match read.link.take(id) {
                None => self.held.push((read, id)),
                Some(Err(_)) => self.over.push(Completion { token: read.transfer.token, result: -libc::EIO }),
                // SAFETY: its completion was not handed out, and until then whoever has submitted it keeps buffers and memory.
                Some(Ok(())) => unsafe { self.begin(read) },
            }
        }
        self.flying.len() > flying
    }

    /// Takes out of what is done, from an index on, what has to be done again; whether there was any.
    fn look_again(&mut self, done: &mut Vec<Completion>, from: usize) -> bool {
        if self.flying.is_empty() {
            return false;
        }
        let (mut at, mut any) = (from, false);
        while let Some(completion) = done.get(at) {
            let Some(index) = self.flying.iter().position(|(read, _)| read.transfer.token == completion.token) else {
                at += 1;
                continue;
            };
            let (read, seen) = self.flying.swap_remove(index);
            if completion.result < 0 || read.link.presence().still(&read.chunks, seen) {
                read.link.presence().mark_read(&read.chunks);
                at += 1;
                continue;
            }
            done.remove(at);
            any = true;
            // SAFETY: as its completion is not handed out, whoever has submitted it keeps buffers and memory.
            unsafe { self.begin(read) };
        }
        any
    }
}

impl<P: DataPath> DataPath for HeldPath<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        match self.read_of(&transfer) {
            // SAFETY: the caller promises the same.
            None => unsafe { self.below.submit(transfer) },
            // SAFETY: as above.
            Some(read) => unsafe { self.begin(read) },
        }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.go_on();
        loop {
            let from = done.len();
            self.below.poll(done)?;
            // What began anew waits for nobody to start it.
            if !self.look_again(done, from) {
                break;
            }
        }
        done.append(&mut self.over);
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

impl<P> Drop for HeldPath<P> {
    fn drop(&mut self) {
        self.held.iter().for_each(|(read, id)| read.link.forget(*id));
    }
}
