//! `top`: a running daemon watched, on a terminal and elsewhere. The terminal is one that script(1) makes.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::common::cli::{Geo, Image, SMALL, fails, ok, program};
use crate::common::disk::{Disk, Setup};
use crate::common::eventually;
use crate::common::model::assert_ok;
use crate::common::request::Status;

const GEO: Geo = Geo { open: 3, active: 5, ..SMALL };

/// A disk with a control socket, to which something was written and refused.
fn used() -> (Disk, String) {
    let image = Image::create(&GEO);
    let control = image.beside_name("control");
    let mut disk = Setup::new(GEO).args(&["--control-path", &control]).start_on(image);
    disk.fill(2, 400 << 10);
    disk.fill(3, GEO.cap);
    assert_eq!(disk.write(GEO.start(2), &[1; 4096]), Status::UnalignedWp);
    assert_ok(disk.open(4));
    (disk, control)
}

/// A shell on a terminal of 100 columns and 30 rows.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs `top` with the terminal's settings printed before and after it, and its exit status.
    fn top(control: &str) -> Self {
        let program = program();
        let commands =
            format!("stty cols 100 rows 30; stty -g; sh -c 'echo pid $$; exec {program} top {control} --interval 0.1'");
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{commands}; echo status $?; stty -g"), "/dev/null"]);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("COLORTERM");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1)");
        let (shown, mut stdout) = (Arc::new(Mutex::new(String::new())), child.stdout.take().expect("piped"));
        let seen = Arc::clone(&shown);
        let read = move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        };
        Self { child, shown, reader: Some(std::thread::spawn(read)) }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    fn await_text(&self, text: &str) {
        eventually(&format!("\"{text}\" on the terminal"), || self.shown().contains(text).then_some(()));
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("a key");
    }

    /// The end of `top`: its exit status and what it left on the terminal, which must be as it was before.
    #[track_caller]
    fn end(mut self) -> (u32, String) {
        eventually("the end of top", || self.child.try_wait().expect("wait"));
        self.reader.take().into_iter().for_each(|reader| reader.join().expect("reader"));
        let shown = self.shown();
        let (entered, left) = ("\x1b[?1049h", "\x1b[?1049l");
        let settings = |text: &str| text.lines().find(|line| line.matches(':').count() > 20).map(str::to_owned);
        let (before, rest) = shown.split_once(entered).unwrap_or_else(|| panic!("no other screen: {shown:?}"));
        let (drawn, after) = rest.rsplit_once(left).unwrap_or_else(|| panic!("the other screen stays: {shown:?}"));
        assert!(
            drawn.contains("\x1b[?25l") && (drawn.contains("\x1b[?25h") || after.contains("\x1b[?25h")),
            "{shown:?}"
        );
        assert!(settings(before).is_some(), "{before:?}");
        assert_eq!(settings(before), settings(after), "the terminal's settings");
        let status = after.lines().find_map(|line| line.strip_prefix("status ")?.trim().parse().ok());
        (status.unwrap_or_else(|| panic!("no exit status: {after:?}")), after.to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where it has ended that is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_ends_it_and_the_terminal_is_as_before() {
    let (_disk, control) = used();
    for key in ["q", "\x1b", "\x03"] {
        let mut terminal = Terminal::top(&control);
        terminal.await_text("requests");
        terminal.await_text("implicitly open");
        terminal.await_text("rates of the last");
        terminal.press(key);
        assert_eq!(terminal.end().0, 0, "{key:?}");
    }
}

#[test]
fn keys_pause_it_and_change_the_interval() {
    let (_disk, control) = used();
    let mut terminal = Terminal::top(&control);
    terminal.await_text("interval 0.1 s");
    terminal.press("+");
    terminal.await_text("interval 0.2 s");
    terminal.press("p");
    terminal.await_text("paused");
    terminal.press("p-q");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_before() {
    let (_disk, control) = used();
    let terminal = Terminal::top(&control);
    terminal.await_text("requests");
    let shown = terminal.shown();
    let pid = shown.lines().find_map(|line| line.strip_prefix("pid ")?.trim().parse::<i32>().ok()).expect("a number");
    // SAFETY: a plain system call; the process waits for a key, so the number is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn when_the_daemon_goes_away_it_waits_for_the_next_one_and_goes_on() {
    let (mut disk, control) = used();
    let mut terminal = Terminal::top(&control);
    terminal.await_text("requests");
    disk.daemon.kill9();
    terminal.await_text("no daemon: waiting for one");
    // What was known stays.
    let before = terminal.shown().len();
    terminal.press("+");
    terminal.await_text("interval 0.2 s");
    assert!(terminal.shown()[before..].contains("ZONE_UNALIGNED_WP"), "{:?}", &terminal.shown()[before..]);
    disk.start_again();
    let before = terminal.shown().len();
    eventually("the next daemon's numbers", || terminal.shown()[before..].contains("rates of the last").then_some(()));
    terminal.press("q");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_key_explains_what_is_shown() {
    let (_disk, control) = used();
    let mut terminal = Terminal::top(&control);
    terminal.await_text(" help");
    terminal.press("?");
    terminal.await_text("What is shown");
    terminal.await_text("a longer interval");
    terminal.press("?q");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn where_there_is_no_terminal_it_prints_one_interval() {
    let (_disk, control) = used();
    for args in [&["top", &control, "--interval", "0.1"][..], &["top", &control, "--interval", "0.1", "--once"]] {
        let text = ok(args);
        for part in [
            "frontend connected",
            "rates of the last ",
            "\nwrite              -             -        -        -        -         -\n",
            "\nopen     #######################........... 2 of 3\n",
            "\n0  ==f#A...\n",
            "explicitly open 1",
            "\nzone 3 ########################################  768 KiB\nzone 2 #####################...................  400 KiB\n",
            "ZONE_UNALIGNED_WP",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn what_cannot_be_watched_is_one_line() {
    let image = Image::create(&SMALL);
    fails(&["top", &image.beside_name("nobody")], &["nobody", "no daemon"]);
    for interval in ["0", "-1", "3601", "NaN", "soon"] {
        fails(
            &["top", &image.name(), &format!("--interval={interval}")],
            &["--interval", interval, "from 0.1 to 3600"],
        );
    }
}
