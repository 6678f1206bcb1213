"""What is shown in the documentation: its blocks, their commands, what they print.

A block is lines behind four blanks, or between fences. It is one of
  guest session   its first line begins with "# ": a command in a guest; other lines are what the command prints
  host session    its first line begins with "$ ": the same on the host
  xml             its first line begins with "<"
  commands        each line is a command on the host, and nothing of what it prints is shown; a blank line ends the block
A command goes on behind a backslash at the end of its line, and one of the last kind on lines that are set in. In what is printed a line "..." stands for any lines, and "..."
inside a line for any text.
"""
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass
class Command:
    """A command, the line it stands in (from 1), and the lines that are shown behind it."""

    text: str
    line: int
    printed: list = field(default_factory=list)

    def words(self):
        """Its words, without the assignments before it and what is behind a comment sign."""
        words = shlex.split(self.text, comments=True)
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        return words


@dataclass
class Block:
    """A block: its kind, its lines as they stand, its commands where it has some."""

    kind: str
    line: int
    lines: list
    commands: list


def raw_blocks(text):
    """Pairs of the first line's number and the block's lines."""
    blocks, block, fenced = [], None, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            block = (number + 1, []) if fenced else None
            if fenced:
                blocks.append(block)
        elif fenced:
            block[1].append(line)
        elif line.startswith("    "):
            if block is None:
                block = (number, [])
                blocks.append(block)
            block[1].append(line[4:])
        elif not line.strip() and block:
            block[1].append("")
        else:
            block = None
    for _, lines in blocks:
        while lines and not lines[-1]:
            lines.pop()
    return [block for block in blocks if block[1]]


def commands_of(lines, first, prompt):
    """The commands of a block's lines; `prompt` is what each begins with, or nothing: then every line is one."""
    commands, open_command = [], False
    for number, line in enumerate(lines, first):
        if open_command:
            commands[-1].text += " " + line.strip()
        elif not prompt and line.startswith(" ") and commands:
            commands[-1].text += " " + line.strip()
            continue
        elif line.startswith(prompt) and line.strip():
            commands.append(Command(line[len(prompt):], number))
        elif prompt:
            commands[-1].printed.append(line)
            continue
        else:
            continue
        open_command = commands[-1].text.endswith("\\")
        if open_command:
            commands[-1].text = commands[-1].text[:-1].rstrip()
    return commands


def blocks(path):
    """The blocks of a page."""
    found = []
    for line, lines in raw_blocks(Path(path).read_text()):
        if lines[0].startswith("# "):
            found.append(Block("guest", line, lines, commands_of(lines, line, "# ")))
        elif lines[0].startswith("$ "):
            found.append(Block("host", line, lines, commands_of(lines, line, "$ ")))
        elif lines[0].startswith("<"):
            found.append(Block("xml", line, lines, []))
        else:
            for first, part in split_at_blanks(line, lines):
                found.append(Block("commands", first, part, commands_of(part, first, "")))
    return found


def split_at_blanks(first, lines):
    """Pairs of a part's first line's number and its lines."""
    parts, part = [], []
    for number, line in enumerate(lines + [""], first):
        if line:
            part.append(line)
        elif part:
            parts.append((number - len(part), part))
            part = []
    return parts


def session(commands):
    """A session as it is compared: each command on one line behind "# ", and what it prints."""
    lines = []
    for command in commands:
        lines += ["# " + command.text] + command.printed
    return lines


def line_pattern(line):
    """The expression for a line that is shown."""
    if line.strip() == "...":
        return r"(?:[^\n]*\n)*"
    return r"[^\n]*".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"


def pattern(shown):
    """The expression for all that is shown."""
    return "".join(map(line_pattern, shown))


def difference(shown, printed):
    """None where `printed` is what is `shown`, else one line that says where it is not."""
    text = "".join(line + "\n" for line in printed)
    if re.fullmatch(pattern(shown), text):
        return None
    for number, line in enumerate(shown, 1):
        if not re.match(pattern(shown[:number]), text):
            return f'shown is "{line}", and that is not there or not in this place'
    return "more is printed than is shown"
