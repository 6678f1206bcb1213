//! Writes the manual pages, the completions of bash, zsh and fish, and the page docs/cli.md into a folder. An example and
//! not a command, so that the daemon needs none of it: `cargo run --example pages -- FOLDER`.

mod made;

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("expected the folder to write into"))?;
    made::write(Path::new(&folder))
}
