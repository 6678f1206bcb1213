//! Faults of a disk in this process: rules as `ctl fault` has them.

use std::sync::mpsc;
use std::time::Duration;

use super::{Disk, DiskError};
use crate::fault::{Done, Faults, RuleWords, Saved};

impl Disk {
    /// Adds a rule by which requests fail, bring wrong bytes, or are held back; or takes zones away at once. `which` says
    /// which requests, by the options of `ctl fault add` as words NAME=VALUE that are separated by spaces; `action` what
    /// becomes of them, as `--do` has it. Delays pass at once, as a disk has no clock here; what hangs is
    /// [unanswered](DiskError::Unanswered) until the rule is [released](Self::fault_release).
    ///
    /// ```
    /// # use vhost_user_zbd::disk::{Bytes, Disk, Sector, Shape, State, Status};
    /// # let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10)))?;
    /// disk.fault("torn", "on=write nth=2", "error=ioerr landed=half")?;
    /// disk.write(Sector(0), &[1; 8192])?;
    /// assert_eq!(disk.write(Sector(16), &[2; 8192]).unwrap_err().status(), Some(Status::IoErr));
    /// assert_eq!(disk.report(Sector(0), 1)?[0].write_pointer, Bytes(8192 + 4096));
    /// assert_eq!(disk.faults().rules[0].progress.as_ref().map(|progress| progress.acted), Some(1));
    ///
    /// disk.fault("dead", "zone=1", "zone-state=offline")?;
    /// assert_eq!(disk.report(Sector(128), 1)?[0].state, State::Offline);
    /// disk.fault_clear(None)?;
    /// disk.restore_now("1")?;
    /// assert_eq!(disk.report(Sector(128), 1)?[0].state, State::Empty);
    /// # Ok::<(), vhost_user_zbd::disk::DiskError>(())
    /// ```
    pub fn fault(&mut self, name: &str, which: &str, action: &str) -> Result<(), DiskError> {
        let words = RuleWords::parse(name, which, action).map_err(DiskError::Fault)?;
        self.tell(|faults, done| faults.add(words, done))
    }

    /// Removes a rule, or all where none is named; what they hold back goes on. Zones that they have taken away stay so.
    pub fn fault_clear(&mut self, name: Option<&str>) -> Result<(), DiskError> {
        self.tell(|faults, done| faults.clear(name, done))
    }

    /// Lets go what a rule holds back now.
    pub fn fault_release(&mut self, name: &str) -> Result<(), DiskError> {
        self.tell(|faults, done| faults.release(name, done))
    }

    /// The rules, with how far they have come, and the zones that were taken away.
    pub fn faults(&self) -> Saved {
        self.device.faults.list()
    }

    /// Gives zones back at once: a number, or the first and the last as A-B. With the action zone-state=restore of
    /// [`fault`](Self::fault) they come back with the power, as when a device is reset.
    pub fn restore_now(&mut self, zones: &str) -> Result<(), DiskError> {
        let words =
            RuleWords::parse("restore", &format!("zone={zones}"), "zone-state=restore").map_err(DiskError::Fault)?;
        self.tell(|faults, done| faults.restore_now(&words, done))
    }

    /// Sets a mark, from which on rules with after=mark:NAME count.
    pub fn mark(&mut self, name: &str) {
        self.device.faults.mark(name);
    }

    fn tell(&mut self, with: impl FnOnce(&Faults, Done) -> Result<(), String>) -> Result<(), DiskError> {
        let (tell, told) = mpsc::channel();
        with(&self.device.faults, Box::new(move || _ = tell.send(()))).map_err(DiskError::Fault)?;
        self.go_on(|_| true);
        let waits = || DiskError::Fault("not done yet: requests of the zone are in flight".to_owned());
        told.try_recv().map_err(|_| waits())
    }

    /// Has everything be late enough that waits for a time to pass. Returns whether anything was.
    pub(super) fn let_time_pass(&self) -> bool {
        self.device.faults.time_is(Duration::MAX).is_some()
    }
}
