//! The completions of bash, zsh and fish, made from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use vhost_user_zbd::cli;

use super::commands::NAME;

/// Writes the completions of each shell into `folder`, under the name that the shell looks for.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    for (shell, name) in
        [(Shell::Bash, format!("{NAME}.bash")), (Shell::Zsh, format!("_{NAME}")), (Shell::Fish, format!("{NAME}.fish"))]
    {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), NAME, &mut script);
        let script = String::from_utf8(script).map_err(io::Error::other)?;
        fs::write(folder.join(name), with_one_spelling(&script))?;
    }
    Ok(())
}

/// The script with the program's name spelt in one way. The library spells a dash of that name as `__` where bash notes
/// which command it has read, and as `__subcmd__` where it looks for what that command takes, and finds nothing then:
/// <https://github.com/clap-rs/clap/issues/6421>.
fn with_one_spelling(script: &str) -> String {
    script.replace(&NAME.replace('-', "__subcmd__"), &NAME.replace('-', "__"))
}
