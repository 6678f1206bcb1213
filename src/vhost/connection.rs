//! Frontends, one after another, and the messages of each.
//!
//! Whatever a frontend does, the daemon goes on with the next one. A refused message is answered (where a reply was
//! asked for) and the connection goes on; where the frontend cannot know what became of its message, or where the
//! stream is not what the protocol says, the connection is closed.
//!
//! Nothing that a frontend has in its hands is waited for without a bound: a message that has begun ends within a time,
//! and none is looked at before there is room for its answer.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handler::{Handler, ProtocolError, Reply};
use super::host::Host;
use super::message::{self, Request};
use super::options::ServeOptions;
use super::reception::{Caller, Met, Patience, Reception};
use super::socket::Listening;
use super::wire::{Frame, Received, Wire};
use super::{CLOSING, ServeError, Supervised};
use crate::virtio::config::ConfigSpace;

/// How long a frontend may take to send the rest of a message, or to take the answers to the ones before.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a frontend may say nothing at first while another one waits.
const SILENCE: Duration = Duration::from_secs(3);

/// What is said of the daemon while there is no frontend.
pub(super) fn waiting(listening: &Listening) -> String {
    format!("waiting for a frontend on {listening}")
}

/// Serves frontends until it is to stop.
pub(super) fn accept_loop(
    listening: &Listening,
    host: &Arc<Host>,
    config: &ConfigSpace,
    options: &ServeOptions,
    by: Supervised<'_>,
) -> Result<(), ServeError> {
    let handler = || Handler::new(Arc::clone(host), config.clone(), options);
    let mut reception = Reception::new(Some(listening), &host.device.lines, by);
    while let Some(caller) = reception.next()? {
        by.manager.status("serving a frontend");
        host.device.counts.frontend_is(true);
        let stopped = converse(caller, handler(), &mut reception)?;
        host.device.counts.frontend_is(false);
        if stopped || listening.is_single() {
            break;
        }
        by.manager.status(&waiting(listening));
    }
    Ok(())
}

/// Why a connection ends.
enum End {
    Stopped,
    HungUp,
    Broken(String),
}

/// Serves one frontend. Returns whether that ended because it is time to stop.
pub(super) fn converse(
    caller: Caller,
    mut handler: Handler,
    reception: &mut Reception<'_>,
) -> Result<bool, ServeError> {
    let name = caller.to_string();
    let silent_until = caller.since + SILENCE;
    let wire = Wire::new(caller.stream).map_err(ServeError::system("set up a socket"))?;
    let mut conversation = Conversation { wire, silent_until: Some(silent_until) };
    let end = loop {
        let frame = match conversation.next_message(reception)? {
            Ok(frame) => frame,
            Err(end) => break end,
        };
        if let Err(end) = conversation.answer(frame, &mut handler) {
            break end;
        }
    };
    if let End::Broken(reason) = &end
        && handler.lines().refusals.allow()
    {
        log::warn!("the connection to the frontend is closed ({name}): {reason}");
    }
    let stopped = matches!(end, End::Stopped);
    if stopped {
        // Requests in flight may take their time; nobody is to wait for a sign of life meanwhile.
        reception.by.manager.stopping(CLOSING);
    }
    handler.stop_all();
    reception.tell(format_args!("the frontend is gone: {name}"));
    Ok(stopped)
}

/// What a connection has come to.
struct Conversation {
    wire: Wire,
    /// Until when it may say nothing while another frontend waits; none when it has said something.
    silent_until: Option<Instant>,
}

impl Conversation {
    /// Waits until a whole message and room for its answer are there; gives the reason where that will not be.
    fn next_message(&mut self, reception: &mut Reception<'_>) -> Result<Result<Frame, End>, ServeError> {
        let mut until = None;
        let frame = loop {
            match self.wire.receive() {
                Err(error) => return Ok(Err(End::Broken(error.to_string()))),
                Ok(Received::HungUp) => return Ok(Err(End::HungUp)),
                Ok(Received::Whole(frame)) => break frame,
                Ok(Received::Nothing) => {}
                Ok(Received::Part) => until = until.or_else(|| Some(Instant::now() + MESSAGE_TIMEOUT)),
            }
            let patience = Patience { until, if_others_wait: self.silent_until };
            match reception.attend(self.wire.as_fd(), libc::POLLIN, patience)? {
                Met::Ready => {}
                Met::Stop => return Ok(Err(End::Stopped)),
                Met::Late => return Ok(Err(End::Broken(self.too_late(reception)))),
            }
        };
        self.silent_until = None;
        let patience = Patience { until: Some(Instant::now() + MESSAGE_TIMEOUT), if_others_wait: None };
        Ok(match reception.attend(self.wire.as_fd(), libc::POLLOUT, patience)? {
            Met::Ready => Ok(frame),
            Met::Stop => Err(End::Stopped),
            Met::Late => Err(End::Broken("it does not read the answers to its messages".into())),
        })
    }

    fn too_late(&self, reception: &Reception<'_>) -> String {
        match (self.silent_until, reception.waiting()) {
            (Some(_), Some(other)) => {
                format!("it has said nothing for {} s, and another frontend waits: {other}", SILENCE.as_secs())
            }
            _ => "the rest of a message did not come".into(),
        }
    }

    /// Does what a message asks for, and answers it.
    fn answer(&mut self, frame: Frame, handler: &mut Handler) -> Result<(), End> {
        let request = message::parse(frame, handler.protocol()).map_err(|error| End::Broken(error.to_string()))?;
        let Request { code, needs_reply, message } = request;
        let result = handler.handle(message);
        if let Err(reason) = &result {
            if ends_connection(reason) {
                return Err(End::Broken(reason.to_string()));
            }
            if handler.lines().refusals.allow() {
                log::warn!("a message of the frontend is refused: {reason}");
            }
        }
        let acknowledged = needs_reply && handler.acknowledges();
        let mut send = |payload: &[u8], file: Option<BorrowedFd<'_>>| {
            // There was room for it, so that whoever is gone by now has gone.
            self.wire.send(&message::reply(code, payload), file).map_err(|_| End::HungUp)
        };
        match result {
            Ok(Reply::Done) if acknowledged => send(&0u64.to_ne_bytes(), None),
            Err(_) if acknowledged => send(&1u64.to_ne_bytes(), None),
            Ok(Reply::Done) | Err(_) => Ok(()),
            Ok(Reply::Payload(payload)) => send(&payload, None),
            Ok(Reply::WithFile(payload, file)) => send(&payload, Some(file.as_fd())),
        }
    }
}

/// Whether the connection cannot go on after this: the message is always answered with a payload, and there is none for
/// an error; or the frontend's requests in flight would be done a second time.
fn ends_connection(reason: &ProtocolError) -> bool {
    matches!(reason, ProtocolError::NoBase { .. } | ProtocolError::Inflight(_))
}
