//! docs/cli.md: the reference of all commands as one page.

use std::io;

use super::commands::{Documented, arguments, commands, conf, program};
use super::text::{Block, Part, Text};

/// Columns of a line of prose.
const WIDTH: usize = 120;

/// The page.
pub(crate) fn page() -> io::Result<String> {
    let (program, commands) = (program(), commands().map_err(io::Error::other)?);
    let mut page = "# Command line\n\n".to_owned();
    page += &fill(
        "This page and the manual pages are made of the program's own definition and the texts in packaging/manual, by \
         `cargo run --example pages -- FOLDER`.",
        "",
    );
    page += "\n| command | |\n| --- | --- |\n";
    for Documented { command, .. } in &commands {
        let (name, about) = (command.get_name(), about(command));
        page += &format!("| [{name}](#{name}) | {about} |\n");
    }
    page += "\n## The program\n";
    page += &parts(&program.text, |_| String::new());
    for Documented { command, text } in &commands {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").replace(['<', '>'], "");
        page += &format!("\n## {}\n\n    {usage}\n", command.get_name());
        page += &parts(text, |_| options(command) + &orders(command));
    }
    page += "\n## The file of a service's settings\n";
    page += &parts(&conf(), |_| String::new());
    Ok(page)
}

fn about(command: &clap::Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// A text with `behind` the first of its parts.
fn parts(text: &Text, behind: impl Fn(&Part) -> String) -> String {
    let mut all = String::new();
    for part in &text.parts {
        if let Some(heading) = &part.heading {
            all += &format!("\n### {heading}\n");
        }
        all += &part.blocks.iter().map(block).collect::<String>();
        if part.heading.is_none() {
            all += &behind(part);
        }
    }
    all
}

fn block(block: &Block) -> String {
    match block {
        Block::Paragraph(text) => format!("\n{}", fill(text, "")),
        Block::Items(items) => {
            format!("\n{}", items.iter().map(|item| fill(&format!("* {item}"), "  ")).collect::<String>())
        }
        Block::Literal(lines) => {
            let line = |line: &String| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") };
            format!("\n{}", lines.iter().map(line).collect::<String>())
        }
    }
}

fn options(command: &clap::Command) -> String {
    let mut table = "\n### Options\n\n| option | |\n| --- | --- |\n".to_owned();
    for argument in arguments(command) {
        table += &format!("| {} | {} |\n", names(argument), meaning(argument));
    }
    table
}

/// The names of an option and of what it takes.
fn names(argument: &clap::Arg) -> String {
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut names: Vec<String> = short.into_iter().chain(long).collect();
    let values = argument.get_value_names().filter(|_| argument.get_action().takes_values());
    let value: Vec<&str> = values.unwrap_or_default().iter().map(|name| name.as_str()).collect();
    match (names.last_mut(), value.join(" ")) {
        (None, value) => names.push(value),
        (Some(_), value) if value.is_empty() => {}
        (Some(last), value) if argument.is_require_equals_set() => *last += &format!("[={value}]"),
        (Some(last), value) => *last += &format!(" {value}"),
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What an option is for, what it may be, and what it is when it is not given.
fn meaning(argument: &clap::Arg) -> String {
    let mut meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let ends = if meaning.ends_with('.') { "" } else { "." };
    meaning += ends;
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| argument.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        meaning += &format!(" One of {}.", values.join(", "));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = defaults.join(" ");
    if !default.is_empty() && argument.get_action().takes_values() && !argument.is_hide_default_value_set() {
        meaning += &format!(" Default: `{default}`.");
    }
    meaning.replace('|', "\\|")
}

/// The orders of a command that takes some.
fn orders(command: &clap::Command) -> String {
    let orders: Vec<_> = command.get_subcommands().collect();
    if orders.is_empty() {
        return String::new();
    }
    let mut table = "\n### Orders\n\n| order | |\n| --- | --- |\n".to_owned();
    for order in orders {
        let own = arguments(order).into_iter().filter(|argument| !argument.is_global_set());
        let own: String = own.map(|argument| format!(" [{}]", names(argument).replace('`', ""))).collect();
        table += &format!("| `{}{own}` | {} |\n", order.get_name(), about(order));
    }
    table
}

/// Lines of text, all but the first set in.
fn fill(text: &str, indent: &str) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(format!("{indent}{word}"));
        }
    }
    lines.join("\n") + "\n"
}
