//! The colours of `top`. A terminal may be dark or light, and does not say which: text is readable on both.

use crate::cli::screen::{Colour, Rgb};

pub(super) const HEADING: Colour = Colour { direct: Rgb(44, 50, 60), indexed: 236 };
pub(super) const HEADING_TEXT: Colour = Colour { direct: Rgb(228, 231, 236), indexed: 254 };
/// What is not filled of a bar.
pub(super) const TRACK: Colour = Colour { direct: Rgb(128, 132, 140), indexed: 244 };
pub(super) const GOOD: Colour = Colour { direct: Rgb(0, 140, 100), indexed: 29 };
pub(super) const CLOSE: Colour = Colour { direct: Rgb(186, 106, 0), indexed: 130 };
pub(super) const BAD: Colour = Colour { direct: Rgb(220, 50, 30), indexed: 160 };
pub(super) const DATA: Colour = Colour { direct: Rgb(66, 133, 224), indexed: 32 };

#[cfg(test)]
mod tests {
    use super::*;

    /// The colour behind a number of the 256, from 16 on: a cube of six levels, and 24 greys.
    fn of_index(index: u8) -> Rgb {
        let level = |one: u8| if one == 0 { 0 } else { 55 + 40 * one };
        match index {
            232.. => Rgb(8 + 10 * (index - 232), 8 + 10 * (index - 232), 8 + 10 * (index - 232)),
            _ => Rgb(level((index - 16) / 36), level((index - 16) / 6 % 6), level((index - 16) % 6)),
        }
    }

    /// The contrast of two colours as WCAG 2 has it, from 1 to 21.
    fn contrast(one: Rgb, other: Rgb) -> f64 {
        let linear = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = |Rgb(red, green, blue)| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        if one > other { one / other } else { other / one }
    }

    #[test]
    fn text_is_readable_on_dark_and_on_light_terminals() {
        let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
        for colour in [GOOD, CLOSE, BAD, DATA, TRACK] {
            for shown in [colour.direct, of_index(colour.indexed)] {
                for ground in [black, white] {
                    let contrast = contrast(shown, ground);
                    assert!(contrast >= 3.0, "{shown:?} of {colour:?} on {ground:?}: {contrast:.1}");
                }
            }
        }
        assert!(contrast(HEADING_TEXT.direct, HEADING.direct) >= 7.0);
        assert!(contrast(of_index(HEADING_TEXT.indexed), of_index(HEADING.indexed)) >= 7.0);
    }
}
