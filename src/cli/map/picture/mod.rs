//! The map as a picture for a report: SVG, or a page of HTML with it. Both stand alone, and follow the reader's choice of
//! light or dark.
//!
//! | module | subject |
//! | --- | --- |
//! | [`svg`] | the drawing |
//! | [`html`] | the page around it |

mod html;
mod svg;

pub(super) use html::page;
pub(super) use svg::picture;

use super::look::{label, present, telling};
use crate::cli::disk::written;
use crate::cli::screen::Rgb;
use crate::cli::size;
use crate::observe::summary::Cell;
use crate::units::Bytes;

/// What empty zones look like on a light page, and on a dark one.
const EMPTY: [Rgb; 2] = [Rgb(225, 228, 232), Rgb(48, 53, 60)];

/// A colour as CSS has it.
fn css(Rgb(red, green, blue): Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// A cell in words.
fn tell(cell: &Cell) -> String {
    let last = cell.first + cell.zones.saturating_sub(1);
    let state = telling(&cell.tally.states);
    let has_pointer = cell.tally.capacity > 0;
    let mut text = if cell.zones > 1 {
        let states: Vec<String> =
            present(&cell.tally).map(|(state, count)| format!("{count} {}", label(state))).collect();
        format!("zones {} to {last}: {}", cell.first, states.join(", "))
    } else {
        format!("zone {}: {}", cell.first, label(state))
    };
    if has_pointer {
        text += &format!("; {}", written(&cell.tally));
    }
    if let Some(volatile) = cell.tally.volatile.filter(|bytes| *bytes > 0) {
        text += &format!(", {} of it volatile", size::brief(Bytes(volatile)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::{disk, summary, volatile};
    use super::*;
    use crate::power::PowerStatus;
    use crate::zone::State::{self, Closed, Empty, Full, ImplicitOpen, NotWp};

    #[test]
    fn what_has_a_meaning_in_xml_is_escaped_in_names() {
        let mut disk = disk(2, 0);
        disk.name = "</title><script>\"&'".to_owned();
        let summary = summary(&[(Empty, 0), (Empty, 0)], 2);
        for text in [picture(&disk, &summary), page(&disk, &summary)] {
            assert!(text.contains("&lt;/title&gt;&lt;script&gt;&quot;&amp;&#39;"), "{text}");
            assert!(!text.contains("<script>"), "{text}");
        }
    }

    #[test]
    fn each_cell_says_its_zones_states_and_bytes() {
        let zones = [(NotWp, 0), (Closed, 512), (Full, 1024), (ImplicitOpen, 0), (Empty, 0)];
        let text = picture(&disk(5, 1), &summary(&zones, 5));
        for title in [
            "zone 0: conventional",
            "zone 1: closed; written 1 KiB of 2 KiB (50.0 %)",
            "zone 2: full; written 2 KiB of 2 KiB (100.0 %)",
            "zone 3: implicitly open; written 0 B of 2 KiB (0.0 %)",
        ] {
            assert!(text.contains(&format!("<title>{title}</title>")), "no \"{title}\" in {text}");
        }
        let text = picture(&disk(5, 1), &summary(&zones, 2));
        for title in [
            "zones 0 to 2: 1 conventional, 1 full, 1 closed; written 3 KiB of 4 KiB (75.0 %)",
            "zones 3 to 4: 1 implicitly open, 1 empty; written 0 B of 4 KiB (0.0 %)",
        ] {
            assert!(text.contains(&format!("<title>{title}</title>")), "no \"{title}\" in {text}");
        }
        assert!(text.contains("one cell is 3 zones"), "{text}");
    }

    #[test]
    fn what_a_power_cut_may_take_is_told_and_drawn_above_what_is_stable() {
        let power = PowerStatus { state: "on".to_owned(), at: None, volatile_bytes: 3072 };
        let zones = [(Closed, 512), (Closed, 512), (Full, 1024), (Empty, 0)];
        let summary = volatile(&zones, 4, 1, power);
        for text in [picture(&disk(4, 0), &summary), page(&disk(4, 0), &summary)] {
            assert!(text.contains("power on; volatile 3 KiB"), "{text}");
            assert!(text.contains("<title>zone 0: closed; written 1 KiB of 2 KiB (50.0 %)</title>"), "{text}");
            let title = "zone 2: full; written 2 KiB of 2 KiB (100.0 %), 2 KiB of it volatile";
            assert!(text.contains(&format!("<title>{title}</title>")), "{text}");
            assert_eq!(text.matches("class=\"v\"").count(), 2, "{text}");
        }
        let without = super::super::testing::summary(&zones, 4);
        assert!(!picture(&disk(4, 0), &without).contains("volatile"));
    }

    #[test]
    fn a_picture_ends_every_element_it_begins() {
        for cells in [1, 2, 65, 513, 5000] {
            let zones: Vec<_> =
                (0..cells).map(|zone| (State::ALL[zone as usize % 6], u64::from(zone) % 1024)).collect();
            let (disk, summary) = (disk(cells, 0), summary(&zones, cells));
            let text = picture(&disk, &summary);
            for element in ["svg", "g", "title", "desc", "style", "text"] {
                let begins =
                    [" ", ">"].map(|end| text.matches(&format!("<{element}{end}")).count()).iter().sum::<usize>();
                assert_eq!(begins, text.matches(&format!("</{element}>")).count(), "<{element}> with {cells} cells");
            }
            assert_eq!(text.matches("class=\"t\"").count(), cells as usize);
        }
    }
}
