//! The manual pages: of the program, of each command, and of the file of a service's settings.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap_mangen::Man;

use super::commands::{Documented, NAME, arguments, commands, conf, program};
use super::text::{Block, Part, Text};

/// Writes the pages into `folder`.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let (program, commands) = (program(), commands().map_err(io::Error::other)?);
    let title = |command: &clap::Command| format!("{NAME}-{}", command.get_name());
    let of_conf = format!("{NAME}.conf");
    let mut others: Vec<_> = commands.iter().map(|one| (title(&one.command), 1)).collect();
    others.push((of_conf.clone(), 5));
    page(folder, NAME, program, &others)?;
    for Documented { command, text } in commands {
        // The page's name; its synopsis says the program and the command. The library keeps names for ever.
        let name: &'static str = title(&command).leak();
        let bin_name = format!("{NAME} {}", command.get_name());
        let command = command.name(name).bin_name(bin_name);
        page(folder, name, Documented { command, text }, &[(NAME.to_owned(), 1)])?;
    }
    let see = [(NAME.to_owned(), 1), (format!("{NAME}-serve"), 1), ("systemd.exec".to_owned(), 5)];
    fs::write(folder.join(format!("{of_conf}.5")), conf_page(&of_conf, &conf(), &see))
}

/// The page of a command: what the library makes of its definition, and the parts of its text.
fn page(folder: &Path, title: &str, of: Documented, see: &[(String, u8)]) -> io::Result<()> {
    let Documented { command, text } = of;
    let mut page = Vec::new();
    let orders = orders(&command);
    let man = Man::new(command).title(title).source(source());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let mut parts = text.parts.iter();
    if let Some(description) = parts.next() {
        write!(page, ".SH DESCRIPTION\n{}", body(description))?;
    }
    man.render_options_section(&mut page)?;
    if title == NAME {
        man.render_subcommands_section(&mut page)?;
    }
    write!(page, "{orders}{}{}", parts.map(section).collect::<String>(), see_also(see))?;
    fs::write(folder.join(format!("{title}.1")), page)
}

fn conf_page(title: &str, text: &Text, see: &[(String, u8)]) -> String {
    let mut page = format!(".TH {} 5 \"\" \"{}\"\n", escape(title), source());
    page += &format!(".SH NAME\n{} \\- settings of a zoned disk that is served as a service\n", escape(title));
    page += ".SH SYNOPSIS\n/etc/vhost\\-user\\-zbd/\\fINAME\\fR.conf\n";
    for part in &text.parts {
        page += &match part.heading {
            None => format!(".SH DESCRIPTION\n{}", body(part)),
            Some(_) => section(part),
        };
    }
    page + &see_also(see)
}

fn source() -> String {
    format!("{NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// What a command that takes orders can be told, with what each takes: they have no pages of their own.
fn orders(command: &clap::Command) -> String {
    if !command.get_name().ends_with("ctl") {
        return String::new();
    }
    let order = |order: &clap::Command| {
        let own = arguments(order).into_iter().filter(|argument| !argument.is_global_set());
        let own = own
            .map(|argument| if argument.is_positional() { format!(" {argument}") } else { format!(" [{argument}]") });
        let about = order.get_about().map(ToString::to_string).unwrap_or_default();
        format!(".TP\n\\fB{}\\fR{}\n{}\n", escape(order.get_name()), escape(&own.collect::<String>()), escape(&about))
    };
    format!(".SH ORDERS\n{}", command.get_subcommands().map(order).collect::<String>())
}

fn see_also(pages: &[(String, u8)]) -> String {
    let pages: Vec<String> =
        pages.iter().map(|(title, section)| format!("\\fB{}\\fR({section})", escape(title))).collect();
    format!(".SH SEE ALSO\n{}\n", pages.join(", "))
}

fn section(part: &Part) -> String {
    let heading = part.heading.as_deref().unwrap_or_default().to_uppercase();
    format!(".SH {}\n{}", escape(&heading), body(part))
}

fn body(part: &Part) -> String {
    part.blocks.iter().map(block).collect()
}

fn block(block: &Block) -> String {
    match block {
        Block::Paragraph(text) => format!(".PP\n{}\n", inline(text)),
        Block::Items(items) => items.iter().map(|text| item(text)).collect(),
        Block::Literal(lines) => {
            let lines: Vec<String> = lines.iter().map(|line| escape(line)).collect();
            format!(".PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", lines.join("\n"))
        }
    }
}

/// An item that begins with literal words and a colon says what these mean.
fn item(text: &str) -> String {
    match text.split_once("`: ") {
        Some((term, meaning)) => format!(".TP\n{}\n{}\n", inline(&format!("{term}`")), inline(meaning)),
        None => format!(".IP \\(bu 2\n{}\n", inline(text)),
    }
}

/// Text with its literal words in bold, and links as their words.
fn inline(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    let styled = pieces.map(|(at, piece)| match at % 2 {
        0 => escape(&without_links(piece)),
        _ => format!("\\fB{}\\fR", escape(piece)),
    });
    let styled: String = styled.collect();
    // A control line would begin so.
    if styled.starts_with(['.', '\'']) { format!("\\&{styled}") } else { styled }
}

fn without_links(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, (words, behind))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, link.split_once("](")?)))
    {
        plain += before;
        plain += words;
        rest = behind.split_once(')').map_or("", |(_, behind)| behind);
    }
    plain + rest
}

/// Text in which nothing commands the formatter.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
