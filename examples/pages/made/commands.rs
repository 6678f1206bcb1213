//! What there is to document: the commands with their definitions and texts.

use vhost_user_zbd::cli;

use super::text::Text;

/// The program, as shells and manual pages know it.
pub(crate) const NAME: &str = "vhost-user-zbd";

const CONF: &str = include_str!("../../../packaging/manual/conf.md");
const PROGRAM: &str = include_str!("../../../packaging/manual/program.md");
const COMMANDS: &[(&str, &str)] = &[
    ("create", include_str!("../../../packaging/manual/create.md")),
    ("serve", include_str!("../../../packaging/manual/serve.md")),
    ("info", include_str!("../../../packaging/manual/info.md")),
    ("report", include_str!("../../../packaging/manual/report.md")),
    ("map", include_str!("../../../packaging/manual/map.md")),
    ("top", include_str!("../../../packaging/manual/top.md")),
    ("ctl", include_str!("../../../packaging/manual/ctl.md")),
    ("trace", include_str!("../../../packaging/manual/trace.md")),
    ("replay", include_str!("../../../packaging/manual/replay.md")),
    ("explore", include_str!("../../../packaging/manual/explore.md")),
    ("workload", include_str!("../../../packaging/manual/workload.md")),
    ("convert", include_str!("../../../packaging/manual/convert.md")),
    ("check", include_str!("../../../packaging/manual/check.md")),
    ("diff", include_str!("../../../packaging/manual/diff.md")),
    ("fork", include_str!("../../../packaging/manual/fork.md")),
    ("rebase", include_str!("../../../packaging/manual/rebase.md")),
    ("commit", include_str!("../../../packaging/manual/commit.md")),
    ("resize", include_str!("../../../packaging/manual/resize.md")),
];

/// What the example of a conf file sets.
const CONF_EXAMPLE: &str = "IMAGE=/var/lib/vhost-user-zbd/data.qcow2\n\
                            OPTIONS=--num-queues 4 --serial data --create preset=smr\n\
                            RUST_LOG=info\n";

/// A command, or the program as a whole.
pub(crate) struct Documented {
    pub(crate) command: clap::Command,
    pub(crate) text: Text,
}

/// The program as a whole.
pub(crate) fn program() -> Documented {
    let mut command = cli::command().disable_help_subcommand(true);
    command.build();
    Documented { command, text: Text::parse(PROGRAM, &[]) }
}

/// The commands, in the order of the program's help; a command without a text is an error.
pub(crate) fn commands() -> Result<Vec<Documented>, String> {
    let made = [("presets", cli::presets()), ("options", cli::create_options())];
    let with_text = |command: &clap::Command| {
        let text = COMMANDS.iter().find(|(name, _)| *name == command.get_name());
        let (_, text) = text.ok_or_else(|| format!("packaging/manual has no text for {}", command.get_name()))?;
        Ok(Documented { command: command.clone(), text: Text::parse(text, &made) })
    };
    program().command.get_subcommands().map(with_text).collect()
}

/// The file of a service's settings.
pub(crate) fn conf() -> Text {
    Text::parse(CONF, &[("conf", CONF_EXAMPLE.to_owned())])
}

/// The arguments of a command that are shown, the positional ones first.
pub(crate) fn arguments(command: &clap::Command) -> Vec<&clap::Arg> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help");
    let (positional, options): (Vec<_>, Vec<_>) = shown.partition(|argument| argument.is_positional());
    positional.into_iter().chain(options).collect()
}
