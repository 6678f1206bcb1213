//! The check of a state: a command of the user's, run by the shell once for each state, or one that stays and is told each.
//!
//! One that is run has in its environment `ZBD_IMAGE`, the state's image, which may be written, and `ZBD_MARKS`, a file of
//! what had been promised: the marks so far, one a line. Exit status 0 is good. One that stays is given a line for each state, the
//! paths of the image, of the marks and of a file for what it has to say, with tabs between, and answers `good`, or `bad` and why.
//! `ZBD_JOB` is its number among those that run side by side.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long the end of a process is waited for between two looks whether the exploration goes on.
const LOOK: Duration = Duration::from_millis(100);
/// The shortest such wait, while a process is young.
const FIRST_LOOK: Duration = Duration::from_micros(500);
/// How long a check that stays may take to end when it is told to.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a check says of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that was promised is there.
    Good,
    /// It is not, in one line.
    Bad(String),
    /// The exploration ends.
    Stopped,
}

/// A check as the user has said it.
#[derive(Clone, Debug)]
pub struct Command {
    /// What the shell runs.
    pub text: String,
    /// Whether it stays.
    pub stays: bool,
    /// How long it may take for a state.
    pub timeout: Duration,
    /// Set when the exploration ends.
    pub stop: Arc<AtomicBool>,
}

/// The files of a state.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its image.
    pub image: PathBuf,
    /// The marks so far.
    pub marks: PathBuf,
    /// What the check says.
    pub output: PathBuf,
}

/// One that checks.
pub struct Check {
    command: Command,
    job: usize,
    standing: Option<Standing>,
}

/// A check that stays.
struct Standing {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Check {
    /// The one of a job.
    pub fn new(command: Command, job: usize) -> Self {
        Self { command, job, standing: None }
    }

    /// Checks a state. An error is one of the check itself, which could not be started.
    pub fn check(&mut self, files: &Files) -> io::Result<Verdict> {
        if self.command.stays { self.ask(files) } else { self.run_once(files) }
    }

    fn shell(&self) -> std::process::Command {
        let mut shell = std::process::Command::new("/bin/sh");
        // In a group of its own, so that all of it can be ended.
        shell.arg("-c").arg(&self.command.text).env("ZBD_JOB", self.job.to_string()).process_group(0);
        shell
    }

    fn run_once(&self, files: &Files) -> io::Result<Verdict> {
        let output = File::create(&files.output)?;
        let mut shell = self.shell();
        shell.env("ZBD_IMAGE", &files.image).env("ZBD_MARKS", &files.marks);
        shell.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = shell.spawn()?;
        let ended = self.wait(&mut child, self.command.timeout);
        // What it has left behind, too.
        end_group(&child);
        let status = match ended {
            Some(status) => status?,
            None => {
                child.wait()?;
                return Ok(self.too_long());
            }
        };
        Ok(if status.success() { Verdict::Good } else { Verdict::Bad(format!("the check {}", in_words(status))) })
    }

    fn too_long(&self) -> Verdict {
        match self.command.stop.load(Ordering::Relaxed) {
            true => Verdict::Stopped,
            false => Verdict::Bad(format!("the check took longer than {} s", self.command.timeout.as_secs())),
        }
    }

    /// How a process has ended; none where it has not in this time, or the exploration ends.
    fn wait(&self, child: &mut Child, timeout: Duration) -> Option<io::Result<ExitStatus>> {
        let (until, mut look) = (Instant::now() + timeout, FIRST_LOOK);
        loop {
            match child.try_wait() {
                Ok(None) if Instant::now() >= until || self.command.stop.load(Ordering::Relaxed) => return None,
                Ok(None) => std::thread::sleep(look),
                Ok(Some(status)) => return Some(Ok(status)),
                Err(error) => return Some(Err(error)),
            }
            look = (look * 2).min(Duration::from_millis(5));
        }
    }

    fn ask(&mut self, files: &Files) -> io::Result<Verdict> {
        File::create(&files.output)?;
        let mut standing = match self.standing.take() {
            Some(standing) => standing,
            None => self.start()?,
        };
        let paths = [&files.image, &files.marks, &files.output].map(|path| path.display().to_string());
        let told = writeln!(standing.input, "{}", paths.join("\t")).and_then(|()| standing.input.flush());
        let answer = if told.is_ok() { self.answer(&mut standing) } else { Answer::Ended };
        let verdict = match answer {
            Answer::Line(line) => match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
                ("good", _) => Verdict::Good,
                ("bad", why) => Verdict::Bad(if why.is_empty() { "bad".to_owned() } else { why.to_owned() }),
                _ => Verdict::Bad(format!("the check said '{}': expected good, or bad and why", line.trim_end())),
            },
            Answer::Ended => {
                let status = standing.child.wait()?;
                end_group(&standing.child);
                return Ok(Verdict::Bad(format!("the check {}", in_words(status))));
            }
            Answer::Late => {
                end_group(&standing.child);
                standing.child.wait()?;
                return Ok(self.too_long());
            }
        };
        self.standing = Some(standing);
        Ok(verdict)
    }

    fn start(&self) -> io::Result<Standing> {
        let mut child = self.shell().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::other("the check has no streams");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Standing { child, input, output })
    }

    fn answer(&self, standing: &mut Standing) -> Answer {
        let (until, mut line) = (Instant::now() + self.command.timeout, Vec::new());
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(LOOK);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let fd = standing.output.get_ref().as_fd();
            let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout);
            if self.command.stop.load(Ordering::Relaxed) || Instant::now() >= until {
                return Answer::Late;
            }
            if ready != Ok(1) {
                continue;
            }
            let mut byte = [0];
            // Byte by byte out of the buffer: nothing may wait for the end of a line.
            loop {
                match standing.output.read(&mut byte) {
                    Ok(0) | Err(_) => return Answer::Ended,
                    Ok(_) if byte[0] == b'\n' => return Answer::Line(String::from_utf8_lossy(&line).into_owned()),
                    Ok(_) => line.push(byte[0]),
                }
                if standing.output.buffer().is_empty() {
                    break;
                }
            }
        }
    }
}

/// What comes of asking one that stays.
enum Answer {
    Line(String),
    Ended,
    Late,
}

impl Drop for Check {
    fn drop(&mut self) {
        let Some(Standing { mut child, input, mut output }) = self.standing.take() else { return };
        // The end of what it is told is the end.
        drop(input);
        let stopped = Arc::new(AtomicBool::new(false));
        let patient =
            Self { command: Command { stop: stopped, ..self.command.clone() }, job: self.job, standing: None };
        if patient.wait(&mut child, FAREWELL).is_none() {
            log::warn!("the check of job {} did not end: it is killed", self.job);
        }
        end_group(&child);
        // Nothing is left that could write to it.
        let _ = output.fill_buf();
        let _ = child.wait();
    }
}

/// Ends what is left of a process's group.
fn end_group(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // All may have ended.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("died of signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Writes the marks of a state, one a line.
pub fn write_marks(path: &Path, marks: &[String]) -> io::Result<()> {
    let mut text = String::new();
    for mark in marks {
        text.push_str(mark);
        text.push('\n');
    }
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn checked(text: &str, stays: bool, times: usize) -> Vec<(Verdict, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = Files { image: path("image"), marks: path("marks"), output: path("output") };
        write_marks(&files.marks, &["one".to_owned(), "two".to_owned()]).unwrap();
        let timeout = Duration::from_secs(if text.contains("sleep") { 1 } else { 60 });
        let command = Command { text: text.to_owned(), stays, timeout, stop: Arc::default() };
        let mut check = Check::new(command, 3);
        let mut once = || (check.check(&files).unwrap(), std::fs::read_to_string(&files.output).unwrap());
        (0..times).map(|_| once()).collect()
    }

    fn bad(why: &str) -> Verdict {
        Verdict::Bad(why.to_owned())
    }

    #[test]
    fn a_command_is_run_for_each_state_and_its_status_is_what_it_says() {
        let cases = [
            ("basename $ZBD_IMAGE; cat $ZBD_MARKS; echo $ZBD_JOB >&2", Verdict::Good, "image\none\ntwo\n3\n"),
            ("exit 3", bad("the check ended with status 3"), ""),
            ("kill -9 $$", bad("the check died of signal 9"), ""),
            ("echo here; sleep 100", bad("the check took longer than 1 s"), "here\n"),
        ];
        for (text, verdict, output) in cases {
            assert_eq!(checked(text, false, 1), [(verdict, output.to_owned())], "{text}");
        }
    }

    #[test]
    fn one_that_stays_is_told_each_state_and_started_again_where_it_ends() {
        let loops = |body: &str| format!("IFS='\t'; while read image marks output; do n=$((n + 1)); {body}; done");
        let cases = [
            (loops("echo $n >$output; echo good"), vec![(Verdict::Good, "1\n"), (Verdict::Good, "2\n")]),
            (loops("echo bad it is"), vec![(bad("it is"), ""), (bad("it is"), "")]),
            (loops("echo what"), vec![(bad("the check said 'what': expected good, or bad and why"), ""); 2]),
            (loops("exit 4"), vec![(bad("the check ended with status 4"), ""); 2]),
            (loops("sleep 100"), vec![(bad("the check took longer than 1 s"), "")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.into_iter().map(|(verdict, text)| (verdict, text.to_owned())).collect();
            assert_eq!(checked(&text, true, expected.len()), expected, "{text}");
        }
    }
}
