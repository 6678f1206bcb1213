//! A recording that a test writes itself, request by request, as a disk would have had it.

use std::path::Path;

use vhost_user_zbd::observe::Kind;
use vhost_user_zbd::qcow2::{self, ByteOrder, CreateOptions};
use vhost_user_zbd::record::format::{Header, encode, pointers_digest};
use vhost_user_zbd::record::{Accepted, Data, Ended, Entry, Run};
use vhost_user_zbd::storage::file::FileMedium;
use vhost_user_zbd::store::Tag;
use vhost_user_zbd::units::{Bytes, ZoneIndex};
use vhost_user_zbd::virtio::status::Status;
use vhost_user_zbd::zone::{Geometry, GeometryRequest};
use zerocopy::IntoBytes;

pub(crate) const BLOCK: u64 = 4096;

/// The recording.
pub(crate) struct Tape {
    pub(crate) request: GeometryRequest,
    bytes: Vec<u8>,
    pub(crate) records: u64,
}

impl Tape {
    /// Of a new disk with so many zones of so many blocks.
    pub(crate) fn new(zones: u64, blocks: u64, conventional: u32, max_active: u32) -> Self {
        let request = GeometryRequest {
            size: Bytes(zones * blocks * BLOCK),
            zone_size: Bytes(blocks * BLOCK),
            zone_capacity: Bytes(blocks * BLOCK),
            conventional_zones: conventional,
            max_open_zones: max_active,
            max_active_zones: max_active,
            max_append_bytes: Bytes((blocks - 1) * BLOCK),
        };
        let (geometry, _) = Geometry::new(&request).unwrap();
        let header = Header::new(&geometry, Bytes(BLOCK), pointers_digest([]));
        let mut tape = Self { request, bytes: header.as_bytes().to_vec(), records: 0 };
        tape.put(&Entry::Session { generation: 0, pointers: Vec::new() });
        tape
    }

    pub(crate) fn put(&mut self, entry: &Entry) -> u64 {
        encode(entry, self.records, 0, &mut self.bytes);
        self.records += 1;
        self.records - 1
    }

    /// A request has its place, in bytes of the disk.
    pub(crate) fn accept(&mut self, kind: Kind, place: u64, len: u64) -> u64 {
        let zone = (kind != Kind::Flush).then(|| ZoneIndex((place / self.request.zone_size.0) as u32));
        let tag = Some(Tag { queue: 0, slot: self.records as u16 });
        self.put(&Entry::Accept(Accepted { tag, kind, zone, place: Bytes(place), len: len as u32 }))
    }

    pub(crate) fn data(&mut self, of: u64, bytes: &[u8]) -> u64 {
        let runs = vec![Run { at: 0, bytes: bytes.to_vec() }];
        self.put(&Entry::Data(Data { of, at: 0, len: bytes.len() as u32, runs }))
    }

    pub(crate) fn answer(&mut self, of: u64) -> u64 {
        self.put(&Entry::Answer { of, status: Status::Ok, appended: None })
    }

    pub(crate) fn flush_comes(&mut self) -> u64 {
        self.put(&Entry::Flush { queue: 0 })
    }

    pub(crate) fn mark(&mut self, text: &str) -> u64 {
        self.put(&Entry::Mark(text.to_owned()))
    }

    /// Writes the image that the recording begins with, and the recording.
    pub(crate) fn store(&mut self, base: &Path, log: &Path) {
        self.put(&Entry::End(Ended::Orderly));
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(base).unwrap();
        let options =
            CreateOptions { geometry: self.request, cluster_size: Bytes(4096), table_order: ByteOrder::Little };
        qcow2::create(&FileMedium::new(file), &options).unwrap();
        std::fs::write(log, &self.bytes).unwrap();
    }
}
