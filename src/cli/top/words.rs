//! Numbers, durations and texts in few characters.

use std::time::Duration;

/// The end of a path, which says more than its beginning, where all of it is too long. Some of it there always is.
pub(super) fn end_of(path: &str, columns: usize) -> String {
    const LEAST: usize = 16;
    let (len, columns) = (path.chars().count(), columns.max(LEAST));
    if len <= columns {
        return path.to_owned();
    }
    let end: String = path.chars().skip(len + 3 - columns).collect();
    format!("...{end}")
}

/// The words of `text` in lines of `columns`; a word that is longer has a line of its own.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A rate, with two digits at least.
pub(super) fn number(rate: f64) -> String {
    match rate {
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 999_999.5 => format!("{rate:.0}"),
        rate => format!("{:.2} M", rate / 1e6),
    }
}

/// A duration with two or three digits.
pub(super) fn nanoseconds(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// How long, for people.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        for (rate, text) in [(0.04, "0.0"), (9.94, "9.9"), (9.96, "10"), (123_456.7, "123457"), (2_345_678.0, "2.35 M")]
        {
            assert_eq!(number(rate), text);
        }
        for (ns, text) in [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (99_400, "99 us"), (2_000_000_000, "2.0 s")]
        {
            assert_eq!(nanoseconds(ns), text);
        }
        for (seconds, text) in [(0, "0.0 s"), (59, "59 s"), (3599, "59 min"), (7265, "2 h 1 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn of_a_long_path_the_end_is_shown() {
        assert_eq!(end_of("/srv/disk.qcow2", 15), "/srv/disk.qcow2");
        assert_eq!(end_of("/srv/a/b/c/disk.qcow2", 17), "...b/c/disk.qcow2");
        assert_eq!(end_of("/srv/a/b/c/disk.qcow2", 0), ".../c/disk.qcow2");
    }

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable is long", 4), ["unbreakable", "is", "long"]);
        assert_eq!(wrap("", 4), [""; 0]);
    }
}
