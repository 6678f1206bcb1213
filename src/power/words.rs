//! A cut as it is commanded: `lose=`, `keep=`, `seed=` or `state=` say what is left, `at=` when, `then=` what follows, `model=` and
//! `mgmt=` which drive it is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::outcome::CutOutcome;
use super::switch::Then;
use crate::units::ZoneIndex;
use crate::zone::{Geometry, ZoneKind};

/// The moment that does not come.
const NEVER: &str = "never";

/// A command, each word as it was said; [`Words::read`] makes sense of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// all, nothing or zone:N,N,...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lose: Option<String>,
    /// zone:N,N,...: everything else is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    /// Chooses for each zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Leaves what an earlier cut has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<serde_json::Value>,
    /// request:N, flush:N, flush:N+K, zone:N,wp>=BYTES, bytes:N or mark:NAME; never calls off the cut that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// dead, fail or exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    /// prefix or virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// volatile or stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mgmt: Option<String>,
}

/// What is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All that is not stable.
    All,
    /// Nothing.
    Nothing,
    /// All that is not stable, of these zones.
    Zones(BTreeSet<u32>),
    /// The same, of all zones but these.
    AllBut(BTreeSet<u32>),
    /// What a seed chooses.
    Seed(u64),
    /// What an earlier cut has lost.
    State(Box<CutOutcome>),
}

/// When the power goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// After so many requests.
    Request(u64),
    /// After so many flushes were done, and requests after the last of them.
    Flush(u64, u64),
    /// When a write was accepted that brings a zone so far, in bytes from its start.
    Zone(ZoneIndex, u64),
    /// When so many bytes were accepted.
    Written(u64),
    /// At a mark.
    Mark(String),
}

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What is lost.
    pub loss: Loss,
    /// When; now, where nothing is said.
    pub at: Option<At>,
    /// What follows.
    pub then: Then,
    /// Bytes between a stable pointer and the pointer may be anything, as the letter of the virtio specification has it.
    pub anything_unstable: bool,
    /// Resets and finishes are stable when they are answered.
    pub stable_management: bool,
}

impl Words {
    /// Reads words of the form NAME=VALUE. `state` reads the file that a state is in.
    pub fn parse<'a>(
        words: impl IntoIterator<Item = &'a str>,
        mut state: impl FnMut(&str) -> Result<serde_json::Value, String>,
    ) -> Result<Self, String> {
        let mut all = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| unknown(word))?;
            let text = Some(value.to_owned());
            let before = match name {
                "lose" => std::mem::replace(&mut all.lose, text).is_some(),
                "keep" => std::mem::replace(&mut all.keep, text).is_some(),
                "seed" => all.seed.replace(number("seed", value)?).is_some(),
                "state" => all.state.replace(state(value)?).is_some(),
                "at" => std::mem::replace(&mut all.at, text).is_some(),
                "then" => std::mem::replace(&mut all.then, text).is_some(),
                "model" => std::mem::replace(&mut all.model, text).is_some(),
                "mgmt" => std::mem::replace(&mut all.mgmt, text).is_some(),
                _ => return Err(unknown(word)),
            };
            if before {
                return Err(format!("{name} is said twice"));
            }
        }
        Ok(all)
    }

    /// Whether they call off the cut that waits. An error is one line.
    pub fn call_off(&self) -> Result<bool, String> {
        if self.at.as_deref() != Some(NEVER) {
            return Ok(false);
        }
        if *self != (Self { at: self.at.clone(), ..Self::default() }) {
            return Err("at=never calls off the cut that waits: expected no other word with it".to_owned());
        }
        Ok(true)
    }

    /// What they mean for a disk. An error is one line: which word, its value, what was expected.
    pub fn read(self, geometry: &Geometry) -> Result<Cut, String> {
        let said = [self.lose.is_some(), self.keep.is_some(), self.seed.is_some(), self.state.is_some()];
        if said.into_iter().filter(|said| *said).count() > 1 {
            return Err("lose, keep, seed and state exclude one another: expected one of them".to_owned());
        }
        let loss = match (self.lose.as_deref(), self.keep.as_deref(), self.seed, self.state) {
            (_, _, Some(seed), _) => Loss::Seed(seed),
            (_, _, _, Some(state)) => {
                let expected = |error| format!("state is not what a power cut has printed: {error}");
                Loss::State(Box::new(serde_json::from_value(state).map_err(expected)?))
            }
            (_, Some(kept), ..) => Loss::AllBut(zones("keep", kept, "zone:N,N,...", geometry)?),
            (None | Some("all"), ..) => Loss::All,
            (Some("nothing"), ..) => Loss::Nothing,
            (Some(lost), ..) => Loss::Zones(zones("lose", lost, "all, nothing or zone:N,N,...", geometry)?),
        };
        Ok(Cut {
            loss,
            at: self.at.as_deref().map(|at| moment(at, geometry)).transpose()?,
            then: match self.then.as_deref() {
                None | Some("dead") => Then::Dead,
                Some("fail") => Then::Fail,
                Some("exit") => Then::Exit,
                Some(other) => return Err(wrong("then", other, "dead, fail or exit")),
            },
            anything_unstable: one_of("model", self.model.as_deref(), ["prefix", "virtio"])?,
            stable_management: one_of("mgmt", self.mgmt.as_deref(), ["volatile", "stable"])?,
        })
    }
}

impl Cut {
    /// prefix or virtio.
    pub(super) fn model(&self) -> &'static str {
        if self.anything_unstable { "virtio" } else { "prefix" }
    }

    /// volatile or stable.
    pub(super) fn management(&self) -> &'static str {
        if self.stable_management { "stable" } else { "volatile" }
    }
}

fn unknown(word: &str) -> String {
    format!("'{word}' is not known: expected lose=, keep=, seed=, state=, at=, then=, model= or mgmt= with a value")
}

fn wrong(name: &str, value: &str, expected: &str) -> String {
    format!("{name} is '{value}': expected {expected}")
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| wrong(name, value, "a whole number"))
}

/// Whether the second is said; the first is what holds where nothing is.
fn one_of(name: &str, said: Option<&str>, known: [&str; 2]) -> Result<bool, String> {
    match said {
        None => Ok(false),
        Some(word) if word == known[0] => Ok(false),
        Some(word) if word == known[1] => Ok(true),
        Some(word) => Err(wrong(name, word, &known.join(" or "))),
    }
}

fn zones(name: &str, value: &str, expected: &str, geometry: &Geometry) -> Result<BTreeSet<u32>, String> {
    let list = value.strip_prefix("zone:").ok_or_else(|| wrong(name, value, expected))?;
    list.split(',').map(|zone| existing(name, value, zone, geometry)).collect()
}

fn existing(name: &str, value: &str, zone: &str, geometry: &Geometry) -> Result<u32, String> {
    let zones = geometry.nr_zones();
    let known = zone.parse().ok().filter(|zone| *zone < zones);
    known.ok_or_else(|| wrong(name, value, &format!("numbers of zones below {zones}")))
}

fn moment(value: &str, geometry: &Geometry) -> Result<At, String> {
    const EXPECTED: &str = "request:N, flush:N, flush:N+K, zone:N,wp>=BYTES, bytes:N, mark:NAME or never";
    let bad = || wrong("at", value, EXPECTED);
    let (kind, what) = value.split_once(':').ok_or_else(bad)?;
    let count = |text: &str| text.parse().ok().filter(|count| *count > 0u64).ok_or_else(bad);
    match kind {
        "request" => count(what).map(At::Request),
        "bytes" => count(what).map(At::Written),
        "flush" => match what.split_once('+') {
            Some((flush, more)) => Ok(At::Flush(count(flush)?, count(more)?)),
            None => Ok(At::Flush(count(what)?, 0)),
        },
        "zone" => {
            let (zone, offset) = what.split_once(",wp>=").ok_or_else(bad)?;
            let zone = ZoneIndex(existing("at", value, zone, geometry)?);
            if geometry.kind(zone) == ZoneKind::Conventional {
                return Err(wrong("at", value, "a zone with a write pointer"));
            }
            // Reports have pointers as bytes of the disk, where no zone but the first is as short as that.
            let (offset, start) = (count(offset)?, geometry.start(zone).0);
            let from_start = if offset > geometry.len(zone).0 { offset.checked_sub(start) } else { Some(offset) };
            let reachable = from_start.filter(|offset| *offset <= geometry.capacity(zone).0);
            Ok(At::Zone(zone, reachable.ok_or_else(|| wrong("at", value, "a write pointer that the zone can have"))?))
        }
        "mark" if !what.is_empty() => Ok(At::Mark(what.to_owned())),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::zone::testing::geometry;

    fn read(words: &[&str]) -> Result<Cut, String> {
        Words::parse(words.iter().copied(), |_| Err("no file".to_owned()))?.read(&geometry(8, 1))
    }

    #[test]
    fn what_nothing_is_said_of_is_the_plainest_cut() {
        let cut = read(&[]).unwrap();
        let plain =
            Cut { loss: Loss::All, at: None, then: Then::Dead, anything_unstable: false, stable_management: false };
        assert_eq!(cut, plain);
        assert_eq!(read(&["lose=all", "then=dead", "model=prefix", "mgmt=volatile"]).unwrap(), plain);
    }

    #[test]
    fn each_word_means_what_it_says() {
        let loss = |word| read(&[word]).unwrap().loss;
        assert_eq!(loss("lose=nothing"), Loss::Nothing);
        assert_eq!(loss("lose=zone:5,0"), Loss::Zones([0, 5].into()));
        assert_eq!(loss("keep=zone:7"), Loss::AllBut([7].into()));
        assert_eq!(loss("seed=18446744073709551615"), Loss::Seed(u64::MAX));
        let at = |word| read(&[word]).unwrap().at.unwrap();
        assert_eq!(at("at=request:3"), At::Request(3));
        assert_eq!(at("at=flush:2"), At::Flush(2, 0));
        assert_eq!(at("at=flush:2+9"), At::Flush(2, 9));
        assert_eq!(at("at=zone:5,wp>=4096"), At::Zone(ZoneIndex(5), 4096));
        assert_eq!(at("at=zone:5,wp>=5246976"), At::Zone(ZoneIndex(5), 4096), "as reports have it");
        assert_eq!(at("at=bytes:1048576"), At::Written(1 << 20));
        assert_eq!(at("at=mark:before mount"), At::Mark("before mount".to_owned()));
        let cut = read(&["then=exit", "model=virtio", "mgmt=stable"]).unwrap();
        assert_eq!((cut.then, cut.anything_unstable, cut.stable_management), (Then::Exit, true, true));
        assert_eq!((cut.model(), cut.management()), ("virtio", "stable"));
    }

    #[test]
    fn a_cut_is_called_off_by_one_word_alone() {
        let calls_off =
            |words: &[&str]| Words::parse(words.iter().copied(), |_| Err(String::new())).unwrap().call_off();
        assert_eq!(calls_off(&["at=never"]), Ok(true));
        assert_eq!(calls_off(&[]), Ok(false));
        assert_eq!(calls_off(&["at=flush:1", "seed=3"]), Ok(false));
        for other in ["lose=all", "keep=zone:1", "seed=1", "then=fail", "model=virtio", "mgmt=stable"] {
            let error = calls_off(&["at=never", other]).unwrap_err();
            assert!(error.contains("expected no other word"), "{other}: {error}");
        }
    }

    #[test]
    fn a_wrong_word_is_refused_by_its_name_and_value() {
        for (words, said) in [
            (&["lost"][..], "'lost' is not known"),
            (&["loose=all"], "'loose=all' is not known"),
            (&["lose=zone:8"], "lose is 'zone:8': expected numbers of zones below 8"),
            (&["lose=some"], "lose is 'some': expected all, nothing or zone:N,N,..."),
            (&["keep=all"], "keep is 'all': expected zone:N,N,..."),
            (&["keep=zone:"], "keep is 'zone:': expected numbers of zones below 8"),
            (&["seed=-1"], "seed is '-1': expected a whole number"),
            (&["seed=1", "lose=all"], "exclude one another"),
            (&["then=dead", "then=dead"], "then is said twice"),
            (&["then=die"], "then is 'die': expected dead, fail or exit"),
            (&["model=scsi"], "model is 'scsi': expected prefix or virtio"),
            (&["mgmt=1"], "mgmt is '1': expected volatile or stable"),
            (&["at=request:0"], "at is 'request:0': expected request:N"),
            (&["at=flush:1+"], "at is 'flush:1+': expected request:N"),
            (&["at=zone:0,wp>=1"], "at is 'zone:0,wp>=1': expected a zone with a write pointer"),
            (&["at=zone:9,wp>=1"], "expected numbers of zones below 8"),
            (&["at=zone:5,wp>=1048577"], "expected a write pointer that the zone can have"),
            (&["at=mark:"], "at is 'mark:': expected request:N"),
            (&["at=noon"], "at is 'noon': expected request:N"),
            (&["state=x"], "no file"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }
}
