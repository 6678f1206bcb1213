//! What a shell in a guest does for a workload, and what it lists afterwards. Coreutils are enough.
//!
//! Each block that is written is 256 lines of 16 bytes, which name the operation and the block; so a file's content is a few lines for
//! `uniq`, and says who wrote each.

use std::fmt::Write as _;

use super::model::Writer;
use super::{BLOCK, FileSystem, Operation, Workload};

/// The line that a block is made of.
pub fn line(writer: Writer, block: u64) -> String {
    format!("op {writer:02} block {block:03}")
}

/// Which operation and block a line names.
pub fn named(text: &str) -> Option<(Writer, u64)> {
    let (writer, block) = text.strip_prefix("op ")?.split_once(" block ")?;
    let (writer, block) = (writer.parse().ok()?, block.parse().ok()?);
    (line(writer, block) == text).then_some((writer, block))
}

/// A shell script that prepares the folder `$1` and does the workload there. The mark disk `$2` gets "begin" when it is prepared, and "N
/// done" when operation N, which makes things stable, has returned.
pub fn script(workload: &Workload) -> String {
    let mut text = String::from(
        "set -e\n\
         cd \"$1\"\n\
         marks=$2\n\
         mark() { printf '%s' \"$1\" | dd of=\"$marks\" bs=512 conv=sync,notrunc oflag=direct status=none; }\n\
         # put FILE BLOCK OPERATION COUNT: writes so many blocks from that one on.\n\
         put() {\n    file=$1 first=$2 operation=$3 count=$4\n    block=$first\n    \
         while [ \"$block\" -lt $((first + count)) ]; do\n        \
         yes \"$(printf 'op %02d block %03d' \"$operation\" \"$block\")\" | head -c 4096\n        \
         block=$((block + 1))\n    \
         done >/tmp/put\n",
    );
    text.push_str(match workload.fs {
        // The pages of sequential files are not written from.
        FileSystem::Zonefs => {
            "    dd if=/tmp/put of=\"$file\" bs=4096 seek=\"$first\" conv=notrunc oflag=direct status=none\n}\n"
        }
        _ => "    dd if=/tmp/put of=\"$file\" bs=4096 seek=\"$first\" conv=notrunc status=none\n}\n",
    });
    let first = if workload.fs == FileSystem::Zonefs { "seq/0" } else { "A" };
    let _ = writeln!(text, "put {first} 0 0 2\nsync {first}\nsync\nmark begin");
    for (at, operation) in workload.operations.iter().enumerate() {
        let number = at + 1;
        let _ = match operation {
            Operation::Create(name) => writeln!(text, ": >{name}"),
            Operation::Write(name, place, len) => {
                writeln!(text, "put {name} {} {number} {}", place / BLOCK, len / BLOCK)
            }
            Operation::Append(name, len) => {
                writeln!(text, "put {name} $(($(stat -c %s {name}) / {BLOCK})) {number} {}", len / BLOCK)
            }
            Operation::Truncate(name, size) => writeln!(text, "truncate -s {size} {name}"),
            Operation::Finish(name) => writeln!(text, "truncate -s $(($(stat -c '%b * %B' {name}))) {name}"),
            Operation::Rename(from, to) => writeln!(text, "mv -f {from} {to}"),
            Operation::Link(from, to) => writeln!(text, "ln {from} {to}"),
            Operation::Unlink(name) => writeln!(text, "rm {name}"),
            Operation::Fsync(name) => writeln!(text, "sync {name}"),
            Operation::Fdatasync(name) => writeln!(text, "sync -d {name}"),
            Operation::Sync => writeln!(text, "sync"),
        };
        if operation.persists() {
            let _ = writeln!(text, "mark '{number} done'");
        }
    }
    text
}

/// A shell script that lists the folder `$1`, for [`found`](super::found).
pub fn lister(fs: FileSystem) -> &'static str {
    match fs {
        FileSystem::Zonefs => {
            "set -e\n\
             cd \"$1\"\n\
             for file in seq/0 seq/1 cnv/0; do\n    \
             stat -c 'file %n %s' $file\n    \
             tr '\\0' '\\n' <$file | uniq -c\n\
             done\n"
        }
        _ => {
            "set -e\n\
             cd \"$1\"\n\
             for file in *; do\n    \
             [ -e \"$file\" ] || continue\n    \
             stat -c 'file %n %s' \"$file\"\n    \
             [ -d \"$file\" ] || tr '\\0' '\\n' <\"$file\" | uniq -c\n\
             done\n"
        }
    }
}
