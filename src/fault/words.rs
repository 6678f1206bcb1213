//! A rule in words, as a command line, the control socket and a file of rules say it, and what the words mean.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::{Action, Corruption, Landed, Lateness, On, Place, Rule, Which, ZoneChange};
use crate::observe::fault_names::LONGEST_NAME;
use crate::store::Failure;
use crate::units::{Sector, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Bits that one rule flips in a read, at most.
const MAX_FLIPS: u32 = 4096;

/// The longest that a rule delays a request by.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// A rule in words. Each field is what the option of its name says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleWords {
    /// What the rule is called.
    pub name: String,
    /// Kinds of requests, separated by commas. Only a change of zones can do without: that is done at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// A zone, or the first and the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// A sector of the disk, or the first and the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<String>,
    /// The queue that requests come by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// The nth request alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Each nth request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Each request with this chance, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prob: Option<String>,
    /// The seed of what is random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How often the rule acts at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// `mark:NAME`: the rule counts from that mark on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What becomes of the requests.
    #[serde(rename = "do")]
    pub action: String,
    /// How far the rule has come, as a list and a file have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RuleProgress>,
}

/// How far a rule has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleProgress {
    /// By which notes of requests in flight know the rule.
    pub number: u16,
    /// Requests that the rule was about.
    pub matched: u64,
    /// Those that it has acted on.
    pub acted: u64,
    /// Requests that it holds back now.
    #[serde(default)]
    pub held: u64,
    /// The mark that it waits for has come, or there is none.
    pub awake: bool,
    /// Of each zone the requests that the rule was about, where which of them is a matter of chance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_zone: Vec<(u32, u64)>,
    /// Of an unreadable range what is readable again: bytes of the disk, from the first to behind the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub healed: Vec<(u64, u64)>,
}

fn wrong(name: &str, value: impl std::fmt::Display, expected: &str) -> String {
    format!("{name} is '{value}': expected {expected}")
}

impl RuleWords {
    /// A rule of this name, which requests in words NAME=VALUE that are separated by spaces, and what becomes of them. An error is
    /// one line.
    pub fn parse(name: &str, which: &str, action: &str) -> Result<Self, String> {
        let mut words = Self { name: name.to_owned(), action: action.to_owned(), ..Self::default() };
        for word in which.split_whitespace() {
            let (key, value) =
                word.split_once('=').ok_or_else(|| format!("'{word}' is not known: expected NAME=VALUE"))?;
            let number = || value.parse().map_err(|_| wrong(key, value, "a whole number"));
            let text = || Some(value.to_owned());
            match key {
                "on" => words.on = text(),
                "zone" => words.zone = text(),
                "sectors" => words.sectors = text(),
                "queue" => words.queue = Some(value.parse().map_err(|_| wrong(key, value, "the number of a queue"))?),
                "nth" => words.nth = Some(number()?),
                "every" => words.every = Some(number()?),
                "prob" => words.prob = text(),
                "seed" => words.seed = Some(number()?),
                "count" => words.count = Some(number()?),
                "after" => words.after = text(),
                _ => {
                    return Err(format!(
                        "'{key}' is not known: expected on, zone, sectors, queue, nth, every, prob, seed, count or after"
                    ));
                }
            }
        }
        Ok(words)
    }

    /// What the words mean for a disk of this shape. An error is one line: which word, its value, and what was expected.
    pub fn read(&self, geometry: &Geometry) -> Result<Rule, String> {
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || self.name.contains(char::is_control) {
            return Err(wrong("name", &self.name, &format!("1 to {LONGEST_NAME} bytes of text")));
        }
        let action = action(&self.action)?;
        let rule = Rule {
            on: self.kinds(action)?,
            place: self.place(geometry)?,
            which: self.which()?,
            count: self.count.map(|count| positive("count", count)).transpose()?,
            after: self.after.as_deref().map(mark).transpose()?,
            action,
        };
        self.check(&rule, geometry)?;
        Ok(rule)
    }

    /// Whether the rule is a change of zones that waits for no request.
    pub fn is_at_once(&self) -> bool {
        self.on.is_none()
    }

    fn kinds(&self, action: Action) -> Result<Vec<On>, String> {
        let names: Vec<&str> = On::NAMES.iter().map(|(name, _)| *name).collect();
        let expected = format!("some of {}", names.join(", "));
        let Some(on) = &self.on else {
            return match action {
                Action::Zone(_) => Ok(Vec::new()),
                _ => Err(format!("on is not said: expected {expected}")),
            };
        };
        let kind = |name: &str| On::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, on)| on);
        let kinds: Vec<On> =
            on.split(',').map(|name| kind(name).ok_or_else(|| wrong("on", on, &expected))).collect::<Result<_, _>>()?;
        let only = match action {
            Action::Unreadable | Action::Corrupt(_) => Some((On::Read, "read")),
            Action::Lie => Some((On::Flush, "flush")),
            _ => None,
        };
        match only {
            Some((only, name)) if kinds.iter().any(|kind| *kind != only) => {
                Err(wrong("on", on, &format!("{name} alone, for '{}'", self.action)))
            }
            _ => Ok(kinds),
        }
    }

    fn place(&self, geometry: &Geometry) -> Result<Place, String> {
        let zones = self.zone.as_deref().map(|text| range("zone", text, u64::from(geometry.nr_zones()))).transpose()?;
        let end = geometry.size().to_sector();
        let sectors = self.sectors.as_deref().map(|text| range("sectors", text, end.0)).transpose()?;
        let bytes = |sector: u64| Sector(sector).to_bytes().unwrap_or(geometry.size());
        Ok(Place {
            zones: zones.map(|(first, last)| (ZoneIndex(first as u32), ZoneIndex(last as u32))),
            bytes: sectors.map(|(first, last)| (bytes(first), bytes(last + 1).min(geometry.size()))),
            queue: self.queue,
        })
    }

    fn which(&self) -> Result<Which, String> {
        if self.seed.is_some() && self.prob.is_none() {
            return Err("seed is for chance: expected prob with it".to_owned());
        }
        match (self.nth, self.every, &self.prob) {
            (None, None, None) => Ok(Which::All),
            (Some(nth), None, None) => Ok(Which::Nth(positive("nth", nth)?)),
            (None, Some(nth), None) => Ok(Which::Every(positive("every", nth)?)),
            (None, None, Some(text)) => {
                let probability = text.parse().ok().filter(|chance| (0.0..=1.0).contains(chance));
                let probability = probability.ok_or_else(|| wrong("prob", text, "a number from 0 to 1"))?;
                Ok(Which::Chance { probability, seed: self.seed.unwrap_or(0) })
            }
            _ => Err("nth, every and prob exclude one another: expected one of them".to_owned()),
        }
    }

    /// What only shows when all words are known.
    fn check(&self, rule: &Rule, geometry: &Geometry) -> Result<(), String> {
        if let Action::Zone(_) = rule.action {
            let Some((first, last)) = rule.place.zones else {
                return Err(format!("zone is not said: expected the zones that '{}' is about", self.action));
            };
            if geometry.kind(first) == ZoneKind::Conventional {
                let zones = format!("{first}-{last}");
                return Err(wrong("zone", zones, "zones with a write pointer"));
            }
            let more = rule.which != Which::All || rule.count.is_some() || rule.after.is_some();
            if self.is_at_once() && (more || rule.place.queue.is_some() || rule.place.bytes.is_some()) {
                return Err("on is not said: expected the requests that the other words choose from".to_owned());
            }
        }
        if let Action::Fail { landed: Landed::Half | Landed::Blocks(1..) | Landed::Random, .. } = rule.action
            && rule.on.iter().any(|on| !matches!(on, On::Write | On::Append))
        {
            return Err(wrong("do", &self.action, "landed=0 or landed=all, but for write and append"));
        }
        Ok(())
    }
}

fn positive(name: &str, value: u64) -> Result<u64, String> {
    if value == 0 { Err(wrong(name, value, "1 or more")) } else { Ok(value) }
}

fn mark(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("mark:").filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| wrong("after", text, "mark:NAME"))
}

/// `N` or `A-B`, all of them below `end`.
fn range(name: &str, text: &str, end: u64) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().ok().filter(|number| *number < end);
    let (first, last) = number(first)
        .zip(number(last))
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| wrong(name, text, &format!("a number below {end}, or the first and the last as A-B")))?;
    Ok((first, last))
}

fn action(text: &str) -> Result<Action, String> {
    const EXPECTED: &str = "error=..., unreadable, corrupt=..., delay=..., hang, lie or zone-state=...";
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let more: Vec<&str> = words.collect();
    let (what, value) = first.split_once('=').unwrap_or((first, ""));
    let action = match (what, value) {
        ("error", value) => return fail(text, value, &more),
        ("delay", value) => return delay(text, value, &more),
        ("unreadable", "") => Action::Unreadable,
        ("hang", "") => Action::Hang,
        ("lie", "") => Action::Lie,
        ("corrupt", "zero") => Action::Corrupt(Corruption::Zero),
        ("corrupt", "old") => Action::Corrupt(Corruption::Old),
        ("corrupt", value) => {
            let bits = value.strip_prefix("flip:").and_then(|bits| bits.parse().ok());
            let bits = bits.filter(|bits| (1..=MAX_FLIPS).contains(bits));
            let expected = format!("flip:N with 1 to {MAX_FLIPS} bits, zero or old");
            Action::Corrupt(Corruption::Flip(bits.ok_or_else(|| wrong("corrupt", value, &expected))?))
        }
        ("zone-state", value) => Action::Zone(match value {
            "read-only" => ZoneChange::ReadOnly,
            "offline" => ZoneChange::Offline,
            "restore" => ZoneChange::Restore,
            _ => return Err(wrong("zone-state", value, "read-only, offline or restore")),
        }),
        _ => return Err(wrong("do", text, EXPECTED)),
    };
    if more.is_empty() { Ok(action) } else { Err(wrong("do", text, &format!("nothing behind '{first}'"))) }
}

fn fail(text: &str, value: &str, more: &[&str]) -> Result<Action, String> {
    let failure = match value {
        "ioerr" => Failure::Io,
        "unsupp" => Failure::Unsupported,
        "invalid" => Failure::InvalidCommand,
        "unaligned" => Failure::UnalignedWrite,
        "open-resource" => Failure::OpenResource,
        "active-resource" => Failure::ActiveResource,
        _ => {
            let expected = "ioerr, unsupp, invalid, unaligned, open-resource or active-resource";
            return Err(wrong("error", value, expected));
        }
    };
    let landed = match more {
        [] => Landed::Blocks(0),
        [word] => match word.strip_prefix("landed=") {
            Some("all") => Landed::All,
            Some("half") => Landed::Half,
            Some("random") => Landed::Random,
            Some(blocks) => {
                let wrong = || wrong("landed", blocks, "a number of blocks, half, all or random");
                Landed::Blocks(blocks.parse().map_err(|_| wrong())?)
            }
            None => return Err(wrong("do", text, "landed=... behind the error")),
        },
        _ => return Err(wrong("do", text, "landed=... alone behind the error")),
    };
    Ok(Action::Fail { failure, landed })
}

fn delay(text: &str, value: &str, more: &[&str]) -> Result<Action, String> {
    let expected = "a duration as 10ms, uniform:A-B or exp:MEAN, of at most an hour";
    let bad = || wrong("delay", value, expected);
    let by = match value.split_once(':') {
        None => Lateness::Fixed(duration(value).ok_or_else(bad)?),
        Some(("exp", mean)) => Lateness::Exponential(duration(mean).ok_or_else(bad)?),
        Some(("uniform", bounds)) => {
            let (least, most) = bounds.split_once('-').ok_or_else(bad)?;
            let (least, most) = duration(least).zip(duration(most)).filter(|(a, b)| a <= b).ok_or_else(bad)?;
            Lateness::Uniform(least, most)
        }
        Some(_) => return Err(bad()),
    };
    let after = match more {
        [] | ["before"] => false,
        ["after"] => true,
        _ => return Err(wrong("do", text, "before or after behind the delay")),
    };
    Ok(Action::Delay { by, after })
}

/// A whole number with its unit: us, ms or s.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    Some(duration).filter(|duration| *duration <= MAX_DELAY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::units::Bytes;
    use crate::zone::testing::geometry;

    /// Words as `on any; zone 3; do hang`.
    fn words(text: &str) -> RuleWords {
        let (which, action) = text.split_once("do ").unwrap();
        let which: Vec<String> =
            which.split("; ").filter(|word| !word.is_empty()).map(|word| word.replacen(' ', "=", 1)).collect();
        RuleWords::parse("x", &which.join(" "), action).unwrap()
    }

    fn read(text: &str) -> Result<Rule, String> {
        words(text).read(&geometry(8, 1))
    }

    #[test]
    fn each_action_means_what_it_says() {
        let millis = Duration::from_millis;
        let fail = |failure, landed| Action::Fail { failure, landed };
        for (text, action) in [
            ("error=ioerr", fail(Failure::Io, Landed::Blocks(0))),
            ("error=unsupp landed=all", fail(Failure::Unsupported, Landed::All)),
            ("error=invalid landed=0", fail(Failure::InvalidCommand, Landed::Blocks(0))),
            ("error=unaligned landed=half", fail(Failure::UnalignedWrite, Landed::Half)),
            ("error=open-resource landed=7", fail(Failure::OpenResource, Landed::Blocks(7))),
            ("error=active-resource landed=random", fail(Failure::ActiveResource, Landed::Random)),
            ("delay=10ms", Action::Delay { by: Lateness::Fixed(millis(10)), after: false }),
            ("delay=1s after", Action::Delay { by: Lateness::Fixed(millis(1000)), after: true }),
            ("delay=uniform:5ms-1s", Action::Delay { by: Lateness::Uniform(millis(5), millis(1000)), after: false }),
            ("delay=exp:2000us before", Action::Delay { by: Lateness::Exponential(millis(2)), after: false }),
            ("hang", Action::Hang),
        ] {
            assert_eq!(read(&format!("on write; do {text}")).unwrap().action, action, "{text}");
        }
        assert_eq!(read("on read; do unreadable").unwrap().action, Action::Unreadable);
        assert_eq!(read("on read; do corrupt=flip:3").unwrap().action, Action::Corrupt(Corruption::Flip(3)));
        assert_eq!(read("on read; do corrupt=zero").unwrap().action, Action::Corrupt(Corruption::Zero));
        assert_eq!(read("on read; do corrupt=old").unwrap().action, Action::Corrupt(Corruption::Old));
        assert_eq!(read("on flush; do lie").unwrap().action, Action::Lie);
        let offline = read("zone 3-4; do zone-state=offline").unwrap();
        assert_eq!((offline.action, offline.on), (Action::Zone(ZoneChange::Offline), vec![]));
    }

    #[test]
    fn the_other_words_choose_the_requests() {
        let rule = read("on write,append; zone 2-3; sectors 5000; queue 1; every 4; count 9; after mark:ab; do hang");
        let rule = rule.unwrap();
        assert_eq!(rule.on, [On::Write, On::Append]);
        assert_eq!(rule.place.zones, Some((ZoneIndex(2), ZoneIndex(3))));
        assert_eq!(rule.place.bytes, Some((Bytes(5000 * 512), Bytes(5001 * 512))));
        assert_eq!((rule.place.queue, rule.which, rule.count), (Some(1), Which::Every(4), Some(9)));
        assert_eq!(rule.after.as_deref(), Some("ab"));
        let chance = read("on any; prob 0.25; seed 8; do hang").unwrap().which;
        assert_eq!(chance, Which::Chance { probability: 0.25, seed: 8 });
        assert_eq!(read("on any; nth 3; do hang").unwrap().which, Which::Nth(3));
    }

    #[test]
    fn a_wrong_word_is_refused_by_its_name_and_value() {
        for (text, said) in [
            ("on reads; do hang", "on is 'reads': expected some of read, write,"),
            ("do hang", "on is not said: expected some of read"),
            ("on any; zone 8; do hang", "zone is '8': expected a number below 8, or"),
            ("on any; zone 3-2; do hang", "zone is '3-2': expected a number below 8"),
            ("on any; sectors 16384; do hang", "sectors is '16384': expected a number below 16384"),
            ("on any; nth 0; do hang", "nth is '0': expected 1 or more"),
            ("on any; every 0; do hang", "every is '0': expected 1 or more"),
            ("on any; count 0; do hang", "count is '0': expected 1 or more"),
            ("on any; nth 1; every 2; do hang", "nth, every and prob exclude one another"),
            ("on any; prob 1.5; do hang", "prob is '1.5': expected a number from 0 to 1"),
            ("on any; prob NaN; do hang", "prob is 'NaN': expected a number from 0 to 1"),
            ("on any; seed 1; do hang", "seed is for chance"),
            ("on any; after x; do hang", "after is 'x': expected mark:NAME"),
            ("on any; do die", "do is 'die': expected error="),
            ("on any; do hang 5s", "do is 'hang 5s': expected nothing behind 'hang'"),
            ("on any; do error=eio", "error is 'eio': expected ioerr,"),
            ("on write; do error=ioerr landed=most", "landed is 'most': expected a number of blocks"),
            ("on write; do error=ioerr half", "do is 'error=ioerr half': expected landed="),
            ("on read; do error=ioerr landed=half", "expected landed=0 or landed=all, but for write and append"),
            ("on any; do delay=10", "delay is '10': expected a duration"),
            ("on any; do delay=2h", "delay is '2h': expected a duration"),
            ("on any; do delay=3601s", "delay is '3601s': expected a duration"),
            ("on any; do delay=uniform:9ms-1ms", "delay is 'uniform:9ms-1ms': expected a duration"),
            ("on any; do delay=1s later", "expected before or after behind the delay"),
            ("on write; do unreadable", "on is 'write': expected read alone, for 'unreadable'"),
            ("on read; do corrupt=flip:0", "corrupt is 'flip:0': expected flip:N with 1 to 4096"),
            ("on any; do lie", "on is 'any': expected flush alone, for 'lie'"),
            ("do zone-state=offline", "zone is not said"),
            ("zone 0-3; do zone-state=offline", "zone is '0-3': expected zones with a write pointer"),
            ("zone 3; nth 3; do zone-state=offline", "on is not said: expected the requests that"),
            ("zone 3; do zone-state=gone", "zone-state is 'gone': expected read-only, offline or restore"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_word_that_is_none_is_refused_as_is_a_rule_without_a_name() {
        for (name, which, said) in [
            ("x", "on", "'on' is not known: expected NAME=VALUE"),
            ("x", "at=3", "'at' is not known: expected on, zone,"),
            ("x", "nth=three", "nth is 'three': expected a whole number"),
            ("x", "queue=70000", "queue is '70000': expected the number of a queue"),
            ("", "on=any", "name is '': expected 1 to 64 bytes"),
            ("two\nlines", "on=any", "expected 1 to 64 bytes"),
        ] {
            let error =
                RuleWords::parse(name, which, "hang").and_then(|words| words.read(&geometry(8, 1))).unwrap_err();
            assert!(error.contains(said), "{which}: {error}");
        }
    }

    #[test]
    fn words_are_the_same_in_json() {
        let words = words("on write; zone 3; prob 0.5; do error=ioerr landed=half");
        let json = serde_json::to_string(&words).unwrap();
        assert_eq!(json, r#"{"name":"x","on":"write","zone":"3","prob":"0.5","do":"error=ioerr landed=half"}"#);
        assert_eq!(serde_json::from_str::<RuleWords>(&json).unwrap(), words);
        assert!(serde_json::from_str::<RuleWords>(r#"{"name":"x","do":"hang","nht":3}"#).is_err());
    }
}
