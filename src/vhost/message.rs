//! What a frontend asks for: the vhost-user messages that a disk answers, out of their bytes.
//!
//! Only the form is looked at here: lengths, descriptors, and that the protocol feature that a message belongs to was
//! agreed on. What is wrong in form ends the connection, as nobody knows then what the frontend takes for granted.
//!
//! Rules: QEMU's docs/interop/vhost-user, "Message Specification". Numbers are in this machine's byte order.

use std::fs::File;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::{FrontendReq, VhostUserInflight, VhostUserMemoryRegion};

use super::wire::Frame;

/// The bits of a header's flags.
const VERSION_MASK: u32 = 3;
const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// SET_VRING_KICK and its like: no descriptor comes with the message.
const NO_FILE: u64 = 1 << 8;

/// The most bytes of a configuration space.
const MAX_CONFIG: u32 = 4096;

/// Why a message makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("message {0} is not one that a disk answers")]
    Unknown(u32),
    #[error("message {request:?} has flags {flags:#x}: expected a request of version 1")]
    Flags { request: FrontendReq, flags: u32 },
    #[error("message {request:?} came without protocol feature {feature:#x}, which it belongs to")]
    NotAgreed { request: FrontendReq, feature: u64 },
    #[error("message {request:?} has {found} bytes: expected {expected}")]
    Length { request: FrontendReq, found: usize, expected: &'static str },
    #[error("message {request:?} came with {found} descriptors: expected {expected}")]
    Files { request: FrontendReq, found: usize, expected: usize },
    #[error("message {request:?} has {what}")]
    Value { request: FrontendReq, what: &'static str },
}

/// What is to be done.
pub(super) enum Message {
    GetFeatures,
    SetFeatures(u64),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    SetOwner,
    /// RESET_DEVICE, or the older RESET_OWNER.
    Reset,
    GetQueueNum,
    SetMemTable(Vec<(VhostUserMemoryRegion, File)>),
    GetMaxMemSlots,
    AddMemReg(VhostUserMemoryRegion, File),
    RemMemReg(VhostUserMemoryRegion),
    SetVringNum {
        index: u32,
        size: u32,
    },
    SetVringAddr {
        index: u32,
        descriptors: u64,
        used: u64,
        available: u64,
    },
    SetVringBase {
        index: u32,
        base: u32,
    },
    GetVringBase {
        index: u32,
    },
    SetVringKick {
        index: u32,
        file: Option<File>,
    },
    SetVringCall {
        index: u32,
        file: Option<File>,
    },
    SetVringErr {
        index: u32,
        file: Option<File>,
    },
    SetVringEnable {
        index: u32,
        on: bool,
    },
    GetConfig {
        offset: u32,
        size: u32,
        flags: u32,
    },
    SetConfig {
        offset: u32,
        data: Vec<u8>,
    },
    GetInflightFd(VhostUserInflight),
    SetInflightFd(VhostUserInflight, File),
}

/// A message and whether its end is to be told.
pub(super) struct Request {
    pub(super) code: FrontendReq,
    pub(super) needs_reply: bool,
    pub(super) message: Message,
}

/// The protocol feature that a message belongs to, for those that have one.
fn feature_of(request: FrontendReq) -> Protocol {
    match request {
        FrontendReq::GET_QUEUE_NUM => Protocol::MQ,
        FrontendReq::GET_CONFIG | FrontendReq::SET_CONFIG => Protocol::CONFIG,
        FrontendReq::GET_INFLIGHT_FD | FrontendReq::SET_INFLIGHT_FD => Protocol::INFLIGHT_SHMFD,
        FrontendReq::RESET_DEVICE => Protocol::RESET_DEVICE,
        FrontendReq::GET_MAX_MEM_SLOTS | FrontendReq::ADD_MEM_REG | FrontendReq::REM_MEM_REG => {
            Protocol::CONFIGURE_MEM_SLOTS
        }
        _ => Protocol::empty(),
    }
}

/// Understands a message, where these protocol features were agreed on.
pub(super) fn parse(frame: Frame, agreed: Protocol) -> Result<Request, Malformed> {
    let Frame { request: number, flags, payload, files } = frame;
    let request = FrontendReq::try_from(number).map_err(|_| Malformed::Unknown(number))?;
    if flags & VERSION_MASK != VERSION || flags & IS_REPLY != 0 {
        return Err(Malformed::Flags { request, flags });
    }
    let feature = feature_of(request);
    if !agreed.contains(feature) {
        return Err(Malformed::NotAgreed { request, feature: feature.bits() });
    }
    let mut parts = Parts { request, rest: &payload, whole: payload.len(), files };
    let message = parts.message()?;
    parts.no_more_files()?;
    Ok(Request { code: request, needs_reply: flags & NEED_REPLY != 0, message })
}

/// The header of the reply to a message.
pub(super) fn reply(code: FrontendReq, payload: &[u8]) -> Vec<u8> {
    let header = [code.into(), VERSION | IS_REPLY, payload.len() as u32].map(u32::to_ne_bytes);
    [header.as_flattened(), payload].concat()
}

/// The payload of a reply about an in-flight region.
pub(super) fn inflight_payload(told: &VhostUserInflight) -> Vec<u8> {
    let (sizes, shape) = ([told.mmap_size, told.mmap_offset], [told.num_queues, told.queue_size, 0, 0]);
    [sizes.map(u64::to_ne_bytes).as_flattened(), shape.map(u16::to_ne_bytes).as_flattened()].concat()
}

/// What is left to be looked at of a message.
struct Parts<'a> {
    request: FrontendReq,
    rest: &'a [u8],
    whole: usize,
    files: Vec<File>,
}

impl Parts<'_> {
    fn message(&mut self) -> Result<Message, Malformed> {
        Ok(match self.request {
            FrontendReq::GET_FEATURES => self.empty(Message::GetFeatures)?,
            FrontendReq::SET_FEATURES => Message::SetFeatures(self.number()?),
            FrontendReq::GET_PROTOCOL_FEATURES => self.empty(Message::GetProtocolFeatures)?,
            FrontendReq::SET_PROTOCOL_FEATURES => Message::SetProtocolFeatures(self.number()?),
            FrontendReq::SET_OWNER => self.empty(Message::SetOwner)?,
            FrontendReq::RESET_OWNER | FrontendReq::RESET_DEVICE => self.empty(Message::Reset)?,
            FrontendReq::GET_QUEUE_NUM => self.empty(Message::GetQueueNum)?,
            FrontendReq::SET_MEM_TABLE => self.mem_table()?,
            FrontendReq::GET_MAX_MEM_SLOTS => self.empty(Message::GetMaxMemSlots)?,
            FrontendReq::ADD_MEM_REG => Message::AddMemReg(self.single_region()?, self.file()?),
            FrontendReq::REM_MEM_REG => {
                let region = self.single_region()?;
                // Some frontends send one all the same, which is to be closed unused.
                self.files.truncate(0);
                Message::RemMemReg(region)
            }
            FrontendReq::SET_VRING_NUM => self.state(|index, size| Message::SetVringNum { index, size })?,
            FrontendReq::SET_VRING_ADDR => self.addresses()?,
            FrontendReq::SET_VRING_BASE => self.state(|index, base| Message::SetVringBase { index, base })?,
            FrontendReq::GET_VRING_BASE => self.state(|index, _| Message::GetVringBase { index })?,
            FrontendReq::SET_VRING_KICK => self.event(|index, file| Message::SetVringKick { index, file })?,
            FrontendReq::SET_VRING_CALL => self.event(|index, file| Message::SetVringCall { index, file })?,
            FrontendReq::SET_VRING_ERR => self.event(|index, file| Message::SetVringErr { index, file })?,
            FrontendReq::SET_VRING_ENABLE => match self.state(|index, on| (index, on))? {
                (index, on @ (0 | 1)) => Message::SetVringEnable { index, on: on == 1 },
                _ => return Err(self.wrong("a state that is neither 0 nor 1")),
            },
            FrontendReq::GET_CONFIG | FrontendReq::SET_CONFIG => self.config()?,
            FrontendReq::GET_INFLIGHT_FD => Message::GetInflightFd(self.inflight()?),
            FrontendReq::SET_INFLIGHT_FD => Message::SetInflightFd(self.inflight()?, self.file()?),
            other => return Err(Malformed::Unknown(other.into())),
        })
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed::Value { request: self.request, what }
    }

    fn length(&self, expected: &'static str) -> Malformed {
        Malformed::Length { request: self.request, found: self.whole, expected }
    }

    /// The next bytes of a payload that has `expected`.
    fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length(expected))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u32(&mut self, expected: &'static str) -> Result<u32, Malformed> {
        self.take(expected).map(u32::from_ne_bytes)
    }

    fn u64(&mut self, expected: &'static str) -> Result<u64, Malformed> {
        self.take(expected).map(u64::from_ne_bytes)
    }

    fn end(&self, expected: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length(expected)) }
    }

    fn empty(&self, message: Message) -> Result<Message, Malformed> {
        self.end("none").map(|()| message)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let number = self.u64("8")?;
        self.end("8").map(|()| number)
    }

    /// The index of a queue and a number.
    fn state<T>(&mut self, make: impl FnOnce(u32, u32) -> T) -> Result<T, Malformed> {
        let (index, number) = (self.u32("8")?, self.u32("8")?);
        self.end("8").map(|()| make(index, number))
    }

    fn addresses(&mut self) -> Result<Message, Malformed> {
        const LEN: &str = "40";
        let (index, flags) = (self.u32(LEN)?, self.u32(LEN)?);
        let [descriptors, used, available, _log] = [self.u64(LEN)?, self.u64(LEN)?, self.u64(LEN)?, self.u64(LEN)?];
        self.end(LEN)?;
        // The one flag is about the log of written memory, which is not kept.
        if flags & !1 != 0 {
            return Err(self.wrong("flags that are not known"));
        }
        Ok(Message::SetVringAddr { index, descriptors, used, available })
    }

    /// The descriptor of a queue, or the word that there is none.
    fn event(&mut self, make: impl FnOnce(u32, Option<File>) -> Message) -> Result<Message, Malformed> {
        let number = self.number()?;
        let file = if number & NO_FILE == 0 { Some(self.file()?) } else { None };
        Ok(make((number & 0xff) as u32, file))
    }

    fn config(&mut self) -> Result<Message, Malformed> {
        const LEN: &str = "12 and those of the configuration space";
        let [offset, size, flags] = [self.u32(LEN)?, self.u32(LEN)?, self.u32(LEN)?];
        if u32::try_from(self.rest.len()).ok() != Some(size) {
            return Err(self.length(LEN));
        }
        if size == 0 || offset.checked_add(size).is_none_or(|end| end > MAX_CONFIG) {
            return Err(self.wrong("a range that no configuration space has"));
        }
        if flags & !3 != 0 {
            return Err(self.wrong("flags that are not known"));
        }
        Ok(match self.request {
            FrontendReq::SET_CONFIG => Message::SetConfig { offset, data: self.rest.to_vec() },
            _ => Message::GetConfig { offset, size, flags },
        })
    }

    fn region(&mut self, expected: &'static str) -> Result<VhostUserMemoryRegion, Malformed> {
        let [guest, size, user, offset] =
            [self.u64(expected)?, self.u64(expected)?, self.u64(expected)?, self.u64(expected)?];
        let ends = [guest, user, offset].map(|start| start.checked_add(size));
        if size == 0 || ends.contains(&None) {
            return Err(self.wrong("a memory region without bytes, or past the end of addresses"));
        }
        Ok(VhostUserMemoryRegion::new(guest, size, user, offset))
    }

    fn single_region(&mut self) -> Result<VhostUserMemoryRegion, Malformed> {
        let _padding = self.u64("40")?;
        let region = self.region("40")?;
        self.end("40").map(|()| region)
    }

    fn mem_table(&mut self) -> Result<Message, Malformed> {
        const LEN: &str = "8 and 32 for each region";
        let (count, _padding) = (self.u32(LEN)? as usize, self.u32(LEN)?);
        if count == 0 {
            return Err(self.wrong("no memory regions"));
        }
        if count != self.files.len() {
            return Err(Malformed::Files { request: self.request, found: self.files.len(), expected: count });
        }
        let files = std::mem::take(&mut self.files);
        let regions = files.into_iter().map(|file| Ok((self.region(LEN)?, file))).collect::<Result<_, _>>()?;
        self.end(LEN).map(|()| Message::SetMemTable(regions))
    }

    fn inflight(&mut self) -> Result<VhostUserInflight, Malformed> {
        // 20 by the specification, 24 as a structure of C.
        const LEN: &str = "20 or 24";
        let (size, offset) = (self.u64(LEN)?, self.u64(LEN)?);
        let shape = [u16::from_ne_bytes(self.take(LEN)?), u16::from_ne_bytes(self.take(LEN)?)];
        if !matches!(self.rest.len(), 0 | 4) {
            return Err(self.length(LEN));
        }
        if shape.contains(&0) {
            return Err(self.wrong("no queues, or queues of no entries"));
        }
        Ok(VhostUserInflight::new(size, offset, shape[0], shape[1]))
    }

    fn file(&mut self) -> Result<File, Malformed> {
        match (self.files.pop(), self.files.len()) {
            (Some(file), 0) => Ok(file),
            (last, others) => {
                let found = others + usize::from(last.is_some());
                Err(Malformed::Files { request: self.request, found, expected: 1 })
            }
        }
    }

    fn no_more_files(&self) -> Result<(), Malformed> {
        match self.files.len() {
            0 => Ok(()),
            found => Err(Malformed::Files { request: self.request, found, expected: 0 }),
        }
    }
}
