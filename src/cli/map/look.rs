//! How a cell looks, on a terminal and in a picture: its most telling state, and how much of it is written.

use crate::cli::screen::{Colour, Rgb};
use crate::cli::size;
use crate::observe::summary::{StateCounts, Summary, Tally};
use crate::units::Bytes;
use crate::zone::State;

/// The states in the order in which one zone's is told for a whole cell.
const TELLING: [State; State::ALL.len()] = [
    State::Offline,
    State::ReadOnly,
    State::ExplicitOpen,
    State::ImplicitOpen,
    State::Closed,
    State::Full,
    State::Empty,
    State::NotWp,
];

/// The states in the order of a legend.
const SHOWN: [State; State::ALL.len()] = [
    State::NotWp,
    State::Full,
    State::Closed,
    State::ImplicitOpen,
    State::ExplicitOpen,
    State::ReadOnly,
    State::Offline,
    State::Empty,
];

/// The states that occur, with how many zones are in each, in the order of a legend.
pub(in crate::cli) fn present(totals: &Tally) -> impl Iterator<Item = (State, u64)> {
    SHOWN.into_iter().map(|state| (state, totals.states.get(state))).filter(|(_, count)| *count > 0)
}

/// The state that is told for all zones of a cell.
pub(in crate::cli) fn telling(states: &StateCounts) -> State {
    TELLING.into_iter().find(|state| states.get(*state) > 0).unwrap_or(State::Empty)
}

/// How much of what can be written is written, 0.0 to 1.0.
pub(in crate::cli) fn fill(tally: &Tally) -> f64 {
    if tally.capacity == 0 { 0.0 } else { (tally.written as f64 / tally.capacity as f64).min(1.0) }
}

/// A state in words.
pub(in crate::cli) fn label(state: State) -> &'static str {
    match state {
        State::NotWp => "conventional",
        State::ImplicitOpen => "implicitly open",
        State::ExplicitOpen => "explicitly open",
        other => other.name(),
    }
}

/// The colour of a state. Seen with either of the common kinds of colour blindness they still differ: blue, green,
/// orange, purple, yellow, vermilion, after Okabe and Ito.
pub(in crate::cli) fn hue(state: State) -> Colour {
    shade(state, 1.0)
}

/// The colour of a state from its darkest (0.0), where nothing is written, to its brightest (1.0).
fn shade(state: State, bright: f64) -> Colour {
    const EMPTY: Rgb = Rgb(58, 62, 70);
    /// What is left of the colour at its darkest.
    const LEAST: f64 = 0.3;
    let (brightest, steps) = match state {
        State::NotWp => return Colour { direct: Rgb(139, 133, 120), indexed: 101 },
        State::Empty => return Colour { direct: EMPTY, indexed: 238 },
        State::ImplicitOpen => (Rgb(0, 178, 130), [22, 29, 35, 42]),
        State::ExplicitOpen => (Rgb(240, 160, 30), [94, 136, 172, 214]),
        State::Closed => (Rgb(204, 121, 187), [96, 133, 170, 176]),
        State::ReadOnly => (Rgb(240, 228, 66), [58, 100, 184, 227]),
        State::Full => (Rgb(66, 133, 224), [18, 25, 26, 33]),
        State::Offline => (Rgb(213, 74, 30), [88, 124, 160, 166]),
    };
    let [darkest, dark, lighter, lightest] = steps;
    let indexed = match bright {
        bright if bright < 0.2 => darkest,
        bright if bright < 0.5 => dark,
        bright if bright < 0.85 => lighter,
        _ => lightest,
    };
    Colour { direct: EMPTY.towards(brightest, LEAST + (1.0 - LEAST) * bright), indexed }
}

/// The colours of a cell on a terminal in `columns` columns: that of its state, which is dark where nothing is written and
/// gets bright from the left as the cell fills.
pub(in crate::cli) fn shades(tally: &Tally, columns: usize) -> impl Iterator<Item = Colour> {
    let (state, filled) = (telling(&tally.states), fill(tally) * columns as f64);
    (0..columns).map(move |column| shade(state, (filled - column as f64).clamp(0.0, 1.0)))
}

/// Of what is written, the share that a power cut may take, 0.0 to 1.0.
pub(in crate::cli) fn volatile(tally: &Tally) -> f64 {
    let volatile = tally.volatile.unwrap_or(0);
    if tally.written == 0 { 0.0 } else { (volatile as f64 / tally.written as f64).min(1.0) }
}

/// How the power stands and how much it may take with it, where the disk has a volatile cache.
pub(in crate::cli) fn power(summary: &Summary) -> Option<String> {
    let power = summary.power.as_ref()?;
    Some(format!("power {}; volatile {}", power.in_words(), size::brief(Bytes(power.volatile_bytes))))
}

/// The zones of the cells that have anything to lose, where any has.
pub(in crate::cli) fn volatile_zones(summary: &Summary) -> Option<String> {
    /// Runs that are named.
    const NAMED: usize = 8;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cell in summary.cells.iter().filter(|cell| cell.tally.volatile.is_some_and(|bytes| bytes > 0)) {
        let next = cell.first.saturating_add(cell.zones);
        match runs.last_mut() {
            Some((_, end)) if *end == cell.first => *end = next,
            _ => runs.push((cell.first, next)),
        }
    }
    let name = |(first, next): &(u32, u32)| match next - first {
        1 => first.to_string(),
        _ => format!("{first} to {}", next - 1),
    };
    let named: Vec<String> = runs.iter().take(NAMED).map(name).collect();
    let more = if runs.len() > NAMED { " and others" } else { "" };
    (!named.is_empty()).then(|| format!("volatile in zones {}{more}", named.join(", ")))
}

/// What a cell stands for where that is more than one zone.
pub(in crate::cli) fn scale(summary: &Summary) -> Option<String> {
    let run = summary.cells.first().map(|cell| cell.zones).filter(|run| *run > 1)?;
    Some(format!("one cell is {run} zones and has the state of the one that says most"))
}

/// The character of a cell where there are no colours; [`symbols`] has what each means.
pub(in crate::cli) fn symbol(tally: &Tally) -> char {
    let fill = fill(tally);
    let tenths = |first: u8| char::from(first + ((fill * 10.0) as u8).min(9));
    match telling(&tally.states) {
        State::NotWp => '=',
        State::Empty => '.',
        State::ImplicitOpen => tenths(b'a'),
        State::ExplicitOpen => tenths(b'A'),
        State::ReadOnly => 'r',
        State::Offline => 'x',
        State::Full if fill >= 1.0 => '#',
        // Some of its zones are full and some empty.
        State::Full | State::Closed => tenths(b'0'),
    }
}

/// The characters of a state.
pub(in crate::cli) fn symbols(state: State) -> &'static str {
    match state {
        State::NotWp => "=",
        State::Empty => ".",
        State::ImplicitOpen => "a-j",
        State::ExplicitOpen => "A-J",
        State::Closed => "0-9",
        State::ReadOnly => "r",
        State::Full => "#",
        State::Offline => "x",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, summary};
    use super::*;
    use crate::power::PowerStatus;

    #[test]
    fn zones_with_anything_to_lose_are_named_in_runs_and_no_more_of_them_than_can_be_read() {
        let power = || PowerStatus { state: "armed".to_owned(), at: Some("flush:3".to_owned()), volatile_bytes: 3072 };
        let named =
            |zones: &[(State, u64)], cells, from| volatile_zones(&testing::volatile(zones, cells, from, power()));
        let some =
            [(State::Closed, 512), (State::Empty, 0), (State::Full, 1024), (State::Closed, 1), (State::NotWp, 0)];
        assert_eq!(named(&some, 5, 0).as_deref(), Some("volatile in zones 0, 2 to 3"));
        assert_eq!(named(&some, 5, 1).as_deref(), Some("volatile in zones 2 to 3"));
        assert_eq!(named(&some, 2, 3).as_deref(), Some("volatile in zones 3 to 4"), "as exact as the cells are");
        assert_eq!(named(&some, 5, 4), None);
        let many: Vec<_> =
            (0..40).map(|at| if at % 2 == 0 { (State::Closed, 512) } else { (State::Empty, 0) }).collect();
        let expected = "volatile in zones 0, 2, 4, 6, 8, 10, 12, 14 and others";
        assert_eq!(named(&many, 40, 0).as_deref(), Some(expected));
        let summary = testing::volatile(&some, 5, 0, power());
        assert_eq!(super::power(&summary).as_deref(), Some("power on, to be cut at flush:3; volatile 3 KiB"));
        assert_eq!(super::power(&testing::summary(&some, 5)), None);
    }

    #[test]
    fn a_cell_shows_the_most_telling_state_of_its_zones_and_how_far_they_are_written() {
        use State::*;
        for (zones, expected) in [
            (&[(NotWp, 0)][..], '='),
            (&[(NotWp, 0), (Empty, 0)], '.'),
            (&[(Empty, 0)], '.'),
            (&[(Closed, 1)], '0'),
            (&[(Closed, 512)], '5'),
            (&[(Closed, 1023)], '9'),
            (&[(Full, 1024)], '#'),
            (&[(Full, 1024), (NotWp, 0)], '#'),
            (&[(Full, 1024), (Empty, 0)], '5'),
            (&[(Full, 1024), (Full, 1024), (Closed, 512)], '8'),
            (&[(ImplicitOpen, 0)], 'a'),
            (&[(ImplicitOpen, 1023), (Full, 1024)], 'j'),
            (&[(ExplicitOpen, 103), (Closed, 103), (ImplicitOpen, 103)], 'B'),
            (&[(ReadOnly, 0), (ExplicitOpen, 0)], 'r'),
            (&[(Offline, 0), (ReadOnly, 0)], 'x'),
        ] {
            let summary = summary(zones, 1);
            assert_eq!(symbol(&summary.cells[0].tally), expected, "{zones:?}");
            let state = telling(&summary.totals.states);
            let named = symbols(state);
            let means = |one| named.starts_with(one) || named.ends_with(one) || named.contains('-');
            assert!(means(expected) || state == Full, "'{expected}' is not of {named}");
        }
    }

    #[test]
    fn a_cell_brightens_from_the_left() {
        let brightness = |written, columns| {
            let summary = summary(&[(State::Full, written)], 1);
            let shades = shades(&summary.cells[0].tally, columns).map(|colour| colour.direct);
            shades.map(|Rgb(red, green, blue)| u32::from(red) + u32::from(green) + u32::from(blue)).collect()
        };
        let half: Vec<u32> = brightness(512, 4);
        assert!(half[0] == half[1] && half[1] > half[2] && half[2] == half[3], "{half:?}");
        let some: Vec<u32> = brightness(384, 4);
        assert!(some[0] > some[1] && some[1] > some[2], "{some:?}");
        assert!(brightness(1024, 1) > brightness(600, 1) && brightness(600, 1) > brightness(1, 1));
    }
}
