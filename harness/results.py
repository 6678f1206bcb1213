#!/usr/bin/env python3
"""Reads what the check programs of xfstests and blktests print, and judges it by lists of known failures.

results.py seen TRANSCRIPT
    Prints the names of the tests that were begun, in their order.
results.py known FILE...
    Reads lists of known failures; exit status 2 when one is not well formed.
results.py verdict --suite NAME --junit FILE [--known FILE]... TRANSCRIPT
    Writes JUnit's XML, prints the failures and a line "N passed, N failed, N skipped". Exit status 0: all as expected; 1: a test failed
    that is not known to; 2: no test was run, or check gave up before its end.

A transcript is what check printed, in one guest after another, and lines of the harness: "harness: guest died ..." or "hung ...", which
ends the test that had begun; "harness: disk N passed" or "failed ..."; "harness: check ended with status N".

A known failure is a line of the test's name and the reason, which is said with each result. "#" begins a comment.
"""

import argparse
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

BEGIN = re.compile(r"^([a-z0-9][a-z0-9_-]*/(?:\d+[a-z0-9_-]*|\*\*\*))(?=\s|$)(.*)")
HARNESS = re.compile(r"^harness: (guest|disk \d+|check) ?(.*)")
# xfstests: the time it took before, and what it takes now.
SECONDS = re.compile(r"^(?:\s*\d+s \.\.\.)?\s+(\d+)s$")
# blktests: the state at the end of the line, the time in a line of its own.
STATE = re.compile(r"\[(passed|failed|not run)\]$")
RUNTIME = re.compile(r"^\s+runtime\s.*?([0-9.]+)s$")
# The summary at the end of xfstests.
SUMMARY = re.compile(r"^(Ran|Not run|Failures|Failed|Passed all|Interrupted|SECTION)\b")
# xfstests, when it cannot use its devices.
GAVE_UP = re.compile(r"^(Interrupted!|check: failed to )")
# Control characters that XML has no place for.
UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]")


class Test:
    """One test: its name, "passed", "failed", "notrun" or "left" (by the caller's wish), and what was said of it."""

    def __init__(self, name, rest):
        self.name, self.state, self.seconds, self.said = name, None, 0.0, []
        self.line(rest)

    def line(self, rest):
        state, seconds = STATE.search(rest), SECONDS.match(rest)
        if state:
            self.state = state.group(1).replace(" ", "")
            self.said = [rest.strip()] if self.state != "passed" else []
        elif "[not run]" in rest:
            self.state, self.said = "notrun", [rest.split("[not run]", 1)[1].strip()]
        elif "[expunged]" in rest:
            self.state = "left"
        elif seconds:
            self.state, self.seconds = "passed", float(seconds.group(1))
        elif self.state is None:
            self.said.append(rest.strip())

    def more(self, line):
        runtime = RUNTIME.match(line)
        if runtime:
            self.seconds = float(runtime.group(1))
        elif line.strip():
            self.said.append(line.rstrip())


def read(path):
    """The tests of a transcript by name, in the order in which they began."""
    tests, current = {}, None
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        begin, harness = BEGIN.match(line), HARNESS.match(line)
        if harness:
            what, text = harness.groups()
            if what == "guest" and current:
                current.state = "failed"
                current.said.append(f"the guest {text}")
                current = None
            elif what.startswith("disk"):
                current = Test(f"disks/{what.split()[1]}", "")
                current.state, current.said = text.split(" ", 1)[0], text.split(" ", 1)[1:]
                tests[current.name] = current
            else:
                current = None
        elif SUMMARY.match(line):
            current = None
        elif begin:
            name, rest = begin.groups()
            if current and current.name == name and current.state is None:
                current.line(rest)
                continue
            current = Test(name, rest)
            earlier = tests.get(name)
            # One that is run under several conditions has failed when it fails under any.
            if current.state != "left" and (earlier is None or earlier.state != "failed"):
                tests[name] = current
        elif current:
            current.more(line)
    for test in tests.values():
        test.state = test.state or "failed"
    return tests


def read_known(paths):
    known = {}
    for path in paths:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            words = line.split(None, 1)
            if not words or words[0].startswith("#"):
                continue
            if len(words) < 2:
                print(f"{path}:{number}: {words[0]} has no reason; a known failure is its name and the reason", file=sys.stderr)
                sys.exit(2)
            known[words[0]] = words[1].strip()
    return known


def write_junit(path, suite, tests, known):
    states = [test.state for test in tests.values()]
    excused = sum(test.state == "failed" and test.name in known for test in tests.values())
    top = ElementTree.Element(
        "testsuite",
        name=suite,
        tests=str(len(states)),
        failures=str(states.count("failed") - excused),
        errors="0",
        skipped=str(states.count("notrun") + excused),
        time=f"{sum(test.seconds for test in tests.values()):.3f}",
    )
    for test in tests.values():
        group, _, name = test.name.partition("/")
        case = ElementTree.SubElement(top, "testcase", classname=f"{suite}.{group}", name=name, time=f"{test.seconds:.3f}")
        said = UNPRINTABLE.sub("?", "\n".join(test.said))
        if test.state == "failed" and test.name in known:
            ElementTree.SubElement(case, "skipped", message=f"known failure: {known[test.name]}").text = said
        elif test.state == "failed":
            ElementTree.SubElement(case, "failure", message=said.split("\n", 1)[0]).text = said
        elif test.state == "notrun":
            ElementTree.SubElement(case, "skipped", message=said.strip())
        elif test.name in known:
            ElementTree.SubElement(case, "system-out").text = f"passed though it is known to fail: {known[test.name]}"
    ElementTree.indent(top)
    ElementTree.ElementTree(top).write(path, encoding="utf-8", xml_declaration=True)


def gave_up(path):
    """What check says when it ends before its tests have been run; None when it did not."""
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        if GAVE_UP.match(line):
            return line
    return None


def verdict(arguments):
    tests, known = read(arguments.transcript), read_known(arguments.known)
    write_junit(arguments.junit, arguments.suite, tests, known)
    passed = failed = skipped = 0
    for test in tests.values():
        if test.state == "passed":
            passed += 1
            if test.name in known:
                print(f"passed though known to fail: {test.name}: {known[test.name]}")
        elif test.state == "notrun":
            skipped += 1
        elif test.name in known:
            skipped += 1
            print(f"known failure: {test.name}: {known[test.name]}")
        else:
            failed += 1
            print(f"FAIL {test.name}")
            print("\n".join(f"# {line}" for line in test.said[:20]))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if all(name.startswith("disks/") for name in tests):
        print("no test was run", file=sys.stderr)
        return 2
    given_up = gave_up(arguments.transcript)
    if given_up:
        print(f'check gave up: "{given_up}"', file=sys.stderr)
        return 2
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(prog="results.py")
    commands = parser.add_subparsers(dest="command", required=True)
    seen = commands.add_parser("seen")
    seen.add_argument("transcript")
    judge = commands.add_parser("verdict")
    judge.add_argument("--suite", required=True)
    judge.add_argument("--junit", required=True)
    judge.add_argument("--known", action="append", default=[])
    judge.add_argument("transcript")
    lists = commands.add_parser("known")
    lists.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "known":
        read_known(arguments.files)
        return 0
    if arguments.command == "verdict":
        return verdict(arguments)
    print("".join(f"{name}\n" for name in read(arguments.transcript)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
