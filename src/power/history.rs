//! What was done to one sequential zone since the state that a loss of power must leave: writes in runs of one length, a finish,
//! and at the end a reset. What comes after a reset makes the reset stable, so that there is never more than one life that can
//! come back.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rules::{Span, Step, Steps};

/// Runs that are kept of one zone. Beyond that neighbours become one write, which a cut may tear in any place all the same.
const MOST_STEPS: usize = 4096;

/// Numbers lives, and what frees an active zone, in the order in which this happened on the disk.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The volatile operations of one zone.
#[derive(Clone, Debug)]
pub(super) struct History {
    steps: Steps,
    /// Where the pointer stands after all of them.
    pointer: u64,
    /// Which life the zone is in; that after the reset where the last step is one.
    life: u64,
    /// The life that this reset has ended.
    ended: u64,
}

/// How far a zone had come at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    life: u64,
    pointer: u64,
}

impl Mark {
    /// The same life, with another pointer.
    pub(super) fn at(self, pointer: u64) -> Self {
        Self { pointer, ..self }
    }
}

impl History {
    /// Of the zone `span`, whose pointer stands at `stable`, nothing being volatile.
    pub(super) fn new(span: Span, stable: u64, counter: &Counter) -> Self {
        let life = counter.next();
        Self { steps: Steps { span, stable, steps: Vec::new() }, pointer: stable, life, ended: life }
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.steps.is_empty()
    }

    /// The bytes that a loss of power may take.
    pub(super) fn volatile(&self) -> u64 {
        self.steps.furthest().saturating_sub(self.steps.stable)
    }

    /// Whether the zone is empty by a reset that may be lost.
    pub(super) fn ends_in_reset(&self) -> bool {
        matches!(self.steps.steps.last(), Some(Step::Reset { .. }))
    }

    /// A write of `start..end` was accepted.
    pub(super) fn write(&mut self, start: u64, end: u64, counter: &Counter) {
        if self.ends_in_reset() {
            self.keep_reset();
        }
        if start < self.pointer {
            // Writes before this one have failed.
            self.cut_back(start);
        }
        self.pointer = end;
        let fills = end == self.steps.span.end;
        let len = end.saturating_sub(start);
        match self.steps.steps.last_mut() {
            Some(Step::Writes { len: run, count, fills: None }) if *run == len && !fills => *count += 1,
            _ => self.steps.steps.push(Step::Writes { len, count: 1, fills: fills.then(|| counter.next()) }),
        }
        if self.steps.steps.len() > MOST_STEPS {
            self.merge();
        }
    }

    /// A finish was done.
    pub(super) fn finish(&mut self, counter: &Counter) {
        if self.ends_in_reset() {
            self.keep_reset();
        }
        // One of a full zone changes nothing, and comes behind what filled the zone all the same.
        let changes = self.pointer < self.steps.span.end;
        if changes || matches!(self.steps.steps.last(), Some(Step::Writes { .. })) {
            self.steps.steps.push(Step::Finish { order: counter.next() });
            self.pointer = self.steps.span.end;
        }
    }

    /// A reset was done.
    pub(super) fn reset(&mut self, counter: &Counter) {
        if self.pointer > self.steps.span.start {
            self.steps.steps.push(Step::Reset { order: counter.next() });
            self.pointer = self.steps.span.start;
            self.ended = std::mem::replace(&mut self.life, counter.next());
        }
    }

    /// Makes the reset at the end stable, and with it all before it.
    pub(super) fn keep_reset(&mut self) {
        self.steps.stable = self.steps.span.start;
        self.steps.steps.clear();
        self.pointer = self.steps.stable;
    }

    /// Forgets writes from `pointer` on, which have not landed.
    pub(super) fn cut_back(&mut self, pointer: u64) {
        while let Some(Step::Writes { len, count, fills }) = self.steps.steps.last().copied() {
            let beyond = self.pointer.saturating_sub(pointer);
            if beyond == 0 {
                return;
            }
            self.steps.steps.pop();
            let whole = beyond.div_ceil(len.max(1)).min(count);
            self.pointer -= whole * len;
            if count > whole {
                self.steps.steps.push(Step::Writes { len, count: count - whole, fills });
            }
            // Of a write that has landed in part, that part.
            let part = pointer.saturating_sub(self.pointer);
            if part != 0 && part < len {
                self.steps.steps.push(Step::Writes { len: part, count: 1, fills: None });
                self.pointer += part;
            }
        }
    }

    /// How far the zone has come, whose pointer stands at `pointer`.
    pub(super) fn mark(&self, pointer: u64) -> Mark {
        Mark { life: self.life, pointer }
    }

    /// Everything up to a mark is stable.
    pub(super) fn stable_up_to(&mut self, mark: Mark) {
        match self.ends_in_reset() {
            true if mark.life == self.life => return self.keep_reset(),
            // What was done before a reset that came meanwhile.
            true if mark.life == self.ended => {}
            false if mark.life == self.life => {}
            _ => return,
        }
        let mut left = mark.pointer.saturating_sub(self.steps.stable);
        let mut gone = 0;
        for step in &mut self.steps.steps {
            match step {
                Step::Writes { len, count, .. } if len.saturating_mul(*count) > left => {
                    let whole = left / (*len).max(1);
                    *count -= whole;
                    self.steps.stable += whole * *len;
                    left -= whole * *len;
                    break;
                }
                Step::Writes { len, count, .. } => {
                    self.steps.stable += *len * *count;
                    left -= *len * *count;
                }
                Step::Finish { .. } if mark.pointer >= self.steps.span.end => self.steps.stable = self.steps.span.end,
                Step::Finish { .. } | Step::Reset { .. } => break,
            }
            gone += 1;
        }
        self.steps.steps.drain(..gone);
        // The rest of a mark is within a write that has landed in part.
        if left != 0
            && let Some(Step::Writes { len, count, fills }) = self.steps.steps.first().copied()
            && left < len
        {
            self.steps.stable += left;
            let rest = Step::Writes { len: len - left, count: 1, fills: fills.filter(|_| count == 1) };
            self.steps.steps.remove(0);
            if count > 1 {
                self.steps.steps.insert(0, Step::Writes { len, count: count - 1, fills });
            }
            self.steps.steps.insert(0, rest);
        }
    }

    fn merge(&mut self) {
        let steps = &mut self.steps.steps;
        let writes = |step: &Step| matches!(step, Step::Writes { fills: None, .. });
        if let Some(at) = steps.windows(2).position(|pair| pair.iter().all(writes)) {
            let bytes = |step: &Step| match step {
                Step::Writes { len, count, .. } => len * count,
                Step::Finish { .. } | Step::Reset { .. } => 0,
            };
            let len = steps[at..at + 2].iter().map(bytes).sum();
            steps.splice(at..at + 2, [Step::Writes { len, count: 1, fills: None }]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { start: 1000, end: 2000 };

    fn history(stable: u64) -> (History, Counter) {
        let counter = Counter::default();
        (History::new(SPAN, stable, &counter), counter)
    }

    fn lens(history: &History) -> Vec<(u64, u64)> {
        let each = |step: &Step| match step {
            Step::Writes { len, count, .. } => (*len, *count),
            Step::Finish { .. } => (0, 1),
            Step::Reset { .. } => (0, 2),
        };
        history.steps.steps.iter().map(each).collect()
    }

    #[test]
    fn writes_of_one_length_are_one_run_and_a_flush_takes_what_it_covers() {
        let (mut history, counter) = history(1000);
        (0..5).for_each(|n| history.write(1000 + n * 10, 1010 + n * 10, &counter));
        history.write(1050, 1150, &counter);
        assert_eq!(lens(&history), [(10, 5), (100, 1)]);
        history.stable_up_to(history.mark(1030));
        assert_eq!((history.steps.stable, lens(&history)), (1030, vec![(10, 2), (100, 1)]));
        history.stable_up_to(history.mark(1070));
        assert_eq!((history.steps.stable, lens(&history)), (1070, vec![(80, 1)]), "a write that landed in part");
        history.stable_up_to(history.mark(1150));
        assert!(history.is_empty());
    }

    #[test]
    fn a_failed_write_and_what_was_behind_it_are_forgotten() {
        let (mut history, counter) = history(1000);
        (0..5).for_each(|n| history.write(1000 + n * 10, 1010 + n * 10, &counter));
        history.write(1025, 1055, &counter);
        assert_eq!(lens(&history), [(10, 2), (5, 1), (30, 1)]);
        history.cut_back(1000);
        assert!(history.is_empty());
    }

    #[test]
    fn a_flush_of_before_a_reset_counts_for_the_life_that_the_reset_ends_and_for_no_other() {
        let (mut history, counter) = history(1500);
        history.write(1500, 1600, &counter);
        history.write(1600, 1700, &counter);
        let before = history.mark(1600);
        history.reset(&counter);
        history.stable_up_to(before);
        assert!(history.ends_in_reset());
        assert_eq!((history.steps.stable, lens(&history)), (1600, vec![(100, 1), (0, 2)]));
        let after = history.mark(1000);
        history.write(1000, 1100, &counter);
        assert_eq!((history.steps.stable, lens(&history)), (1000, vec![(100, 1)]), "the reset is stable by now");
        history.stable_up_to(after);
        history.stable_up_to(before);
        assert_eq!(history.steps.stable, 1000);
    }

    #[test]
    fn operations_that_change_nothing_are_no_steps() {
        let (mut history, counter) = history(1000);
        history.reset(&counter);
        assert!(history.is_empty());
        history.finish(&counter);
        history.finish(&counter);
        assert_eq!(lens(&history), [(0, 1)]);
        history.reset(&counter);
        history.reset(&counter);
        assert_eq!(lens(&history), [(0, 1), (0, 2)]);
        history.stable_up_to(history.mark(1000));
        assert!(history.is_empty() && history.steps.stable == 1000);
        history.write(1000, 2000, &counter);
        history.finish(&counter);
        assert_eq!(lens(&history), [(1000, 1), (0, 1)], "it is behind the write that it did not need");
        assert_eq!(history.steps.behind_management().operations, 2);
        history.stable_up_to(history.mark(2000));
        assert!(history.is_empty() && history.steps.stable == 2000);
    }

    #[test]
    fn many_lengths_take_bounded_memory_and_lose_no_byte() {
        let (mut history, counter) = history(0);
        history.steps.span = Span { start: 0, end: u64::MAX };
        let mut at = 0;
        for n in 0..10_000u64 {
            let len = 1 + n % 7;
            history.write(at, at + len, &counter);
            at += len;
        }
        assert!(history.steps.steps.len() <= MOST_STEPS);
        assert_eq!((history.pointer, history.steps.pointer(), history.volatile()), (at, at, at));
    }
}
