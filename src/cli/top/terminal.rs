//! The terminal while it is drawn on: its other screen, in raw mode, and as it was when this is dropped or the program
//! panics.

use std::io::{self, Stdout, Write};
use std::sync::Arc;

use termion::raw::{IntoRawMode, RawTerminal};
use termion::{clear, cursor, screen as screens};

use crate::cli::screen::{Colours, Line};

/// The terminal's other screen.
pub(super) struct Screen {
    terminal: Arc<RawTerminal<Stdout>>,
}

impl Screen {
    /// Changes to the other screen.
    pub(super) fn enter() -> io::Result<Self> {
        let screen = Self { terminal: Arc::new(io::stdout().into_raw_mode()?) };
        let (terminal, before) = (Arc::clone(&screen.terminal), std::panic::take_hook());
        // A release build ends at once with a panic, and drops nothing.
        std::panic::set_hook(Box::new(move |panic| {
            leave(&terminal);
            before(panic);
        }));
        put(&format!("{}{}{}", screens::ToAlternateScreen, cursor::Hide, clear::All))?;
        Ok(screen)
    }

    /// Shows these lines and nothing else, with one write.
    pub(super) fn show(&self, lines: &[Line], columns: usize, colours: Colours) -> io::Result<()> {
        let mut frame = cursor::Goto(1, 1).to_string();
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                frame.push_str("\r\n");
            }
            line.render(colours, &mut frame);
            // Behind a full line there is nothing to clear, and some terminals would clear its last character.
            if line.width() < columns {
                frame += clear::UntilNewline.as_ref();
            }
        }
        frame += clear::AfterCursor.as_ref();
        put(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(&self.terminal);
    }
}

fn leave(terminal: &RawTerminal<Stdout>) {
    // Where the terminal is gone there is nothing to restore.
    let _ = put(&format!("{}{}", cursor::Show, screens::ToMainScreen));
    let _ = terminal.suspend_raw_mode();
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
