"""A guest of user-mode Linux that stays while disks come and go under it, and the daemons of these disks.

Every wait has an end: a guest that has not answered by then is one that hangs, and is put away with what its kernel has said last.
"""

import os
import re
import select
import socket
import subprocess
import time
from pathlib import Path

# What a kernel that has come across a fault of its own says.
FAULT = re.compile(r"(BUG: |WARNING: |Oops|Kernel panic|blocked for more than|INFO: task |kernel BUG)")
# How long a daemon may take to listen or to end, and a guest to boot, on a machine that has other things to do.
PATIENCE_SECONDS = 120


class RigError(Exception):
    """The rig itself could not do what it should."""


class Daemon:
    """Serves an image as long as it is entered."""

    def __init__(self, program, folder, image, *options):
        self.folder = folder
        self.command = [program, "serve", str(image), "--socket-path", str(folder / "disk0"), *map(str, options)]

    def __enter__(self):
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        self.log = open(self.folder / "daemon.log", "w", encoding="utf-8")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(str(ready))
            notices.settimeout(0.2)
            environment = dict(os.environ, NOTIFY_SOCKET=str(ready))
            self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
            ends = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    if b"READY=1" in notices.recv(4096):
                        return self
                except TimeoutError:
                    if self.process.poll() is not None or time.monotonic() > ends:
                        self.end()
                        raise RigError(f"a daemon does not serve: {self.said()}") from None

    def said(self):
        return Path(self.log.name).read_text(encoding="utf-8").strip().rpartition("\n")[2]

    def end(self):
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.log.close()
        return code

    def __exit__(self, kind, _value, _trace):
        if self.end() != 0 and kind is None:
            raise RigError(f"a daemon ended badly: {self.said()}")


class Gone(Exception):
    """The guest is not there any more, or does not answer; why."""


class Guest:
    """Does lines of shell. One that has gone is booted anew for the next."""

    def __init__(self, folder):
        self.folder = folder
        self.process = self.output = None
        (folder / "tasks").mkdir(parents=True, exist_ok=True)

    def task(self, name, text):
        """Puts a file where the guest sees it, and returns its name there: one that it has not seen before."""
        self.tasks = getattr(self, "tasks", 0) + 1
        name = f"{name}-{self.tasks}"
        (self.folder / "tasks" / name).write_text(text, encoding="utf-8")
        return name

    def boot(self):
        script = Path(__file__).parent / "explore-boot.sh"
        log = open(self.folder / "boot.log", "w", encoding="utf-8")
        with log:
            self.process = subprocess.Popen([script, self.folder], stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.buffer, self.read = b"", 0
        ends = time.monotonic() + PATIENCE_SECONDS
        while not (self.folder / "line.in").exists():
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RigError(f"the guest does not boot: {(self.folder / 'boot.log').read_text(encoding='utf-8')}")
            time.sleep(0.01)
        self.output = os.open(self.folder / "output", os.O_RDONLY | os.O_NONBLOCK)
        try:
            self.answer(PATIENCE_SECONDS)
        except Gone as gone:
            raise RigError(f"the guest does not boot: {gone}") from None

    def ready(self):
        """Boots it where it is not there; before any disk is, so that it takes none by itself."""
        if self.process is None:
            self.boot()

    def do(self, line, seconds):
        """Has a line done, and returns what it has printed, line by line, and its status. Raises Gone."""
        self.ready()
        with open(self.folder / "line.in", "w", encoding="utf-8") as guest:
            guest.write(line + "\n")
        return self.answer(seconds)

    def answer(self, seconds):
        lines, ends = [], time.monotonic() + seconds
        while True:
            while b"\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\n")
                text = line.decode("utf-8", "replace").rstrip("\r")
                if re.fullmatch(r"end \d+", text):
                    return lines, int(text.split()[1])
                lines.append(text)
            left = ends - time.monotonic()
            if left <= 0:
                self.put_away(f"it has not answered for {seconds} seconds")
            if not select.select([self.output], [], [], min(left, 1))[0]:
                if self.process.poll() is not None:
                    self.put_away("it has died")
                continue
            got = os.read(self.output, 65536)
            if got == b"":
                # Nobody has the other end: the guest is gone, or not there yet.
                if self.process.poll() is not None:
                    self.put_away("it has died")
                time.sleep(0.01)
            self.buffer += got

    def faults(self):
        """What its kernel has said since the last time that is a fault of the kernel's own."""
        console = (self.folder / "console").read_bytes()
        new, self.read = console[self.read :].decode("utf-8", "replace"), len(console)
        return [line.strip() for line in new.splitlines() if FAULT.search(line)]

    def put_away(self, why):
        faults = self.faults()
        self.end()
        raise Gone(f"{why} ({faults[0]})" if faults else why)

    def end(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.terminate()
            self.process.wait()
            self.process = None
            os.close(self.output)
