//! A chain of descriptors, whatever it holds.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::Input;
use crate::units::Bytes;
use crate::virtio::memory::Memory;
use crate::virtio::request::{Buffers, Direction, MAX_DATA, MAX_DESCRIPTORS, Request};
use crate::virtio::status::Status;

/// Guest memory with a hole in it, and a piece at the end of what addresses can say.
fn memory() -> Memory {
    let ranges = [(0, 0x8000), (0xc000, 0x4000), (u64::MAX - 0x1fff, 0x1000)];
    GuestMemoryMmap::from_ranges(&ranges.map(|(at, len)| (GuestAddress(at), len))).unwrap().into()
}

fn descriptor(input: &mut Input<'_>) -> Descriptor {
    let addr = match input.u8() {
        200.. => input.u64(),
        150.. => u64::MAX - u64::from(input.u16()),
        _ => u64::from(input.u16()),
    };
    let len = if input.u8() >= 200 { input.u32() } else { u32::from(input.u16()) % 5000 };
    // Mostly a chain that goes on; the last one is cut off below.
    let flags = if input.u8() >= 250 { input.u16() } else { 1 | u16::from(input.u8() & 2) };
    Descriptor::new(addr, len, flags, 0)
}

/// Parses a chain and answers it.
pub fn request(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mem = memory();
    let mut header = [0; 16];
    let kind = input.take(16);
    header[..kind.len()].copy_from_slice(kind);
    mem.write_slice(&header, GuestAddress(0)).unwrap();
    mem.write_slice(input.take(64), GuestAddress(0x7fe0)).unwrap_or_default();
    // Mostly a header where there is one.
    let mut chain = if input.flag() { vec![Descriptor::new(0, 16, 1, 0)] } else { Vec::new() };
    while !input.is_empty() && chain.len() <= MAX_DESCRIPTORS {
        chain.push(descriptor(&mut input));
    }
    if let Some(last) = chain.last_mut()
        && !bytes.len().is_multiple_of(8)
    {
        *last = Descriptor::new(last.addr().0, last.len(), last.flags() & !1, 0);
    }
    let mut buffers = Buffers::default();
    let parsed = buffers.parse(&mem, chain.iter().copied());
    assert_eq!(buffers.put_status(&mem, Status::IoErr), buffers.can_answer());
    let Ok(request) = parsed else { return };
    assert!(buffers.can_answer(), "{request:?} cannot be answered");
    let mut iovecs = Vec::new();
    let mut resolved = |direction| {
        let inside = buffers.resolve(&mem, direction, &mut iovecs).is_ok();
        let all: u64 = iovecs.iter().map(|iovec: &libc::iovec| iovec.iov_len as u64).sum();
        (inside, all)
    };
    let (readable, writable) = (resolved(Direction::Readable), resolved(Direction::Writable));
    let (transferred, (inside, all)) = match request {
        Request::In { len, .. } => (len, writable),
        Request::Out { len, .. } | Request::Append { len, .. } => (len, readable),
        Request::Report { len, .. } => (len, writable),
        Request::Flush | Request::GetId | Request::Manage { .. } | Request::ResetAll => (Bytes(0), (false, 0)),
    };
    let report = matches!(request, Request::Report { .. });
    assert!(report || transferred <= MAX_DATA, "{request:?}");
    assert!(!inside || all == transferred.0, "{request:?}: buffers of {all} bytes");
    if let Ok(written) = buffers.write(&mem, Bytes(input.u16().into()), &[7; 24]) {
        assert!(written <= 24);
    }
}
