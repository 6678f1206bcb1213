//! The parts of this layer that bytes of a guest or a frontend reach, for [`crate::fuzzing`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that is broken is told by panicking")]

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserInflight;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::Supervised;
use super::connection::converse;
use super::handler::Handler;
use super::host::Host;
use super::housekeeper::Housekeeper;
use super::inflight::{self, Inflight, Tracker};
use super::journal::{self, Journals};
use super::options::{CacheMode, ServeOptions};
use super::reception::{Caller, Reception};
use super::ring::{Ring, RingError, RingSetup};
use super::{Disk, Served};
use crate::device::recovery::Recovery;
use crate::fuzzing::input::Input;
use crate::io::{AioMode, DataFiles};
use crate::qcow2::{self, ByteOrder, CreateOptions};
use crate::sandbox::{Mode, Sandbox};
use crate::service::ServiceManager;
use crate::storage::memory::MemoryMedium;
use crate::store::{OpenOptions, ZonedDevice, ZonedStore};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::virtio::memory::Memory;
use crate::virtio::request::Buffers;
use crate::zone::{GeometryRequest, State};

const ZONES: u32 = 6;
const ZONE: u64 = 64 << 10;
/// Guest memory, from address 0.
const MEMORY: usize = 64 << 10;

fn store() -> Arc<ZonedStore<MemoryMedium>> {
    static IMAGE: OnceLock<MemoryMedium> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let geometry = GeometryRequest {
            size: Bytes(u64::from(ZONES) * ZONE),
            zone_size: Bytes(ZONE),
            zone_capacity: Bytes(ZONE / 4 * 3),
            conventional_zones: 1,
            max_open_zones: 2,
            max_active_zones: 4,
            max_append_bytes: Bytes(4096),
        };
        let image = MemoryMedium::default();
        let options = CreateOptions { geometry, cluster_size: Bytes(4096), table_order: ByteOrder::Big };
        qcow2::create(&image, &options).unwrap();
        image
    });
    let options = OpenOptions { read_only: false, write_granularity: Bytes(512), hold_resets: false };
    Arc::new(ZonedStore::open(Arc::new(image.clone()), options).unwrap())
}

fn memfd(len: u64) -> File {
    let file = File::from(memfd_create("fuzzing", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    file
}

/// Where a ring lies: mostly where one can.
fn ring_setup(input: &mut Input<'_>) -> RingSetup {
    let any = input.u8() >= 240;
    let mut place = |unit: u64| {
        let at = if any { input.u64() } else { u64::from(input.u16()) };
        GuestAddress(if any { at } else { at / unit * unit })
    };
    let (descriptors, available, used) = (place(16), place(2), place(4));
    let size = if any { input.u16() } else { 1 << input.below(9) };
    RingSetup { size, descriptors, available, used, next_available: input.u16(), event_idx: input.flag() }
}

/// A chain of up to four descriptors, with the wrong flags and places that a guest can choose.
fn descriptors(input: &mut Input<'_>) -> Vec<Descriptor> {
    let count = 1 + input.below(4);
    let describe = |_| {
        let addr = input.mostly_below(MEMORY);
        let len = input.mostly_below(8192) as u32;
        Descriptor::new(addr, len, u16::from(input.u8()) & 7, input.u16())
    };
    (0..count).map(describe).collect()
}

/// Makes a chain available as a driver does.
fn offer(mem: &Memory, setup: &RingSetup, input: &mut Input<'_>) {
    let size = setup.size.max(1);
    let head = input.u16() % size.saturating_add(1).max(1);
    for (index, descriptor) in (u64::from(head)..).zip(descriptors(input)) {
        let at = setup.descriptors.0.wrapping_add(16 * (index % u64::from(size)));
        mem.write_obj(descriptor, GuestAddress(at)).unwrap_or_default();
    }
    let index_at = GuestAddress(setup.available.0.wrapping_add(2));
    let index: u16 = mem.read_obj(index_at).unwrap_or_default();
    let entry = setup.available.0.wrapping_add(4 + 2 * u64::from(index % size));
    mem.write_obj(head, GuestAddress(entry)).unwrap_or_default();
    mem.write_obj(index.wrapping_add(1), index_at).unwrap_or_default();
}

/// A ring in memory that a guest writes what it likes to.
pub fn ring(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mem: Memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap().into();
    let mut setup = ring_setup(&mut input);
    let tracked = (input.u8() >= 200).then(|| (region(&mut input).1, input.below(3) as u16));
    if let Some((region, queue)) = &tracked {
        scribble(region, *queue, &mut input);
    }
    // Mostly a ring that nothing has been taken from.
    if input.u8() < 200 {
        for at in [setup.available, setup.used] {
            mem.write_obj(setup.next_available, GuestAddress(at.0.wrapping_add(2))).unwrap_or_default();
        }
    }
    let Ok(mut ring) = Ring::new(&setup, &mem, tracked) else { return };
    let mut buffers = Buffers::default();
    let mut count = 0usize;
    let _ = ring.for_left_behind(&mem, |chain| {
        count += 1;
        let _ = buffers.parse(&mem, chain);
    });
    assert!(count <= usize::from(setup.size), "{count} chains were left behind");
    while !input.is_empty() && !ring.is_broken() {
        let done = match input.below(9) {
            0 => mem.write_slice(input.take(16), GuestAddress(input.u16().into())).or(Ok(())),
            1 | 2 => {
                offer(&mem, &setup, &mut input);
                Ok(())
            }
            3 | 4 => take_all(&mut ring, &mem, setup.size),
            5 => ring.push(&mem, input.u16(), input.u32()),
            6 => ring.silence(&mem),
            7 => ring.listen(&mem).map(|_| ()).and_then(|()| ring.announce(&mem)),
            _ => {
                setup = ring_setup(&mut input);
                ring.relocate(&setup, &mem)
            }
        };
        if done.is_err() {
            ring.break_off();
        }
    }
}

/// Takes what there is, as a worker does, and gives it back.
fn take_all(ring: &mut Ring, mem: &Memory, size: u16) -> Result<(), RingError> {
    let mut buffers = Buffers::default();
    let mut heads = Vec::new();
    while let Some(chain) = ring.pop(mem)? {
        // Giving back comes after: where the rings overlap it makes something new available.
        assert!(heads.len() < size.into(), "more chains than the ring has entries");
        heads.push(chain.head_index());
        // An indirect table has its own length.
        assert!(chain.clone().count() <= usize::from(size) + (1 << 16), "a chain without an end");
        ring.mark(chain.head_index());
        let _ = buffers.parse(mem, chain);
    }
    heads.into_iter().try_for_each(|head| ring.push(mem, head, 1))
}

fn region(input: &mut Input<'_>) -> (VhostUserInflight, Arc<Inflight>, File) {
    let disk = inflight::disk(store().geometry(), 512);
    let asked = VhostUserInflight::new(0, 0, 1 + input.below(3) as u16, 1 << input.below(12));
    let (told, file) = Inflight::create(&asked, &disk, ZONES).unwrap();
    let region = Inflight::open(&told, &file, &disk, ZONES).unwrap();
    (told, region, file)
}

/// Leaves in a region what a process or a frontend can have left there.
fn scribble(region: &Inflight, queue: u16, input: &mut Input<'_>) {
    for _ in 0..input.below(16) {
        let head = input.below(1024) as u16;
        let Some(record) = region.record(queue % region.queues(), head) else { continue };
        let entry = region.entry_place(queue % region.queues(), head);
        match input.below(8) {
            0 => region.store(entry, input.u8()),
            1 => region.store(entry + 6, input.u16()),
            2 => region.store(entry + 8, input.u64()),
            // The header: last batch head, used index.
            3 => region.store(region.entry_place(queue % region.queues(), 0) - 4, input.u32()),
            4 => region.set_open_zone(ZoneIndex(input.u8().into()), true),
            _ => {
                let zone = input.mostly_below(ZONES as usize);
                let mut sectors = |most| input.mostly_below(most).wrapping_mul(512);
                let start = zone.wrapping_mul(ZONE).wrapping_add(sectors(130));
                region.store(record + 8, start);
                region.store(record + 16, start.wrapping_add(sectors(20)));
                region.store(record, zone << 32 | u64::from(input.u8()) << 8 | input.mostly_below(6));
                region.store(entry + 8, u64::from(input.u8()));
                region.store(entry, 1u8);
            }
        }
    }
}

/// An in-flight region of a frontend, taken over by a process that was just started.
pub fn inflight(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (told, region, file) = region(&mut input);
    let len = told.mmap_size;
    let told = match input.u8() {
        240.. => VhostUserInflight::new(input.u64(), input.u64(), input.u16(), input.u16()),
        220.. => VhostUserInflight::new(told.mmap_size, u64::from(input.u16()), input.u16() % 70, told.queue_size),
        _ => told,
    };
    for queue in 0..region.queues() {
        scribble(&region, queue, &mut input);
    }
    // Any eight bytes anywhere.
    for _ in 0..input.below(4) {
        let bytes = input.take(8);
        file.write_all_at(bytes, input.mostly_below(MEMORY) % (len - 8)).unwrap();
    }
    let store = store();
    let disk = inflight::disk(store.geometry(), 512);
    drop(region);
    let Ok(region) = Inflight::open(&told, &file, &disk, ZONES) else { return };
    let journals = Arc::new(Journals::new());
    store.set_journal(Box::new(Arc::clone(&journals)));
    journals.attach(Some(&region));
    let disk: Arc<dyn ZonedDevice> = Arc::clone(&store) as _;
    let mut left = journal::recover(&disk, &region, &journals);
    for (queue, left) in (0..region.queues()).zip(&mut left) {
        let (mut tracker, heads) = Tracker::new(Arc::clone(&region), queue, input.u16());
        assert!(heads.len() <= region.entries().into());
        for head in heads.iter().take(input.below(20)) {
            // What is taken and not gone on with would keep its place, so it is put back by hand.
            if let Some(Recovery::Resumes(ticket)) = left.take(*head) {
                store.abandon(ticket);
            }
            tracker.take(*head);
            tracker.before_giving_back(*head);
            tracker.given_back(*head, input.u16());
        }
    }
    drop(left);
    assert_nothing_is_reserved(&store);
}

/// What nobody goes on with has left no trace: every zone is as the image says, or open at its start.
fn assert_nothing_is_reserved(store: &ZonedStore<MemoryMedium>) {
    let mut zones = Vec::new();
    store.report(Sector(0), usize::MAX, &mut zones).unwrap();
    for zone in &zones {
        assert_eq!(zone.write_pointer, zone.start, "{zone:?}");
        let states = [State::Empty, State::ExplicitOpen, State::ImplicitOpen, State::Closed, State::NotWp];
        assert!(states.contains(&zone.state), "{zone:?}");
    }
    store.close().unwrap();
}

/// The other end of a connection, and the memory it shares.
struct Frontend<'a> {
    stream: UnixStream,
    memory: File,
    input: Input<'a>,
    setup: RingSetup,
}

impl Frontend<'_> {
    fn send(&self, request: u32, payload: &[u8], files: &[RawFd]) {
        // Version 1, and mostly a reply is asked for.
        let header = [request, 1 | 8, payload.len() as u32].map(u32::to_le_bytes).concat();
        let bytes = [&header, payload].concat();
        // A daemon that has closed the connection already is no matter.
        let _ = self.stream.send_with_fds(&[&bytes[..]], files);
    }

    fn numbers(&self, request: u32, numbers: &[u64], files: &[RawFd]) {
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.send(request, &payload, files);
    }

    /// An index of a ring and a number, as 32 bits each.
    fn state(&mut self, request: u32, number: u32) {
        let index = self.input.mostly_below(3) as u32;
        self.numbers(request, &[u64::from(number) << 32 | u64::from(index)], &[]);
    }

    fn eventfd(&self, request: u32, index: u64) {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        event.write(1).unwrap();
        self.numbers(request, &[index], &[event.as_raw_fd()]);
    }

    fn memory_table(&mut self) {
        let size = if self.input.u8() >= 220 { self.input.u64() } else { MEMORY as u64 };
        let offset = if self.input.u8() >= 220 { self.input.u64() } else { 0 };
        self.numbers(5, &[1, 0, size, 0x7000_0000, offset], &[self.memory.as_raw_fd()]);
    }

    fn addresses(&mut self, index: u32) {
        let user = |at: GuestAddress| at.0.wrapping_add(0x7000_0000);
        let RingSetup { descriptors, available, used, .. } = self.setup;
        self.numbers(9, &[u64::from(index), user(descriptors), user(used), user(available), 0], &[]);
    }

    /// All that a queue needs, in order.
    fn begin(&mut self) {
        // VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, zoned, flush, event indices.
        let features = 1 << 32 | 1 << 30 | 1 << 17 | 1 << 9 | u64::from(self.setup.event_idx) << 29;
        self.numbers(2, &[features], &[]);
        self.numbers(16, &[0x800b | 1 << 12], &[]);
        self.memory_table();
        self.numbers(8, &[u64::from(self.setup.size) << 32], &[]);
        self.numbers(10, &[0], &[]);
        self.addresses(0);
        self.eventfd(13, 0);
        self.eventfd(12, 0);
        self.numbers(18, &[1 << 32], &[]);
    }

    /// Requests in the ring that a queue will find.
    fn fill_ring(&mut self) {
        let mem: Memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap().into();
        for _ in 0..self.input.below(6) {
            offer(&mem, &self.setup, &mut self.input);
            let header = [self.input.below(28) as u64, self.input.below(2000) as u64].map(u64::to_le_bytes).concat();
            mem.write_slice(&header, GuestAddress(self.input.u16().into())).unwrap_or_default();
        }
        let mut bytes = vec![0; MEMORY];
        mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        self.memory.write_all_at(&bytes, 0).unwrap();
    }

    fn message(&mut self) {
        match self.input.below(20) {
            0 => self.begin(),
            1 => self.memory_table(),
            2 => {
                let features = self.input.u64();
                self.numbers(2, &[features], &[]);
            }
            3 => {
                let size = self.input.u32() % 1025;
                self.state(8, size);
            }
            4 => {
                let base = self.input.u32();
                self.state(10, base);
            }
            5 => self.state(11, 0),
            6 => {
                let on = u32::from(self.input.flag());
                self.state(18, on);
            }
            7 => {
                self.setup = ring_setup(&mut self.input);
                let index = self.input.below(3) as u32;
                self.addresses(index);
            }
            8..=10 => {
                let (request, index) = (12 + self.input.below(3) as u32, self.input.mostly_below(3));
                self.eventfd(request, index);
            }
            11 => {
                let (offset, size, flags) = (self.input.u32() % 300, self.input.u32() % 300, self.input.u32() % 4);
                let words = [offset, size, flags].map(u32::to_le_bytes).concat();
                let request = 24 + self.input.below(2) as u32;
                let data = vec![self.input.u8(); size as usize];
                self.send(request, &[words, data].concat(), &[]);
            }
            12 => {
                let (told, region, file) = region(&mut self.input);
                scribble(&region, 0, &mut self.input);
                let shape = u64::from(told.num_queues) | u64::from(told.queue_size) << 16;
                self.numbers(32, &[told.mmap_size, told.mmap_offset, shape], &[file.as_raw_fd()]);
            }
            13 => {
                let shape = self.input.u32().into();
                self.numbers(31, &[0, 0, shape], &[]);
            }
            14 => {
                let (request, guest) = (37 + self.input.below(2) as u32, self.input.mostly_below(3) << 16);
                self.numbers(
                    request,
                    &[0, guest, MEMORY as u64, guest.wrapping_add(0x7000_0000), 0],
                    &[self.memory.as_raw_fd()],
                );
            }
            15 => {
                let request = [4, 34][self.input.below(2)];
                self.numbers(request, &[], &[]);
            }
            _ => {
                let (request, len) = (self.input.u8() % 45, self.input.below(64));
                let files = if self.input.flag() { vec![self.memory.as_raw_fd()] } else { Vec::new() };
                let payload = self.input.take(len);
                self.send(request.into(), payload, &files);
            }
        }
    }
}

fn options() -> ServeOptions {
    ServeOptions {
        block_size: 512,
        num_queues: 2,
        queue_size: 256,
        cache: CacheMode::Writeback,
        read_only: false,
        serial: "fuzzing".into(),
        aio: AioMode::Sync,
        poll: Duration::ZERO,
        sandbox: Mode::Off,
    }
}

/// Messages of a frontend, and the rings of the queues it starts.
pub fn messages(bytes: &[u8]) {
    let (stream, served) = UnixStream::pair().unwrap();
    // All is sent before any of it is looked at; what does not fit is left out.
    stream.set_nonblocking(true).unwrap();
    let mut input = Input::new(bytes);
    let setup = RingSetup {
        size: 1 << input.below(9),
        descriptors: GuestAddress(0x1000),
        available: GuestAddress(0x3000),
        used: GuestAddress(0x4000),
        next_available: 0,
        event_idx: input.flag(),
    };
    let mut frontend = Frontend { stream, memory: memfd(MEMORY as u64), input, setup };
    frontend.fill_ring();
    if frontend.input.u8() < 200 {
        frontend.begin();
    }
    for _ in 0..12 {
        if frontend.input.is_empty() {
            break;
        }
        frontend.message();
    }
    frontend.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let file = memfd(0);
    let files = DataFiles::new(file.try_clone().unwrap(), file);
    let (store, stop, options) = (store(), EventFd::new(EFD_NONBLOCK).unwrap(), options());
    let config = options.config_space(store.geometry()).unwrap();
    let sandbox = Sandbox::enter(options.sandbox, &[]).unwrap();
    let disk: Arc<dyn ZonedDevice> = Arc::clone(&store) as _;
    let host = Arc::new(
        Host::new(
            Served {
                disk: Disk::Plain(disk),
                files,
                power_lost: None,
                remote: Default::default(),
                rules: None,
                log: None,
            },
            &options,
            config.max_append(),
            None,
            sandbox,
            None,
        )
        .unwrap(),
    );
    let housekeeper = Housekeeper::start(Arc::clone(&host)).unwrap();
    let by = Supervised { stop: &stop, manager: &ServiceManager::default() };
    let handler = Handler::new(Arc::clone(&host), config, &options);
    let mut reception = Reception::new(None, &host.device.lines, by);
    let stopped = converse(Caller::new(served), handler, &mut reception).unwrap();
    housekeeper.stop();
    assert!(!stopped, "nobody has stopped it");
    store.close().unwrap();
}
