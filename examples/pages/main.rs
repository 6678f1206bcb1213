//! Writes the manual pages and the completions of bash, zsh and fish, made from the definition of the command line, into
//! a folder. An example and not a command, so that the daemon needs none of it: `cargo run --example pages -- FOLDER`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap_mangen::Man;
use vhost_user_zbd::cli;

mod completions;

const NAME: &str = "vhost-user-zbd";

/// What the definition of the command line does not say.
const MAIN_PAGE: &str = r#".SH FILES
.TP
/etc/vhost\-user\-zbd/NAME.conf
The image (IMAGE=) and the options of serve (OPTIONS=) of the service vhost\-user\-zbd@NAME.service; may be absent.
.TP
/var/lib/vhost\-user\-zbd/NAME.qcow2
The image of that service where its file names none.
.TP
/run/vhost\-user\-zbd/NAME.sock
The socket of that service, made by vhost\-user\-zbd@NAME.socket.
.TP
/run/vhost\-user\-zbd/NAME/control
Its control socket, for root and the service's user: see vhost\-user\-zbd\-ctl(1).
.SH ENVIRONMENT
.TP
RUST_LOG
How much serve logs: error, warn, info (the default), debug or trace.
.TP
NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, JOURNAL_STREAM
Of the service manager: see sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.exec(5).
.SH EXIT STATUS
0 for success, 1 for failure; check has more.
"#;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("expected the folder to write into"))?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let mut command = cli::command().disable_help_subcommand(true);
    command.build();
    let others: Vec<String> = command.get_subcommands().map(|sub| format!("{NAME}-{}", sub.get_name())).collect();
    page(folder, NAME, command.clone(), MAIN_PAGE, &others)?;
    for (sub, title) in command.get_subcommands().zip(&others) {
        // The page's name; its synopsis says the program and the command. The library keeps names for ever.
        let name: &'static str = title.clone().leak();
        let orders = orders(sub);
        let sub = sub.clone().name(name).bin_name(format!("{NAME} {}", sub.get_name()));
        page(folder, title, sub, &orders, &[NAME.to_owned()])?;
    }
    completions::write(folder)
}

/// What a command that takes orders can be told, with what each takes: they have no pages of their own.
fn orders(command: &clap::Command) -> String {
    let mut section = String::new();
    for order in command.get_subcommands() {
        let own = order.get_arguments().filter(|argument| !argument.is_global_set());
        let own = own.filter(|argument| argument.get_id() != "help" && argument.get_id() != "json");
        let shown: Vec<String> = own
            .map(|argument| if argument.is_positional() { format!(" {argument}") } else { format!(" [{argument}]") })
            .collect();
        let about = order.get_about().map(ToString::to_string).unwrap_or_default();
        let line = format!(r"\fB{}\fR{}", order.get_name(), shown.concat()).replace('-', r"\-");
        section += &format!(".TP\n{line}\n{about}\n");
    }
    if section.is_empty() { section } else { format!(".SH ORDERS\n{section}") }
}

fn page(folder: &Path, title: &str, command: clap::Command, more: &str, see: &[String]) -> io::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command).title(title).source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if title == NAME {
        man.render_subcommands_section(&mut page)?;
    }
    let see: Vec<String> = see.iter().map(|title| format!("{}(1)", title.replace('-', r"\-"))).collect();
    write!(page, "{more}.SH SEE ALSO\n{}\n", see.join(", "))?;
    fs::write(folder.join(format!("{title}.1")), page)
}
