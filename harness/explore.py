#!/usr/bin/env python3
"""Explores what a loss of power may leave of a zoned file system: small workloads, each recorded in a guest of user-mode Linux, each
state that its recording allows mounted, compared with what was promised, written, unmounted and checked.

explore.py --fs btrfs|xfs|f2fs|zonefs [--ops N] [--states N] [--level 1|2|3] [--jobs N] [--mount OPTIONS] [--strict] -o DIR [WORKLOAD...]

A workload is a number of "vhost-user-zbd workload --fs FS --ops N --list", or its words ("create A; write A 0 8192; fsync A"); all of these
numbers where none is said. What is done is not done again where DIR is given again. A state whose guest hangs or dies, or whose kernel says
that it is at fault, has failed. What the file system's own check complains about is counted, and is no failure, where all of it is in
known-failures/explore-FS.txt, unless --strict is there. DIR has report.json; of a workload with failures its recording, and images and
commands of these.
Exit status 0: all is good; 1: a state has failed; 2: it could not be done.
"""

import argparse
import collections
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from explore_guest import Daemon, Gone, Guest, RigError

TOP = Path(__file__).resolve().parent.parent
# What is served, as "create" takes it, small enough that there is little to read, and which programs the guest has.
DISKS = {
    "btrfs": ("small", ["256M", "--zone-size", "4M"]),
    "xfs": ("newest", ["1G", "--zone-size", "16M", "--conventional-zones", "20"]),
    "f2fs": ("newest", ["256M", "--zone-size", "4M", "--conventional-zones", "8"]),
    "zonefs": ("small", ["8M", "--zone-size", "256K", "--conventional-zones", "2"]),
}
# How long one step of a guest may take. A check of a state is some tenths of a second where the machine has nothing else to do.
STEP_SECONDS = 120
# Lines of a check program that are complaints; explore-guest.sh takes the first for what is wrong.
COMPLAINT = re.compile(r"error|bad |corrupt|invalid|mismatch|fail", re.IGNORECASE)


class Failed(Exception):
    """A workload that could not be explored; why."""


def run(*words):
    """What a program prints. Raises RigError with what it complains about."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RigError(f"{shlex.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def alike(text):
    """A complaint with N for each number: the same for each place where it occurs."""
    return re.sub(r"\d+", "N", text.strip())


def known_failures(fs):
    """Complaints of a check program that are known, with the reason: lines of "COMPLAINT<tab>REASON" and of comments."""
    path = TOP / "harness/known-failures" / f"explore-{fs}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("\t", 1) for line in lines if not line.startswith("#"))


class Explorer:
    """What all jobs share: what is to be done, what was, and when it is enough."""

    def __init__(self, options, program, folder):
        self.options, self.program, self.folder = options, program, folder
        self.base = folder / "base.qcow2"
        self.known = {} if options.strict else known_failures(options.fs)
        self.lister = run(program, "workload", "--fs", options.fs, "--lister")
        self.waiting = collections.deque(self.workloads())
        self.lock = threading.Lock()
        self.done, self.states, self.failures, self.errors = 0, 0, 0, []
        self.began = time.monotonic()
        self.stopped = False

    def workloads(self):
        listed = dict(line.split(" ", 1) for line in run(self.program, "workload", "--fs", self.options.fs, "--ops", self.options.ops, "--list").splitlines())
        for word in self.options.workload or listed:
            if word.isdigit() and word not in listed:
                raise RigError(f"there is no workload {word}: expected 1 to {len(listed)}")
            yield word if word.isdigit() else re.sub(r"[^A-Za-z0-9]+", "-", word), listed.get(word, word)

    def next(self):
        with self.lock:
            enough = self.options.states and self.states >= self.options.states
            return None if self.stopped or enough or not self.waiting else self.waiting.popleft()

    def count(self, name, report):
        with self.lock:
            self.done += 1
            self.states += report["distinct"]
            self.failures += report["failed"]
            if sys.stderr.isatty():
                rate = self.states / (time.monotonic() - self.began)
                sys.stderr.write(f"\r{self.done} workloads, {self.states} states ({rate:.1f} a second), {self.failures} failed \x1b[K")

    def report(self):
        """The report of all that is in the folder."""
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*/report.json"))]
        total = {key: sum(one[key] for one in reports) for key in ("states", "distinct", "checked", "failed", "seconds")}
        found = collections.Counter(alike(failure["why"]) for one in reports for failure in one["failures"])
        known = sum((collections.Counter(one["known"]) for one in reports), collections.Counter())
        failures = [dict(failure, workload=one["workload"]) for one in reports for failure in one["failures"]]
        head = dict(schema_version=1, fs=self.options.fs, mount=self.options.mount, workloads=len(reports))
        return dict(head, **total, found=dict(found.most_common()), known=dict(known.most_common()), failures=failures)


class Job(threading.Thread):
    """One guest, and the workloads that are recorded and explored in it, one after another."""

    def __init__(self, explorer, folder):
        super().__init__(daemon=True)
        self.explorer, self.options, self.folder = explorer, explorer.options, folder
        self.guest = Guest(folder)
        for name in ("states", "answers"):
            os.mkfifo(folder / name)

    def run(self):
        try:
            self.lister = self.guest.task("lister", self.explorer.lister)
            while (workload := self.explorer.next()) is not None:
                name, operations = workload
                kept = self.explorer.folder / name
                if not (kept / "report.json").exists():
                    shutil.rmtree(kept, ignore_errors=True)
                    kept.mkdir()
                    try:
                        self.record(operations, kept / "log")
                        self.explore(operations, kept)
                    except Failed as failed:
                        with self.explorer.lock:
                            self.explorer.errors.append(f"{name} ({operations}): {failed}")
                        continue
                self.explorer.count(name, json.loads((kept / "report.json").read_text(encoding="utf-8")))
        except (RigError, OSError) as error:
            with self.explorer.lock:
                self.explorer.errors.append(str(error))
                self.explorer.stopped = True
        finally:
            self.guest.end()

    def make_base(self):
        """The disk with a fresh file system, which was mounted once."""
        _, disk = DISKS[self.options.fs]
        new = self.explorer.base.with_suffix(".new")
        new.unlink(missing_ok=True)
        self.guest.ready()
        run(self.explorer.program, "create", "--quiet", new, *disk)
        fs = self.options.fs
        with Daemon(self.explorer.program, self.folder, new):
            said, code = self.guest.do(f"plug 0 && fs_make {fs} 2>&1 && fs_mount {fs} 2>&1 && umount $MOUNT && unplug 0", STEP_SECONDS)
        if code != 0:
            raise RigError(f"no file system could be made: {' '.join(said)}")
        new.rename(self.explorer.base)

    def record(self, operations, log):
        image = self.folder / "recorded.qcow2"
        image.unlink(missing_ok=True)
        run(self.explorer.program, "fork", "--quiet", self.explorer.base, image)
        script = self.guest.task("workload", run(self.explorer.program, "workload", "--fs", self.options.fs, "--script", operations))
        options = ["--record", log, "--mark-socket", self.folder / "disk1"]
        self.guest.ready()
        line = f"record {self.options.fs} '{self.options.mount}' {script} 2>&1"
        with Daemon(self.explorer.program, self.folder, image, *options):
            try:
                said, code = self.guest.do(line, STEP_SECONDS)
            except Gone as gone:
                raise Failed(f"the guest is gone in the workload itself: {gone}") from None
        if code != 0:
            raise Failed(f"the workload ended with status {code}: {' '.join(said)}")

    def explore(self, operations, kept):
        # What the explorer starts for its check only hands on between the explorer and this process, which has the guest.
        self.known = collections.Counter()
        asks, says = (shlex.quote(str(self.folder / name)) for name in ("states", "answers"))
        check = f"while IFS= read -r state; do printf '%s\\n' \"$state\" >{asks}; IFS= read -r said <{says}; printf '%s\\n' \"$said\"; done"
        command = [self.explorer.program, "explore", kept / "log", "--base", self.explorer.base, "--check", check, "--stay", "--jobs", 1]
        command += ["--level", self.options.level, "--timeout", 10 * STEP_SECONDS, "--report", kept / "explored", "--minimise"]
        # Written to as well, so that neither ends before this does.
        states = os.open(self.folder / "states", os.O_RDWR)
        answers = os.open(self.folder / "answers", os.O_RDWR)
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self.answer(process, states, answers, operations)
        finally:
            os.close(answers)
            os.close(states)
        complaint = process.communicate()[1].strip()
        if process.returncode not in (0, 1):
            raise RigError(f"explore: {complaint}")
        report = json.loads((kept / "explored" / "report.json").read_text(encoding="utf-8"))
        report.update(workload=operations, known=dict(self.known))
        if report["failed"] == 0:
            shutil.rmtree(kept / "explored")
            (kept / "log").unlink()
        (kept / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    def answer(self, process, states, answers, operations):
        """Answers for each state that the explorer asks for, until it has ended."""
        buffer = b""
        while process.poll() is None:
            if select.select([states], [], [], 0.1)[0]:
                buffer += os.read(states, 65536)
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                image, marks, output = map(Path, line.decode("utf-8").split("\t"))
                verdict = self.judge(image, marks, output, operations)
                os.write(answers, (verdict.replace("\n", " ") + "\n").encode("utf-8"))

    def judge(self, image, marks, output, operations):
        """Whether a state has all that was promised: "good", or "bad" and why."""
        self.guest.ready()
        line = f"examine {self.options.fs} '{self.options.mount}' {self.lister}"
        with Daemon(self.explorer.program, self.folder, image):
            try:
                said, _ = self.guest.do(line, STEP_SECONDS)
            except Gone as gone:
                output.write_text(f"the guest: {gone}\n", encoding="utf-8")
                shutil.copy(self.folder / "console", output.with_name("console"))
                return f"bad the guest: {gone}"
        output.write_text("\n".join(said) + "\n", encoding="utf-8")
        verdict = next((line.removeprefix("verdict ") for line in said if line.startswith("verdict ")), None)
        if verdict and not self.is_known(verdict, said):
            return f"bad {verdict}"
        faults = self.guest.faults()
        if faults:
            return f"bad the kernel is at fault: {faults[0]}"
        found = self.folder / "found"
        found.write_text("".join(line.removeprefix("found ") + "\n" for line in said if line.startswith("found ")), encoding="utf-8")
        words = ["workload", "--fs", self.options.fs, "--judge", operations, "--marks", marks, "--found", found]
        done = subprocess.run([self.explorer.program, *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return "good"
        return "bad " + (done.stdout if done.returncode == 1 else done.stderr).strip()

    def is_known(self, verdict, said):
        """Whether a check has failed with nothing but what is known to fail; counts it."""
        complaints = [alike(line.removeprefix("said ")) for line in said if line.startswith("said ") and COMPLAINT.search(line)]
        if not verdict.startswith("its check fails: ") or not complaints or any(line not in self.explorer.known for line in complaints):
            return False
        self.known[complaints[0]] += 1
        return True


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", required=True, choices=DISKS)
    parser.add_argument("--ops", type=int, default=2, choices=(1, 2, 3), help="operations of a workload (2)")
    parser.add_argument("--states", type=int, default=0, help="begin no workload once so many states were explored")
    parser.add_argument("--level", type=int, default=2, choices=(1, 2, 3), help='as "vhost-user-zbd explore" has them (2)')
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="guests side by side (one a processor)")
    parser.add_argument("--mount", default="", help="options of each mount")
    parser.add_argument("--strict", action="store_true", help="no failure is known")
    parser.add_argument("-o", required=True, type=Path, dest="folder", help="where the report goes")
    parser.add_argument("workload", nargs="*")
    return parser.parse_args()


def main():
    options = arguments()
    os.environ["VUZ_GUEST"] = DISKS[options.fs][0]
    program = os.environ.get("VUZ_BIN") or run("bash", "-c", f". {shlex.quote(str(TOP))}/qemu-scripts/lib.sh; . $VUZ_SCRIPTS/daemon.sh; daemon_build; printf %s $VUZ_BIN")
    os.environ["VUZ_BIN"] = program = str(Path(program).resolve())
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    with tempfile.TemporaryDirectory(prefix="explore.") as temp:
        explorer = Explorer(options, program, options.folder.resolve())
        folders = [Path(temp) / str(number) for number in range(options.jobs)]
        for folder in folders:
            folder.mkdir()
        jobs = [Job(explorer, folder) for folder in folders]
        if not explorer.base.exists():
            jobs[0].make_base()
        for job in jobs:
            job.start()
        for job in jobs:
            while job.is_alive():
                job.join(1)
        seconds = time.monotonic() - explorer.began
    report = dict(explorer.report(), errors=explorer.errors, kernel=kernel())
    (explorer.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    for error in explorer.errors:
        print(f"not done: {error}")
    print(f"{options.fs}, {report['kernel']}: {report['workloads']} workloads, {report['distinct']} distinct states, {report['failed']} failed; {seconds:.0f} s, {explorer.states / seconds:.1f} a second now")
    for why, count in report["found"].items():
        print(f"  {count} times: {why}")
    for why, count in report["known"].items():
        print(f"  {count} times, known: {why}")
    return 2 if explorer.stopped else 1 if report["failed"] else 0


def kernel():
    folder = run(TOP / "qemu-scripts/uml.sh").strip()
    return Path(folder, "version").read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RigError, OSError) as error:
        sys.exit(f"explore.py: {error}")
