//! What is made of the definition of the command line and the texts in packaging/manual.
//!
//! | module | subject |
//! | --- | --- |
//! | [`commands`] | what there is to document |
//! | [`text`] | how the texts are written |
//! | [`manual`] | the manual pages |
//! | [`reference`] | docs/cli.md |
//! | [`completions`] | what shells complete |

mod commands;
mod completions;
mod manual;
mod reference;
mod text;

use std::fs;
use std::io;
use std::path::Path;

/// Writes all of it into `folder`: manual pages, completions, and cli.md.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    manual::write(folder)?;
    completions::write(folder)?;
    fs::write(folder.join("cli.md"), reference::page()?)
}
