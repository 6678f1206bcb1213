//! Frontends, one after another: accepting them and carrying their messages to the handler.
//!
//! Whatever a frontend does, the daemon goes on with the next one. A refused message is answered (where a reply was
//! asked for) and the connection goes on; where the frontend cannot know what became of its message, or where the
//! stream is not what the protocol says, the connection is closed. The stop descriptor is watched at every wait.
//!
//! The crate reads a message with blocking calls that give up on one that comes in pieces. So it is called only when
//! a whole message is there; a frontend that sends half of one is cut off after a while.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vhost::vhost_user::{BackendReqHandler, Error as WireError};

use super::device::{Device, ServeOptions};
use super::handler::{Handler, ProtocolError};
use super::limiter::LogLimiter;
use super::socket::{Listening, Ready, message_complete, wait_readable, wait_supervised};
use super::{CLOSING, ServeError, Supervised};
use crate::storage::Storage;
use crate::virtio::config::ConfigSpace;

/// How long a frontend may take to send the rest of a message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked for meanwhile.
const MESSAGE_POLL: Duration = Duration::from_millis(5);

/// What is said of the daemon while there is no frontend.
pub(super) fn waiting(listening: &Listening) -> String {
    format!("waiting for a frontend on {listening}")
}

/// Serves frontends until it is to stop.
pub(super) fn accept_loop<S: Storage + 'static>(
    listening: &Listening,
    device: &Arc<Device<S>>,
    config: &ConfigSpace,
    options: &ServeOptions,
    by: Supervised<'_>,
) -> Result<(), ServeError> {
    let handler = || Handler::new(Arc::clone(device), config.clone(), options);
    loop {
        match listening.accept(by)? {
            None => return Ok(()),
            Some(stream) => {
                log::debug!("a frontend is connected");
                by.manager.status("serving a frontend");
                device.watch.frontend_is(true);
                let stopped = converse(stream, handler(), by)?;
                device.watch.frontend_is(false);
                log::debug!("the frontend is gone");
                if stopped || listening.is_single() {
                    return Ok(());
                }
                by.manager.status(&waiting(listening));
            }
        }
    }
}

/// Why a connection ends.
enum End {
    Stopped,
    HungUp,
    Broken(String),
}

/// Serves one frontend. Returns whether that ended because it is time to stop.
pub(super) fn converse<S: Storage + 'static>(
    stream: UnixStream,
    handler: Handler<S>,
    by: Supervised<'_>,
) -> Result<bool, ServeError> {
    let watched = match stream.try_clone() {
        Ok(watched) => watched,
        Err(error) => {
            log::warn!("a frontend is turned away: {error}");
            return Ok(false);
        }
    };
    let handler = Arc::new(Mutex::new(handler));
    let mut endpoint = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    let mut limiter = LogLimiter::new();
    let end = loop {
        if let Some(end) = next_message(&watched, by)? {
            break end;
        }
        let result = endpoint.handle_request();
        let refusal = lock(&handler).take_refusal();
        if let Some(end) = judge(result, refusal, &mut limiter) {
            break end;
        }
    };
    if let End::Broken(reason) = &end
        && limiter.allow()
    {
        log::warn!("the connection to the frontend is closed: {reason}");
    }
    let stopped = matches!(end, End::Stopped);
    if stopped {
        // Requests in flight may take their time; nobody is to wait for a sign of life meanwhile.
        by.manager.stopping(CLOSING);
    }
    lock(&handler).stop_all();
    Ok(stopped)
}

fn lock<T>(handler: &Mutex<T>) -> MutexGuard<'_, T> {
    handler.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a whole message is there; gives the reason where none will come.
fn next_message(stream: &UnixStream, by: Supervised<'_>) -> Result<Option<End>, ServeError> {
    let failed = ServeError::system("wait for a message");
    match wait_supervised(Some(stream.as_raw_fd()), by).map_err(failed)? {
        Ready::Stop => return Ok(Some(End::Stopped)),
        Ready::Descriptor | Ready::Timeout => {}
    }
    let deadline = Instant::now() + MESSAGE_TIMEOUT;
    loop {
        match message_complete(stream) {
            Err(error) => return Ok(Some(End::Broken(error.to_string()))),
            Ok(None) => return Ok(Some(End::HungUp)),
            Ok(Some(true)) => return Ok(None),
            Ok(Some(false)) if Instant::now() > deadline => {
                return Ok(Some(End::Broken("the rest of a message did not come".into())));
            }
            Ok(Some(false)) => {
                by.manager.alive();
                let failed = ServeError::system("wait for a message");
                if let Ready::Stop = wait_readable(None, by.stop, Some(MESSAGE_POLL)).map_err(failed)? {
                    return Ok(Some(End::Stopped));
                }
            }
        }
    }
}

/// What follows from the result of a message.
fn judge(result: Result<(), WireError>, refusal: Option<ProtocolError>, limiter: &mut LogLimiter) -> Option<End> {
    if let Some(reason) = &refusal
        && limiter.allow()
    {
        log::warn!("a message of the frontend is refused: {reason}");
    }
    match (result, refusal) {
        (Ok(()), _) => None,
        // The message was read to its end and refused by the handler, which the frontend can be told.
        (Err(WireError::InvalidParam), Some(reason)) if !ends_connection(&reason) => None,
        (Err(WireError::Disconnected), _) => Some(End::HungUp),
        (Err(WireError::SocketBroken(error)), _) => {
            log::debug!("the frontend has hung up in the middle of a message: {error}");
            Some(End::HungUp)
        }
        (Err(_), Some(reason)) => Some(End::Broken(reason.to_string())),
        (Err(error), None) => Some(End::Broken(error.to_string())),
    }
}

/// Whether the connection cannot go on after this: the message is always answered with a payload, which the crate
/// leaves out, and the frontend would wait for ever; or its requests in flight would be done a second time.
fn ends_connection(reason: &ProtocolError) -> bool {
    matches!(reason, ProtocolError::Unsupported(_) | ProtocolError::NoBase { .. } | ProtocolError::Inflight(_))
}
