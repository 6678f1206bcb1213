//! How much is to be said, as `RUST_LOG` has it: a level for everything, levels of single modules, separated by commas.
//!
//! Everything is at [`DEFAULT`] unless a level is given for it, and a word that is neither a level nor the path of a
//! module is left out and named: no variable that was meant otherwise keeps an error from the log.

use std::str::FromStr;

use log::LevelFilter;

/// How much is said where nobody asks for more or less.
pub(super) const DEFAULT: LevelFilter = LevelFilter::Info;

/// What a variable asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The level of everything that has none of its own.
    pub(super) all: LevelFilter,
    /// Modules with levels of their own.
    pub(super) modules: Vec<(String, LevelFilter)>,
    /// The words that ask for nothing known.
    pub(super) unknown: Vec<String>,
}

impl Wanted {
    pub(super) fn parse(text: &str) -> Self {
        let mut wanted = Self { all: DEFAULT, modules: Vec::new(), unknown: Vec::new() };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (module, level) = word.rsplit_once('=').unwrap_or((word, "trace"));
            match (LevelFilter::from_str(word), LevelFilter::from_str(level.trim())) {
                (Ok(all), _) => wanted.all = all,
                // A name alone is taken for a module only where it can be nothing else.
                (_, Ok(level)) if word.contains('=') || is_path(word) => {
                    wanted.modules.push((module.trim().to_owned(), level));
                }
                _ => wanted.unknown.push(word.to_owned()),
            }
        }
        wanted
    }
}

fn is_path(word: &str) -> bool {
    word.contains("::") || word == env!("CARGO_CRATE_NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_for_everything_lowers_what_is_said_of_everything() {
        use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
        type Case<'a> = (&'a str, LevelFilter, &'a [(&'a str, LevelFilter)], &'a [&'a str]);
        let table: &[Case<'_>] = &[
            ("", Info, &[], &[]),
            (",", Info, &[], &[]),
            ("debug", Debug, &[], &[]),
            ("WARN", Warn, &[], &[]),
            ("off", Off, &[], &[]),
            (" error ", Error, &[], &[]),
            ("debug,trace", Trace, &[], &[]),
            ("verbose", Info, &[], &["verbose"]),
            ("1", Info, &[], &["1"]),
            ("debug,loud", Debug, &[], &["loud"]),
            ("vhost", Info, &[], &["vhost"]),
            ("vhost=debug", Info, &[("vhost", Debug)], &[]),
            ("error, vhost_user_zbd::store = trace", Error, &[("vhost_user_zbd::store", Trace)], &[]),
            ("vhost_user_zbd", Info, &[("vhost_user_zbd", Trace)], &[]),
            ("vhost_user_zbd::qcow2", Info, &[("vhost_user_zbd::qcow2", Trace)], &[]),
            ("vhost=loud", Info, &[], &["vhost=loud"]),
            ("info/some.*thing", Info, &[], &["info/some.*thing"]),
        ];
        for (text, all, modules, unknown) in table {
            let modules = modules.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
            let unknown = unknown.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(Wanted::parse(text), Wanted { all: *all, modules, unknown }, "{text:?}");
        }
    }
}
