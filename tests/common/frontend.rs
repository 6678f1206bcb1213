//! A connected frontend: negotiation, memory, queues, and the requests in flight on them.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::inflight::Inflight;
use super::mem::GuestMem;
use super::proto::{Conn, Talk, msg, pf};
use super::request::{Done, POISON, Req, Status, UNTOUCHED};
use super::ring::{Buf, Desc, Queue, wait_for_call};

/// Device feature bits.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const SECURE_ERASE: u64 = 1 << 16;
    pub const ZONED: u64 = 1 << 17;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const IN_ORDER: u64 = 1 << 35;
    pub const RING_RESET: u64 = 1 << 40;
}

/// Every device feature this frontend can use.
const DRIVER_FEATURES: u64 = feature::SEG_MAX
    | feature::RO
    | feature::BLK_SIZE
    | feature::FLUSH
    | feature::TOPOLOGY
    | feature::CONFIG_WCE
    | feature::MQ
    | feature::ZONED
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::PROTOCOL_FEATURES
    | feature::VERSION_1;

/// Every protocol feature this frontend can use.
const PROTOCOL_FEATURES: u64 =
    pf::MQ | pf::REPLY_ACK | pf::CONFIG | pf::INFLIGHT_SHMFD | pf::RESET_DEVICE | pf::CONFIGURE_MEM_SLOTS;

/// What a frontend looks like to the daemon.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many queues it starts.
    pub queues: u32,
    /// Descriptors in each.
    pub queue_size: u16,
    /// Device features it does not accept.
    pub without: u64,
    /// Protocol features it does not accept.
    pub without_protocol: u64,
    /// Whether each request has its descriptors in a table of its own, as the smallest queues need.
    pub indirect: bool,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The ring index each queue begins at.
    pub first_index: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 128,
            without: 0,
            without_protocol: 0,
            indirect: false,
            memory: 64 << 20,
            first_index: 0,
        }
    }
}

/// What a handshake has led to.
struct Agreed {
    offered: u64,
    features: u64,
    protocol_offered: u64,
    protocol: u64,
    queue_num: u64,
}

impl Agreed {
    fn negotiate(conn: &mut Conn, options: &Options) -> Talk<Self> {
        let offered = conn.ask_u64(msg::GET_FEATURES)?;
        let (mut protocol, mut protocol_offered, mut queue_num) = (0, 0, 1);
        let features = offered & DRIVER_FEATURES & !options.without;
        if features & feature::PROTOCOL_FEATURES != 0 {
            protocol_offered = conn.ask_u64(msg::GET_PROTOCOL_FEATURES)?;
            protocol = protocol_offered & PROTOCOL_FEATURES & !options.without_protocol;
            conn.tell_u64(msg::SET_PROTOCOL_FEATURES, protocol)?;
            conn.reply_ack = protocol & pf::REPLY_ACK != 0;
            if protocol & pf::MQ != 0 {
                queue_num = conn.ask_u64(msg::GET_QUEUE_NUM)?;
            }
        }
        conn.tell(msg::SET_OWNER, &[], &[])?;
        Ok(Self { offered, features, protocol_offered, protocol, queue_num })
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// No request's.
    pub const NONE: Self = Self(0);
}

#[derive(Debug)]
struct Pending {
    token: Token,
    what: String,
    memory: Vec<u64>,
    writable: Vec<Buf>,
}

/// A frontend and the guest memory and queues behind it.
#[derive(Debug)]
pub struct Frontend {
    /// The connection.
    pub conn: Conn,
    /// The guest's memory.
    pub mem: GuestMem,
    /// The queues.
    pub queues: Vec<Queue>,
    /// Device features the daemon offers.
    pub offered: u64,
    /// Device features agreed on.
    pub features: u64,
    /// Protocol features the daemon offers.
    pub protocol_offered: u64,
    /// Protocol features agreed on.
    pub protocol: u64,
    /// How many queues the daemon can have.
    pub queue_num: u64,
    /// The in-flight region, once a daemon has given one.
    pub inflight: Option<Inflight>,
    options: Options,
    pending: HashMap<(usize, u32), Pending>,
    done: HashMap<Token, Done>,
    last: u64,
    indirect: bool,
    plugged: bool,
}

impl Frontend {
    /// Negotiates and starts the queues, in the order QEMU's frontends do.
    pub fn connect(sock: UnixStream, options: &Options) -> Talk<Self> {
        let mut front = Self::negotiate(sock, options)?;
        front.start()?;
        Ok(front)
    }

    /// All of it but the start of the queues.
    pub fn negotiate(sock: UnixStream, options: &Options) -> Talk<Self> {
        let mut conn = Conn::new(sock);
        let agreed = Agreed::negotiate(&mut conn, options)?;
        let mut mem = GuestMem::new(options.memory);
        let event_idx = agreed.features & feature::EVENT_IDX != 0;
        let new_queue = |at| {
            let mut queue = Queue::new(&mut mem, at, options.queue_size, event_idx);
            queue.begin_at(&mem, options.first_index);
            queue
        };
        let queues = (0..options.queues).map(new_queue).collect();
        Ok(Self {
            conn,
            mem,
            queues,
            offered: agreed.offered,
            features: agreed.features,
            protocol_offered: agreed.protocol_offered,
            protocol: agreed.protocol,
            queue_num: agreed.queue_num,
            inflight: None,
            options: options.clone(),
            pending: HashMap::new(),
            done: HashMap::new(),
            last: 0,
            indirect: options.indirect,
            plugged: false,
        })
    }

    /// Goes on with another daemon, or the same on another connection, as QEMU does with the guest none the wiser:
    /// memory, rings and requests in flight stay as they are, nothing is submitted again and nobody kicks, the
    /// in-flight region goes to the daemon, and each queue begins at the used index that stands in its ring.
    pub fn reconnect(&mut self, sock: UnixStream) -> Talk<()> {
        self.conn = Conn::new(sock);
        let agreed = Agreed::negotiate(&mut self.conn, &self.options)?;
        assert_eq!(agreed.features, self.features, "the driver cannot be told that the device has other features");
        (self.protocol, self.protocol_offered) = (agreed.protocol, agreed.protocol_offered);
        self.queues.iter_mut().for_each(Queue::renew_events);
        self.start()
    }

    /// Sets features and memory and starts every queue: what a driver's DRIVER_OK causes.
    pub fn start(&mut self) -> Talk<()> {
        self.conn.tell_u64(msg::SET_FEATURES, self.features)?;
        self.share_inflight()?;
        if self.protocol & pf::CONFIGURE_MEM_SLOTS != 0 {
            for region in 0..self.mem.regions().len() {
                self.announce_region(region)?;
            }
        } else {
            self.set_mem_table()?;
        }
        for queue in 0..self.queues.len() {
            let base = self.queues[queue].used_index(&self.mem);
            self.start_queue(queue, base)?;
        }
        Ok(())
    }

    /// Gets an in-flight region if there is none yet, and gives it to the daemon.
    pub fn share_inflight(&mut self) -> Talk<()> {
        if self.protocol & pf::INFLIGHT_SHMFD == 0 {
            return Ok(());
        }
        if self.inflight.is_none() {
            let (queues, size) = (self.queues.len() as u16, self.options.queue_size);
            self.inflight = Some(self.conn.get_inflight(queues, size)?);
        }
        self.inflight.as_ref().map_or(Ok(()), |region| self.conn.set_inflight(region))
    }

    /// Tells the daemon all regions at once.
    pub fn set_mem_table(&mut self) -> Talk<()> {
        let mut payload = (self.mem.regions().len() as u64).to_le_bytes().to_vec();
        payload.extend(self.mem.regions().iter().flat_map(|region| region.describe()));
        let fds: Vec<_> = self.mem.regions().iter().map(|region| region.fd()).collect();
        self.conn.tell(msg::SET_MEM_TABLE, &payload, &fds)
    }

    /// Tells the daemon of one region (ADD_MEM_REG).
    pub fn announce_region(&mut self, region: usize) -> Talk<()> {
        let region = &self.mem.regions()[region];
        let payload = [[0; 8].as_slice(), &region.describe()].concat();
        self.conn.tell(msg::ADD_MEM_REG, &payload, &[region.fd()])
    }

    /// Takes a region from the daemon (REM_MEM_REG).
    pub fn withdraw_region(&mut self, region: usize) -> Talk<()> {
        let payload = [[0; 8].as_slice(), &self.mem.regions()[region].describe()].concat();
        self.conn.tell(msg::REM_MEM_REG, &payload, &[])
    }

    /// Starts one queue at `base`.
    pub fn start_queue(&mut self, queue: usize, base: u16) -> Talk<()> {
        let (conn, it) = (&mut self.conn, &self.queues[queue]);
        conn.tell_queue_fd(msg::SET_VRING_CALL, it.index, it.call.as_raw_fd())?;
        self.start_queue_without_call(queue, base)
    }

    /// Starts one queue at `base` with the call descriptor the daemon has, if any.
    pub fn start_queue_without_call(&mut self, queue: usize, base: u16) -> Talk<()> {
        let Self { conn, mem, queues, features, .. } = self;
        let queue = &queues[queue];
        conn.tell_queue(msg::SET_VRING_NUM, queue.index, u32::from(queue.size))?;
        conn.tell_queue(msg::SET_VRING_BASE, queue.index, u32::from(base))?;
        let mut addr = super::proto::words(&[queue.index, 0]);
        for gpa in [queue.desc, queue.used, queue.avail] {
            addr.extend(mem.to_user(gpa).to_le_bytes());
        }
        addr.extend(0_u64.to_le_bytes());
        conn.tell(msg::SET_VRING_ADDR, &addr, &[])?;
        conn.tell_queue_fd(msg::SET_VRING_KICK, queue.index, queue.kick.as_raw_fd())?;
        if *features & feature::PROTOCOL_FEATURES != 0 {
            conn.tell_queue(msg::SET_VRING_ENABLE, queue.index, 1)?;
        }
        Ok(())
    }

    /// Starts one queue with the addresses the daemon has.
    pub fn start_queue_as_it_is(&mut self, queue: usize) -> Talk<()> {
        let Self { conn, queues, .. } = self;
        let queue = &queues[queue];
        conn.tell_queue_fd(msg::SET_VRING_KICK, queue.index, queue.kick.as_raw_fd())?;
        conn.tell_queue(msg::SET_VRING_ENABLE, queue.index, 1)
    }

    /// Stops one queue; the answer is the index of the next request the daemon would have taken.
    pub fn stop_queue(&mut self, queue: usize) -> Talk<u16> {
        let base = self.conn.get_vring_base(self.queues[queue].index)?;
        Ok(u16::try_from(base).expect("a ring index has 16 bits"))
    }

    /// What a machine reset does: RESET_DEVICE, then everything anew. Requests in flight are forgotten.
    pub fn reset_device(&mut self) -> Talk<()> {
        self.conn.tell(msg::RESET_DEVICE, &[], &[])?;
        self.forget();
        // What was in flight before the reset is nobody's any more, so the region goes too.
        self.inflight = None;
        self.conn.tell_u64(msg::SET_FEATURES, self.features)?;
        self.share_inflight()?;
        (0..self.queues.len()).try_for_each(|queue| self.start_queue(queue, 0))
    }

    /// Clears the rings, and gives back the memory of requests that nobody will answer.
    pub fn forget(&mut self) {
        for queue in &mut self.queues {
            queue.clear(&self.mem);
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            pending.memory.iter().for_each(|gpa| self.mem.release(*gpa));
        }
        self.done.clear();
    }

    /// Submits without letting the device see it, until [`Frontend::unplug`].
    pub fn plug(&mut self) {
        self.plugged = true;
    }

    /// Lets the device see all that was submitted since [`Frontend::plug`].
    pub fn unplug(&mut self) {
        self.plugged = false;
        for queue in &mut self.queues {
            queue.publish(&self.mem);
        }
    }

    fn token(&mut self) -> Token {
        self.last += 1;
        Token(self.last)
    }

    /// Puts a request on a queue. Waits for room where there is none.
    pub fn submit(&mut self, queue: usize, req: &Req) -> Token {
        let bytes = req.readable_bytes();
        let (readable, writable) = req.lengths();
        let indirect = req.indirect || self.indirect;
        let needed = if indirect { 1 } else { readable.len() + writable.len() };
        assert!(needed <= usize::from(self.queues[queue].size), "no queue of that size carries {needed} descriptors");
        while self.queues[queue].room() < needed {
            let waited = self.collect_until(Instant::now() + PATIENCE);
            assert!(waited, "waited {PATIENCE:?} for room in queue {queue}");
        }
        let misalign = req.framing.as_ref().map_or(0, |framing| framing.misalign);
        let lens = readable.iter().map(|len| (*len, false)).chain(writable.iter().map(|len| (*len, true)));
        let (mut offsets, mut end) = (Vec::new(), 0);
        for (len, writable) in lens {
            // A byte between small pieces, so that nobody takes them for one; data where drivers have it.
            let align = if len >= 512 { 512 } else { 1 };
            let at = (end + 1_u64).next_multiple_of(align) + misalign;
            offsets.push((at, len, writable));
            end = at + len as u64;
        }
        let base = self.mem.alloc(end, 4096);
        let mut memory = vec![base];
        let bufs: Vec<Buf> = offsets
            .iter()
            .map(|(at, len, writable)| Buf { addr: base + at, len: *len as u32, writable: *writable })
            .collect();
        let mut rest = &bytes[..];
        for buf in bufs.iter().filter(|buf| !buf.writable) {
            let (now, later) = rest.split_at(buf.len as usize);
            self.mem.write(buf.addr, now);
            rest = later;
        }
        let writable: Vec<Buf> = bufs.iter().copied().filter(|buf| buf.writable).collect();
        for buf in &writable {
            self.mem.write(buf.addr, &vec![POISON; buf.len as usize]);
        }
        if let Some(last) = writable.last() {
            self.mem.write(last.addr + u64::from(last.len) - 1, &[UNTOUCHED]);
        }
        let head = if indirect {
            let table = self.mem.alloc(16 * bufs.len() as u64, 16);
            memory.push(table);
            self.put_indirect_table(table, &bufs);
            let descs = [Desc { addr: table, len: 16 * bufs.len() as u32, flags: super::ring::DESC_INDIRECT, next: 0 }];
            self.queues[queue].add_raw(&self.mem, &descs)
        } else {
            self.queues[queue].add(&self.mem, &bufs)
        };
        let what = format!("type {} at sector {:#x}, {} + {} bytes", req.kind, req.sector, req.out.len(), req.in_len);
        self.in_flight(queue, head, Pending { token: Token(0), what, memory, writable })
    }

    fn put_indirect_table(&self, table: u64, bufs: &[Buf]) {
        for (at, buf) in bufs.iter().enumerate() {
            let more = if at + 1 < bufs.len() { super::ring::DESC_NEXT } else { 0 };
            let flags = more | if buf.writable { super::ring::DESC_WRITE } else { 0 };
            let desc = Desc { addr: buf.addr, len: buf.len, flags, next: at as u16 + 1 };
            self.mem.write(table + 16 * at as u64, &desc.bytes());
        }
    }

    /// Puts descriptors on a queue as they are; see [`Queue::add_raw`].
    pub fn submit_raw(&mut self, queue: usize, descs: &[Desc]) -> Token {
        let head = self.queues[queue].add_raw(&self.mem, descs);
        let what = format!("raw descriptors {descs:x?}");
        self.in_flight(queue, head, Pending { token: Token(0), what, memory: Vec::new(), writable: Vec::new() })
    }

    fn in_flight(&mut self, queue: usize, head: u16, mut pending: Pending) -> Token {
        let token = self.token();
        pending.token = token;
        let before = self.pending.insert((queue, u32::from(head)), pending);
        assert!(before.is_none(), "two requests with one head");
        if !self.plugged {
            self.queues[queue].publish(&self.mem);
        }
        token
    }

    /// Takes what the device has used; returns how many requests that was. Does not wait.
    pub fn collect(&mut self) -> usize {
        let mut count = 0;
        for at in 0..self.queues.len() {
            while let Some((head, used_len)) = self.queues[at].take_used(&self.mem) {
                count += 1;
                let Some(pending) = self.pending.remove(&(at, head)) else {
                    panic!("queue {at}: the device used head {head}, which is not in flight");
                };
                let mut data: Vec<u8> = Vec::new();
                for buf in &pending.writable {
                    data.extend(self.mem.read(buf.addr, buf.len as usize));
                }
                let status = data.pop().map_or(Status::Untouched, Status::from);
                pending.memory.iter().for_each(|gpa| self.mem.release(*gpa));
                self.done.insert(pending.token, Done { status, used_len, data });
            }
        }
        count
    }

    /// Takes what the device has used, waiting for its notification. Returns whether there was anything.
    pub fn collect_until(&mut self, deadline: Instant) -> bool {
        loop {
            if self.collect() > 0 {
                return true;
            }
            self.queues.iter().for_each(|queue| queue.arm(&self.mem));
            if self.queues.iter().any(|queue| queue.has_used(&self.mem)) {
                continue;
            }
            if !wait_for_call(&self.queues, &self.conn.sock, deadline) {
                let lost = self.queues.iter().find(|queue| queue.has_used(&self.mem));
                let Some(queue) = lost else { return false };
                // The answer may have come at the deadline, with the notification behind it. A daemon that has died
                // may have had no time for one.
                let notified = wait_for_call(&self.queues, &self.conn.sock, Instant::now() + PATIENCE);
                let index = queue.index;
                assert!(notified || self.conn.hung_up(), "queue {index}: the device used requests and did not notify");
            }
        }
    }

    /// Waits for one request, at most for `patience`.
    pub fn wait_for(&mut self, token: Token, patience: Duration) -> Option<Done> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(done) = self.done.remove(&token) {
                return Some(done);
            }
            if !self.collect_until(deadline) {
                return None;
            }
        }
    }

    /// Waits for one request.
    #[track_caller]
    pub fn wait(&mut self, token: Token) -> Done {
        self.wait_for(token, PATIENCE).unwrap_or_else(|| {
            let what = self.pending.values().find(|p| p.token == token).map_or("an unknown request", |p| &p.what);
            panic!("waited {PATIENCE:?} (or until the daemon hung up) for a request: {what}")
        })
    }

    /// Takes the result of a request if it is there.
    pub fn poll(&mut self, token: Token) -> Option<Done> {
        self.collect();
        self.done.remove(&token)
    }

    /// Takes the result of a request if it was collected.
    pub fn taken(&mut self, token: Token) -> Option<Done> {
        self.done.remove(&token)
    }

    /// Waits for all of `tokens`, in their order.
    #[track_caller]
    pub fn wait_all(&mut self, tokens: &[Token]) -> Vec<Done> {
        tokens.iter().map(|token| self.wait(*token)).collect()
    }

    /// How many requests are in flight.
    pub fn in_flight_count(&self) -> usize {
        self.pending.len()
    }

    /// The heads of one queue whose requests are in flight, as far as it is known.
    pub fn heads_in_flight(&self, queue: usize) -> Vec<u16> {
        self.pending.keys().filter(|(at, _)| *at == queue).map(|(_, head)| *head as u16).collect()
    }

    /// Submits a request and waits for it.
    #[track_caller]
    pub fn call(&mut self, queue: usize, req: &Req) -> Done {
        let token = self.submit(queue, req);
        self.wait(token)
    }
}
