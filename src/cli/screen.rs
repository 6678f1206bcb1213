//! Styled text for a terminal, as far as that one can show it.
//!
//! What is to be shown is made of [`Line`]s without regard to the terminal; only [`Line::render`] knows what colours it
//! has. A character is taken to be one column wide.

use std::env;
use std::fmt::Write;
use std::io::IsTerminal;

use termion::{color, style};

/// The screen. Lines are cut to `columns`; there are `rows` of them exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    /// Text only.
    None,
    /// The 256 of xterm.
    Indexed,
    /// 24 bits.
    Direct,
}

/// A colour: red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rgb(pub(super) u8, pub(super) u8, pub(super) u8);

/// A colour for either kind of terminal. The nearest of the 256 is not taken by sums: it is often of another hue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    /// Where there are 24 bits.
    pub(super) direct: Rgb,
    /// Where there are 256: one of those that are the same on all terminals, from 16 on.
    pub(super) indexed: u8,
}

/// How a piece of text looks. `None` is the terminal's own colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) text: Option<Colour>,
    pub(super) ground: Option<Colour>,
    pub(super) bold: bool,
}

/// One line of styled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pieces: Vec<(Style, String)>,
}

impl Colours {
    /// What standard output can show, as the environment says.
    pub(super) fn of_stdout() -> Self {
        Self::told(std::io::stdout().is_terminal(), |name| env::var(name).unwrap_or_default())
    }

    /// The same, with the environment's variables from `variable`; one that is not set is empty.
    fn told(terminal: bool, variable: impl Fn(&str) -> String) -> Self {
        if !terminal || !variable("NO_COLOR").is_empty() || ["", "dumb"].contains(&variable("TERM").as_str()) {
            return Self::None;
        }
        if ["truecolor", "24bit"].contains(&variable("COLORTERM").as_str()) { Self::Direct } else { Self::Indexed }
    }
}

/// The columns and rows of standard output: those of the terminal, or else of COLUMNS, or 80, and no rows.
pub(super) fn size() -> (usize, Option<usize>) {
    let columns = || env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    match termion::terminal_size() {
        Ok((columns, rows)) if std::io::stdout().is_terminal() && columns > 0 && rows > 0 => {
            (columns.into(), Some(rows.into()))
        }
        _ => (columns().unwrap_or(80), None),
    }
}

/// The lines as text, each with its end.
pub(super) fn text(lines: &[Line], colours: Colours) -> String {
    let mut text = String::new();
    for line in lines {
        line.render(colours, &mut text);
        text.push('\n');
    }
    text
}

/// `text` with nothing in it that could move the cursor or change the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one }).collect()
}

impl Rgb {
    /// Somewhere between this (0.0) and `other` (1.0).
    pub(super) fn towards(self, other: Rgb, part: f64) -> Rgb {
        let mix = |from: u8, to: u8| {
            let (from, to) = (f64::from(from), f64::from(to));
            (from + (to - from) * part.clamp(0.0, 1.0)).round() as u8
        };
        Rgb(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
}

impl Style {
    pub(super) fn text(colour: Colour) -> Self {
        Self { text: Some(colour), ..Self::default() }
    }

    pub(super) fn ground(colour: Colour) -> Self {
        Self { ground: Some(colour), ..Self::default() }
    }

    pub(super) fn bold() -> Self {
        Self { bold: true, ..Self::default() }
    }
}

impl Line {
    /// A line of plain text.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::default().with(Style::default(), text)
    }

    /// With more text behind it.
    pub(super) fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.push(style, text);
        self
    }

    /// Puts more text behind it.
    pub(super) fn push(&mut self, style: Style, text: impl Into<String>) {
        let text = text.into();
        match self.pieces.last_mut() {
            Some((last, before)) if *last == style => before.push_str(&text),
            _ => self.pieces.push((style, text)),
        }
    }

    /// Puts another line behind it.
    pub(super) fn append(&mut self, other: Line) {
        other.pieces.into_iter().for_each(|(style, text)| self.push(style, text));
    }

    /// Puts another line behind it, in bold and in these colours.
    pub(super) fn push_heading(&mut self, text: Colour, ground: Colour, other: Line) {
        let over = |style: Style| Style { text: style.text.or(Some(text)), ground: Some(ground), bold: true };
        other.pieces.into_iter().for_each(|(style, text)| self.push(over(style), text));
    }

    /// Leaves out what is beyond so many columns.
    pub(super) fn cut(&mut self, columns: usize) {
        let mut left = columns;
        for (_, text) in &mut self.pieces {
            let end = text.char_indices().nth(left).map_or(text.len(), |(at, _)| at);
            text.truncate(end);
            left = left.saturating_sub(text.chars().count());
        }
        self.pieces.retain(|(_, text)| !text.is_empty());
    }

    /// How many columns it takes.
    pub(super) fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Writes it to `out`, without a line end and without spaces at its end that show nothing.
    pub(super) fn render(&self, colours: Colours, out: &mut String) {
        let begin = out.len();
        for (style, text) in &self.pieces {
            if colours == Colours::None || *style == Style::default() {
                out.push_str(text);
                continue;
            }
            let _ = style.write(colours, out);
            out.push_str(text);
            let _ = write!(out, "{}", style::Reset);
        }
        let kept = out[begin..].trim_end_matches(' ').len();
        out.truncate(begin + kept);
    }
}

impl Style {
    fn write(&self, colours: Colours, out: &mut String) -> std::fmt::Result {
        if self.bold {
            write!(out, "{}", style::Bold)?;
        }
        let direct = |colour: Colour| color::Rgb(colour.direct.0, colour.direct.1, colour.direct.2);
        let indexed = |colour: Colour| color::AnsiValue(colour.indexed);
        let is_direct = colours == Colours::Direct;
        match self.text {
            Some(colour) if is_direct => write!(out, "{}", color::Fg(direct(colour)))?,
            Some(colour) => write!(out, "{}", color::Fg(indexed(colour)))?,
            None => {}
        }
        match self.ground {
            Some(colour) if is_direct => write!(out, "{}", color::Bg(direct(colour))),
            Some(colour) => write!(out, "{}", color::Bg(indexed(colour))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_only_to_a_terminal_that_has_them_and_was_not_told_otherwise() {
        let told = |terminal, set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(one, _)| *one == name).map(|(_, value)| *value);
            Colours::told(terminal, |name| value(name).unwrap_or_default().to_owned())
        };
        let xterm = ("TERM", "xterm-256color");
        for (terminal, set, colours) in [
            (true, &[xterm][..], Colours::Indexed),
            (true, &[xterm, ("COLORTERM", "truecolor")], Colours::Direct),
            (true, &[xterm, ("COLORTERM", "24bit")], Colours::Direct),
            (true, &[xterm, ("COLORTERM", "yes")], Colours::Indexed),
            (true, &[xterm, ("NO_COLOR", "")], Colours::Indexed),
            (true, &[xterm, ("NO_COLOR", "1"), ("COLORTERM", "truecolor")], Colours::None),
            (true, &[("TERM", "dumb"), ("COLORTERM", "truecolor")], Colours::None),
            (true, &[], Colours::None),
            (false, &[xterm, ("COLORTERM", "truecolor")], Colours::None),
        ] {
            assert_eq!(told(terminal, set), colours, "terminal: {terminal}, {set:?}");
        }
    }

    #[test]
    fn a_line_without_colours_is_its_text() {
        let red = Colour { direct: Rgb(255, 0, 0), indexed: 196 };
        let line = Line::plain("a ").with(Style::ground(red), "b ").with(Style::bold(), "  ");
        let shown = |colours| {
            let mut out = String::from("before ");
            line.render(colours, &mut out);
            out
        };
        assert_eq!(shown(Colours::None), "before a b");
        assert_eq!(shown(Colours::Indexed), "before a \x1b[48;5;196mb \x1b[m\x1b[1m  \x1b[m");
        assert_eq!(shown(Colours::Direct), "before a \x1b[48;2;255;0;0mb \x1b[m\x1b[1m  \x1b[m");
        assert_eq!(line.width(), 6);
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        let line = Line::plain("ab\u{e9}").with(Style::bold(), "cd").with(Style::default(), "ef");
        for (columns, text) in
            [(0, ""), (2, "ab"), (3, "ab\u{e9}"), (4, "ab\u{e9}c"), (6, "ab\u{e9}cde"), (9, "ab\u{e9}cdef")]
        {
            let mut cut = line.clone();
            cut.cut(columns);
            assert_eq!(super::text(&[cut], Colours::None), format!("{text}\n"));
        }
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n\u{9b}c é"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c é");
    }
}
