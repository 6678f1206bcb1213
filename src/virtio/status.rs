//! How a request ends on the wire: every reason has its status byte and its place in the log.
//!
//! The matches are exhaustive on purpose: a new reason does not compile before both were decided. Status codes:
//! virtio 1.3, 5.2.6.

use log::Level;
use virtio_bindings::bindings::virtio_blk as wire;

use crate::store::{Failure, Refusal};
use crate::units::Bytes;
use crate::zone;

/// The status byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = wire::VIRTIO_BLK_S_OK as u8,
    /// An input/output error, or a request that makes no sense.
    IoErr = wire::VIRTIO_BLK_S_IOERR as u8,
    /// Not a request of this device.
    Unsupported = wire::VIRTIO_BLK_S_UNSUPP as u8,
    /// A zone rule was broken that has no code of its own.
    ZoneInvalidCommand = wire::VIRTIO_BLK_S_ZONE_INVALID_CMD as u8,
    /// A write off the write pointer or off the granularity.
    ZoneUnalignedWrite = wire::VIRTIO_BLK_S_ZONE_UNALIGNED_WP as u8,
    /// Too many open zones.
    ZoneOpenResource = wire::VIRTIO_BLK_S_ZONE_OPEN_RESOURCE as u8,
    /// Too many active zones.
    ZoneActiveResource = wire::VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE as u8,
}

impl Status {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::IoErr,
        Self::Unsupported,
        Self::ZoneInvalidCommand,
        Self::ZoneUnalignedWrite,
        Self::ZoneOpenResource,
        Self::ZoneActiveResource,
    ];

    /// Its name in the specification, without the prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::IoErr => "IOERR",
            Self::Unsupported => "UNSUPP",
            Self::ZoneInvalidCommand => "ZONE_INVALID_CMD",
            Self::ZoneUnalignedWrite => "ZONE_UNALIGNED_WP",
            Self::ZoneOpenResource => "ZONE_OPEN_RESOURCE",
            Self::ZoneActiveResource => "ZONE_ACTIVE_RESOURCE",
        }
    }

    /// The status that a byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == byte)
    }
}

/// A chain of descriptors that is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The descriptors lead outside their table, into a loop or into a bad indirect table.
    #[error("the descriptor chain has no end")]
    NoEnd,
    /// More descriptors than any request needs.
    #[error("more than {0} descriptors")]
    TooMany(usize),
    /// More data than one request may carry.
    #[error("more than {0} bytes of data")]
    TooLong(Bytes),
    /// A device-readable descriptor behind a device-writable one, or data in the wrong direction.
    #[error("device-readable and device-writable descriptors are mixed up")]
    Direction,
    /// No device-writable byte.
    #[error("no room for the status byte")]
    NoStatus,
    /// Less than 16 device-readable bytes.
    #[error("the header is too short")]
    ShortHeader,
    /// A buffer lies outside the guest's memory.
    #[error("a buffer lies outside the guest's memory")]
    OutsideMemory,
    /// An append without the 8 bytes for its sector.
    #[error("no room for append_sector")]
    NoAppendSector,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request at all.
    #[error("malformed request: {0}")]
    Malformed(#[from] Malformed),
    /// A type this device does not know.
    #[error("request of unknown type {0}")]
    Unknown(u32),
    /// A zone request of a driver that did not accept VIRTIO_BLK_F_ZONED.
    #[error("zone request without VIRTIO_BLK_F_ZONED")]
    ZoneRequestNotNegotiated,
    /// Any other request of such a driver: a host-managed disk must not work for it.
    #[error("request without VIRTIO_BLK_F_ZONED")]
    NotNegotiated,
    /// The buffer of a report holds no header.
    #[error("a report buffer of {0} bytes")]
    ReportTooShort(Bytes),
    /// A report from beyond the end of the device.
    #[error("a report from beyond the end of the device")]
    ReportBeyondEnd,
    /// Longer than the append limit in the configuration space.
    #[error("an append of {0} bytes")]
    AppendTooLong(Bytes),
    /// What the store refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl RequestError {
    /// What the driver is told.
    pub fn status(self) -> Status {
        match self {
            Self::Malformed(_) | Self::NotNegotiated => Status::IoErr,
            Self::Unknown(_) | Self::ZoneRequestNotNegotiated => Status::Unsupported,
            Self::ReportTooShort(_) | Self::ReportBeyondEnd | Self::AppendTooLong(_) => Status::ZoneInvalidCommand,
            Self::Refused(refusal) => match refusal {
                Refusal::BadRange | Refusal::ReadOnly | Refusal::Io | Refusal::NoPower => Status::IoErr,
                Refusal::Injected { failure, .. } => match failure {
                    Failure::Io => Status::IoErr,
                    Failure::Unsupported => Status::Unsupported,
                    Failure::InvalidCommand => Status::ZoneInvalidCommand,
                    Failure::UnalignedWrite => Status::ZoneUnalignedWrite,
                    Failure::OpenResource => Status::ZoneOpenResource,
                    Failure::ActiveResource => Status::ZoneActiveResource,
                },
                Refusal::Zone(zone) => match zone {
                    zone::Refusal::InvalidCommand => Status::ZoneInvalidCommand,
                    zone::Refusal::UnalignedWrite => Status::ZoneUnalignedWrite,
                    zone::Refusal::OpenResource => Status::ZoneOpenResource,
                    zone::Refusal::ActiveResource => Status::ZoneActiveResource,
                },
            },
        }
    }

    /// How loudly the host is told: what only shows a guest at work is for debugging.
    pub fn log_level(self) -> Level {
        match self {
            Self::Malformed(_) => Level::Warn,
            Self::Unknown(_) | Self::ZoneRequestNotNegotiated | Self::NotNegotiated => Level::Debug,
            Self::ReportTooShort(_) | Self::ReportBeyondEnd | Self::AppendTooLong(_) => Level::Debug,
            Self::Refused(refusal) => match refusal {
                Refusal::Io => Level::Error,
                Refusal::Injected { .. } => Level::Info,
                Refusal::BadRange | Refusal::ReadOnly | Refusal::NoPower | Refusal::Zone(_) => Level::Debug,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_status_of_the_specification() {
        let zone = |refusal| RequestError::Refused(Refusal::Zone(refusal));
        let table = [
            (RequestError::Malformed(Malformed::ShortHeader), 1),
            (RequestError::Unknown(99), 2),
            (RequestError::ZoneRequestNotNegotiated, 2),
            (RequestError::NotNegotiated, 1),
            (RequestError::ReportTooShort(Bytes(63)), 3),
            (RequestError::ReportBeyondEnd, 3),
            (RequestError::AppendTooLong(Bytes(1 << 20)), 3),
            (RequestError::Refused(Refusal::BadRange), 1),
            (RequestError::Refused(Refusal::ReadOnly), 1),
            (RequestError::Refused(Refusal::Io), 1),
            (RequestError::Refused(Refusal::NoPower), 1),
            (zone(zone::Refusal::InvalidCommand), 3),
            (zone(zone::Refusal::UnalignedWrite), 4),
            (zone(zone::Refusal::OpenResource), 5),
            (zone(zone::Refusal::ActiveResource), 6),
        ];
        for (error, byte) in table {
            assert_eq!(error.status() as u8, byte, "{error}");
        }
        assert_eq!(Status::Ok as u8, 0);
    }

    #[test]
    fn only_errors_of_the_host_are_logged_as_errors() {
        assert_eq!(RequestError::Refused(Refusal::Io).log_level(), Level::Error);
        assert_eq!(RequestError::Malformed(Malformed::NoEnd).log_level(), Level::Warn);
        assert_eq!(RequestError::Refused(Refusal::Zone(zone::Refusal::UnalignedWrite)).log_level(), Level::Debug);
    }
}
