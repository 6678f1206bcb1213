//! States made and checked side by side: one thread goes through the recording, the others take the states that it finds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::check::{self, Check, Command, Files, Verdict};
use super::choices::Level;
use super::maker::{MakeError, Maker, Recording};
use super::survey::{Quiet, State, Survey};

/// What an exploration is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is explored.
    pub recording: Recording,
    /// How far.
    pub level: Level,
    /// What checks a state.
    pub command: Command,
    /// How many states are checked side by side.
    pub jobs: usize,
    /// How many states are checked at most.
    pub most_states: Option<u64>,
    /// How long new states are begun with.
    pub most_time: Option<Duration>,
    /// A folder for what is made on the way.
    pub work: PathBuf,
    /// Where the images of states go that have failed: a folder, and how many.
    pub keep: Option<(PathBuf, u64)>,
}

/// What happens on the way.
#[derive(Debug)]
pub enum Event {
    /// So many bytes of the recording were gone through.
    Read(u64),
    /// A state was checked.
    Checked(Box<State>, Verdict, Option<Kept>),
}

/// What is kept of a state that has failed.
#[derive(Clone, Debug)]
pub struct Kept {
    /// A folder of its own.
    pub folder: PathBuf,
}

/// Why an exploration ends early.
#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    /// A state cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The check cannot be run.
    #[error("the check cannot be run: {0}")]
    Check(io::Error),
    /// A file cannot be written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// States, one under several promises counted once for each.
    pub states: u64,
    /// States that differ.
    pub distinct: u64,
    /// Stretches of the recording.
    pub stretches: u64,
    /// Whether the recording was gone through whole.
    pub whole: bool,
}

/// Explores. What happens goes to `tell`, in no order.
pub fn explore(plan: &Plan, tell: &mut dyn FnMut(Event)) -> Result<Found, ExploreError> {
    let (events, happened) = channel();
    let (states, to_check) = sync_channel(plan.jobs * 2);
    let shared = Shared { plan, failed: AtomicU64::new(0), enough: AtomicBool::new(false), began: Instant::now() };
    let to_check = Mutex::new(to_check);
    thread::scope(|scope| {
        let survey = scope.spawn({
            let (events, shared) = (events.clone(), &shared);
            move || shared.survey(&states, &events)
        });
        let jobs: Vec<_> = (0..plan.jobs)
            .map(|job| {
                let (events, shared, to_check) = (events.clone(), &shared, &to_check);
                scope.spawn(move || {
                    let done = shared.job(job, to_check, &events);
                    if done.is_err() {
                        shared.enough.store(true, Ordering::Relaxed);
                        // Whoever finds states must not wait for this one.
                        while lock(to_check).recv().is_ok() {}
                    }
                    done
                })
            })
            .collect();
        drop(events);
        happened.iter().for_each(&mut *tell);
        let done: Vec<_> = jobs.into_iter().map(joined).collect();
        let found = joined(survey);
        done.into_iter().collect::<Result<Vec<()>, _>>()?;
        found
    })
}

/// What a thread has come to; a panic goes on here.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared<'a> {
    plan: &'a Plan,
    failed: AtomicU64,
    enough: AtomicBool,
    began: Instant,
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        let late = self.plan.most_time.is_some_and(|most| self.began.elapsed() >= most);
        late || self.enough.load(Ordering::Relaxed) || self.plan.command.stop.load(Ordering::Relaxed)
    }

    fn survey(&self, states: &SyncSender<State>, events: &Sender<Event>) -> Result<Found, ExploreError> {
        let recording = &self.plan.recording;
        let path = self.plan.work.join("survey.qcow2");
        recording.fork(&path)?;
        let mut survey = Survey::new(recording.machine(&path)?, self.plan.level, recording.undone.clone());
        let (mut last, mut sent, mut whole) = (0, 0, true);
        let mut offer = |state| {
            if self.is_over() || self.plan.most_states.is_some_and(|most| sent >= most) {
                whole = false;
                return;
            }
            sent += 1;
            // All jobs have ended.
            whole &= states.send(state).is_ok();
        };
        let mut records = recording.records(Quiet::default())?;
        while let Some(record) = records.read().map_err(MakeError::from)? {
            last = record.number;
            survey.take(&record, records.at(), &mut offer).map_err(MakeError::from)?;
            let _ = events.send(Event::Read(records.at()));
            if self.is_over() {
                break;
            }
        }
        survey.end(last, &mut offer).map_err(MakeError::from)?;
        whole &= !self.is_over();
        Ok(Found { states: survey.found(), distinct: survey.distinct(), stretches: survey.stretches(), whole })
    }

    fn job(&self, job: usize, states: &Mutex<Receiver<State>>, events: &Sender<Event>) -> Result<(), ExploreError> {
        let folder = self.plan.work.join(format!("job-{job}"));
        std::fs::create_dir(&folder).map_err(|error| ExploreError::Io { path: folder.clone(), error })?;
        let mut maker = Maker::new(self.plan.recording.clone(), &folder);
        let mut check = Check::new(self.plan.command.clone(), job);
        loop {
            let next = lock(states).recv();
            let Ok(state) = next else { return Ok(()) };
            if self.is_over() {
                continue;
            }
            let verdict = checked(&mut maker, &mut check, &state, &folder)?;
            let kept = match verdict {
                Verdict::Bad(_) => self.keep(&mut maker, &state, &folder)?,
                Verdict::Good | Verdict::Stopped => None,
            };
            let _ = events.send(Event::Checked(Box::new(state), verdict, kept));
        }
    }

    /// Keeps a state that has failed: its image as it was before the check, what had been promised, and what the check said.
    fn keep(&self, maker: &mut Maker, state: &State, from: &Path) -> Result<Option<Kept>, ExploreError> {
        let Some((into, most)) = &self.plan.keep else { return Ok(None) };
        let number = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if number > *most {
            return Ok(None);
        }
        let folder = into.join(number.to_string());
        let written =
            |path: &Path, done: io::Result<()>| done.map_err(|error| ExploreError::Io { path: path.to_owned(), error });
        written(&folder, std::fs::create_dir_all(&folder))?;
        maker.make(state, &folder.join("image.qcow2"))?;
        let told = serde_json::to_vec_pretty(&state.told()).map_err(MakeError::from)?;
        written(&folder, std::fs::write(folder.join("state.json"), told))?;
        for name in [MARKS, OUTPUT] {
            written(&folder.join(name), std::fs::copy(from.join(name), folder.join(name)).map(drop))?;
        }
        Ok(Some(Kept { folder }))
    }
}

const MARKS: &str = "marks";
const OUTPUT: &str = "output";

/// Makes a state, in a folder for that, and has it checked.
pub fn checked(maker: &mut Maker, check: &mut Check, state: &State, folder: &Path) -> Result<Verdict, ExploreError> {
    let path = |name| folder.join(name);
    let files = Files { image: path("state.qcow2"), marks: path(MARKS), output: path(OUTPUT) };
    maker.make(state, &files.image)?;
    check::write_marks(&files.marks, &state.marks)
        .map_err(|error| ExploreError::Io { path: files.marks.clone(), error })?;
    check.check(&files).map_err(ExploreError::Check)
}
