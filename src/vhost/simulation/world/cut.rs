//! The power is cut on command.

use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_blk as wire;

use super::World;
use crate::device::recovery::LeftBehind;
use crate::power::Words;
use crate::vhost::simulation::driver::PLACES;

impl World {
    /// The power is cut on command, and is back when the guest has reset its device. The process may die in the midst: then the
    /// next one finds the state of before or of after.
    pub(super) fn cut_power(&mut self) {
        let words = Words {
            seed: Some(self.rng.below(1 << 20)).filter(|seed| seed % 4 != 0),
            then: (self.rng.below(2) == 0).then(|| "fail".to_owned()),
            ..Words::default()
        };
        let fails = words.then.is_some();
        let result = Arc::new(Mutex::new(None));
        let told = Arc::clone(&result);
        let cache = Arc::clone(self.process.device.cache.as_ref().unwrap());
        cache.command(words, Box::new(move |outcome| *told.lock().unwrap() = Some(outcome))).unwrap();
        let mut begun = self.disk.operations();
        for turn in 0.. {
            assert!(turn < 100_000, "the power is not cut");
            if self.rng.below(2) == 0 {
                let number = self.rng.below(self.lanes.len() as u64) as usize;
                self.go_on(number);
            }
            begun = self.disk.operations();
            self.housekeep();
            if result.lock().unwrap().is_some() {
                break;
            }
        }
        let outcome = match result.lock().unwrap().take() {
            Some(Ok(outcome)) => outcome,
            // All goes on as if nothing had been said.
            failed => return assert!(self.faulty, "the power could not be cut: {failed:?}"),
        };
        if self.rng.below(2) == 0 {
            return self.die_while_cut(begun);
        }
        self.expect_no_success(fails);
        for lane in &mut self.lanes {
            drop(lane.queue.take());
            lane.asked = [const { None }; PLACES];
        }
        self.new_drivers();
        let region = self.open_region(&self.process.store);
        self.process.journals.attach(Some(&region));
        self.process.device.reset();
        let left: Vec<_> = self.lanes.iter().map(|_| LeftBehind::none(&self.process.device.disk)).collect();
        left.into_iter().enumerate().for_each(|(number, left)| self.start_queue(number, 0, left));
        self.check_after_power_loss(true);
        self.seen.cuts += 1;
        self.seen.torn += outcome.zones.iter().filter(|zone| zone.torn).count();
        self.seen.resets_lost += outcome.zones.iter().filter(|zone| zone.resets_lost != 0).count();
    }

    /// After a cut what was in flight fails, or is not answered.
    fn expect_no_success(&mut self, fails: bool) {
        for number in 0..self.lanes.len() {
            let lane = &mut self.lanes[number];
            lane.rung.take();
            let queue = lane.queue.as_mut().unwrap();
            for _ in 0..3 {
                queue.round(true).unwrap();
            }
            assert!(queue.is_quiet(), "the power is gone, and requests are in flight");
            let answers = lane.driver.answers(&self.mem);
            assert!(fails || answers.is_empty(), "an answer without power");
            assert!(answers.iter().all(|answer| answer.status == wire::VIRTIO_BLK_S_IOERR as u8));
            let waiting = lane.asked.iter().flatten().count();
            assert!(!fails || answers.len() == waiting, "{} answers for {waiting} requests", answers.len());
        }
    }

    /// The process dies at one of the operations that a cut has taken, of which the first is `begun`.
    fn die_while_cut(&mut self, begun: u64) {
        for lane in &mut self.lanes {
            lane.queue.take().unwrap().parts().0.die();
            lane.asked = [const { None }; PLACES];
        }
        let at = begun + self.rng.below(self.disk.operations() - begun + 1);
        // What a process has done is there, whatever becomes of it.
        let disk = self.disk.crash_before(at).keeping(|_, _| true);
        self.disk = Arc::new(disk);
        self.disk.settle();
        self.new_drivers();
        self.start_process();
        self.check_after_power_loss(true);
        self.seen.cut_deaths += 1;
    }
}
