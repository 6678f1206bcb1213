//! The list of the files that a crash has left, as the script of [`script`](super::script) prints it: of each a line with name and size, then one for
//! each run of equal lines in it, an empty one for each byte that is zero.

use std::collections::BTreeMap;

use super::BLOCK;
use super::model::Writer;
use super::script::named;

/// Lines of a block.
const LINES: u64 = BLOCK / 16;

/// What a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Zeros.
    Zeros,
    /// What that operation wrote, to that block of a file.
    Written(Writer, u64),
    /// Anything else.
    Other,
}

/// A file as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In bytes.
    pub size: u64,
    /// What each block has.
    pub blocks: Vec<Held>,
}

/// Reads a list. Returns the files by their names, or the line that does not belong there.
pub fn read(text: &str) -> Result<BTreeMap<String, Found>, String> {
    let mut files: BTreeMap<String, Found> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        let wrong = || format!("'{line}' is no line of a list of files: expected 'file NAME SIZE' or 'COUNT TEXT'");
        if let Some((name, size)) = line.strip_prefix("file ").and_then(|rest| rest.rsplit_once(' ')) {
            let size = size.parse().map_err(|_| wrong())?;
            files.insert(name.to_owned(), Found { size, blocks: Vec::new() });
            last = Some(name.to_owned());
            continue;
        }
        let (count, text) = line.trim_start().split_once(' ').unwrap_or((line.trim(), ""));
        let count: u64 = count.parse().map_err(|_| wrong())?;
        let file = last.as_ref().and_then(|name| files.get_mut(name)).ok_or_else(wrong)?;
        let (held, len) = match (text, named(text)) {
            ("", _) if count.is_multiple_of(BLOCK) => (Held::Zeros, count / BLOCK),
            (_, Some((writer, block))) if count == LINES => (Held::Written(writer, block), 1),
            _ => (Held::Other, 1),
        };
        // No file of these is as long as a list may say.
        let room = (file.size / BLOCK).saturating_sub(file.blocks.len() as u64);
        file.blocks.extend((0..len.min(room)).map(|_| held));
    }
    Ok(files)
}
