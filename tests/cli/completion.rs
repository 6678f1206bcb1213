//! Completions, asked from the shells themselves: bash, zsh and fish each load what is installed for them and are asked
//! what may follow a command line. A shell that is not installed fails the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use vhost_user_zbd::cli;

use crate::common::cli::run_command;
use crate::made;

const PRESETS: [&str; 7] = ["zns", "smr", "btrfs-small", "xfs", "zonefs", "short-last", "tight"];

#[derive(Clone, Copy, Debug)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Calls what bash calls for a command line, as bash(1) says under "Programmable Completion".
const ASK_BASH: &str = r#"
source "$1/vhost-user-zbd.bash"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
function=$(complete -p vhost-user-zbd | sed 's/.*-F \([^ ]*\).*/\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What the zsh of [`ASK_ZSH`] reads first. Whatever would be added to its list is noted in a file.
const SET_UP_ZSH: &str = r#"
PS1=
fpath=(${0:h} $fpath) hits=${0:h}/hits
autoload -Uz compinit
compinit -u -D
compadd() {
    if [[ "$*" != *-[OAD]\ * ]]; then
        local -a matching
        builtin compadd -O matching "$@"
        print -rl -- $matching >>$hits
    fi
    builtin compadd "$@"
}
ask() {
    zle list-choices
    print DONE
}
zle -N ask
bindkey '^I' ask
print READY
"#;

/// Runs a zsh on a terminal of its own and has it complete a line there.
const ASK_ZSH: &str = r#"
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner "source $1/set-up.zsh"
zpty -r inner line $'*READY\r*'
zpty -w -n inner "${(j: :)@[2,-1]}"$'\t'
zpty -r inner line $'*DONE\r*'
cat $1/hits
"#;

impl Shell {
    const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    /// What may take the place of the last of `words`.
    #[track_caller]
    fn complete(self, pages: &Path, words: &[&str]) -> BTreeSet<String> {
        let mut command = match self {
            Self::Bash => Command::new("bash"),
            Self::Zsh => Command::new("zsh"),
            Self::Fish => Command::new("fish"),
        };
        match self {
            Self::Bash => command.args(["--norc", "-c", ASK_BASH, "bash"]).arg(pages).args(words),
            Self::Zsh => {
                fs::write(pages.join("hits"), "").expect("a file");
                command.args(["-f", "-c", ASK_ZSH, "zsh"]).arg(pages).args(words)
            }
            Self::Fish => {
                let ask = format!("source {}/vhost-user-zbd.fish; complete -C $argv[1]", pages.display());
                command.args(["--no-config", "-c", &ask, "--", &words.join(" ")])
            }
        };
        // A shell's own files and what it notes of its use stay out of the way.
        command.current_dir(pages).env("HOME", pages).env("TERM", "dumb").env_remove("XDG_CONFIG_HOME");
        let run = run_command(&mut command);
        assert!(run.status.success(), "{self:?} {words:?}: {run:?}");
        let lines = run.stdout.lines();
        match self {
            Self::Bash | Self::Zsh => lines.map(str::to_owned).collect(),
            Self::Fish => lines.map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect(),
        }
    }
}

fn pages() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    made::write(folder.path()).expect("the completions");
    fs::write(folder.path().join("set-up.zsh"), SET_UP_ZSH).expect("a file");
    folder
}

/// The long options of a command that its help shows.
fn options(command: &clap::Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    shown.filter_map(|argument| Some(format!("--{}", argument.get_long()?))).chain(["--help".to_owned()]).collect()
}

#[test]
fn every_shell_completes_every_command_and_its_options() {
    let (pages, program) = (pages(), cli::command());
    for shell in Shell::ALL {
        let first = shell.complete(pages.path(), &["vhost-user-zbd", ""]);
        for command in program.get_subcommands() {
            let name = command.get_name();
            assert!(first.contains(name), "{shell:?}: no {name} in {first:?}");
            let after = shell.complete(pages.path(), &["vhost-user-zbd", name, "--"]);
            let expected: BTreeSet<String> = options(command).into_iter().collect();
            assert_eq!(after, expected, "{shell:?}: {name} --");
        }
    }
}

#[test]
fn every_shell_completes_orders_and_their_options() {
    let (pages, program) = (pages(), cli::command());
    let ctl = program.find_subcommand("ctl").expect("ctl");
    for shell in Shell::ALL {
        let orders = shell.complete(pages.path(), &["vhost-user-zbd", "ctl", "disk.ctl", ""]);
        for order in ctl.get_subcommands() {
            let name = order.get_name();
            assert!(orders.contains(name), "{shell:?}: no {name} in {orders:?}");
            let after = shell.complete(pages.path(), &["vhost-user-zbd", "ctl", "disk.ctl", name, "--"]);
            for option in options(order) {
                assert!(after.contains(&option), "{shell:?}: no {option} behind {name}: {after:?}");
            }
        }
    }
}

#[test]
fn every_shell_completes_values_that_are_from_a_list() {
    let pages = pages();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["create", "--preset", ""], &PRESETS),
        (&["create", "--for", ""], &["btrfs", "f2fs", "xfs", "zonefs", "zenfs", "dm-zoned"]),
        (&["create", "--table-endian", ""], &["big", "little"]),
        (&["serve", "--cache", ""], &["writeback", "none", "writethrough"]),
        (&["serve", "--block-size", ""], &["512", "4096"]),
        (&["serve", "--aio", "io"], &["io_uring"]),
        (&["trace", "--kind", "re"], &["read", "report", "reset", "reset-all"]),
        (&["trace", "--rule", "zone-s"], &["zone-state", "zone-start"]),
    ];
    for shell in Shell::ALL {
        for (words, expected) in cases {
            let completed = shell.complete(pages.path(), &[&["vhost-user-zbd"], words].concat());
            for value in expected {
                assert!(completed.contains(*value), "{shell:?}: no {value} for {words:?}: {completed:?}");
            }
        }
    }
}
