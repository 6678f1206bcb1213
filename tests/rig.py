"""For rig.sh: runs boot.sh on a terminal of its own, with a guest of user-mode Linux and an image.

rig.py FOLDER
    Makes its image in FOLDER, and the number of tests that have passed in FOLDER/passed. Exits with 1 when one has failed.
"""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# For what takes a second or two.
SECONDS = 60


class Failed(Exception):
    """What was expected has not come."""


class Boot:
    """boot.sh, seen from the terminal's other end. How the terminal was set before is in "modes"."""

    def __init__(self, image, *options):
        self.seen = b""
        ours, theirs = pty.openpty()
        self.terminal, self.modes = ours, termios.tcgetattr(theirs)
        command = [TOP / "qemu-scripts/boot.sh", "--uml", "--image", image, *options]
        # In a session of its own, with that terminal, and with no signal ignored, as a window has it: under nohup SIGHUP would be.
        attach = (
            "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "[signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)];"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen([sys.executable, "-c", attach, *command], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        self.theirs = theirs

    def hear(self, pattern):
        """Waits until the terminal shows it, behind what was waited for before."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.seen)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Failed(f"the terminal does not show {pattern}, but {self.seen.decode(errors='replace')}")
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 4096)
        self.seen = self.seen[found.end():]

    def type(self, line):
        os.write(self.terminal, line.encode() + b"\n")

    def end(self):
        """Waits for its end; the exit status, or the negative number of the signal that it died of."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                # What it waits for is in the states of these processes.
                family = subprocess.run(["ps", "-o", "pid,ppid,stat,wchan:20,args", "-s", str(self.process.pid)], capture_output=True, text=True, check=False)
                raise Failed(f"boot.sh does not end, its terminal shows {self.seen.decode(errors='replace')}\n{family.stdout}")
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 4096)
        return self.process.returncode

    def children(self):
        """The machine and the daemon, each a process and a word of its command."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii").split()
        commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in listed}
        found = {pid: word for pid, words in commands.items() for word in (b"serve", b"mem=512M") if word in words}
        if sorted(found.values()) != [b"mem=512M", b"serve"]:
            raise Failed(f"the machine and the daemon are not boot.sh's children: {commands}")
        return found

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.terminal)
        os.close(self.theirs)


def gone(children):
    """Waits until none of the processes is there: those whose parent has waited for them are at once."""
    deadline = time.monotonic() + SECONDS
    while there := [word for pid, word in children.items() if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            raise Failed(f"still there: {there}")
        time.sleep(0.05)


def whole(image):
    """The image was left by a daemon that was asked to end."""
    said = subprocess.run([os.environ["VUZ_BIN"], "check", image], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Failed(f"check ends with {said.returncode}: {said.stdout}{said.stderr}")


def expect(what, found, expected):
    if found != expected:
        raise Failed(f"{what} is {found}, expected {expected}")


def booted(image, *options):
    """A guest whose shell has taken a line from the terminal."""
    boot = Boot(image, *options)
    boot.hear(rb"'exit' powers the guest off")
    # The answer is not in the line, which the terminal shows too.
    boot.type("echo $((6 * 7)) zones of $(cat /sys/block/vda/queue/zoned)")
    boot.hear(rb"42 zones of host-managed")
    return boot


def the_shell_has_the_terminal_which_is_left_as_it_was(image):
    boot = booted(image)
    try:
        children = boot.children()
        # Ctrl-C is for what runs in the guest; and is sent when that has the terminal, as it says itself.
        boot.type("sh -c 'echo $((6 * 8)) is before; exec sleep 1000'")
        boot.hear(rb"48 is before")
        os.write(boot.terminal, b"\x03")
        boot.type("echo $((6 * 9)) is next")
        boot.hear(rb"54 is next")
        boot.type("exit")
        expect("the exit status", boot.end(), 0)
        gone(children)
        expect("the terminal's modes", termios.tcgetattr(boot.theirs), boot.modes)
    finally:
        boot.close()
    whole(image)


def signals_that_end_boot_sh_end_the_machine_and_the_daemon(image):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        boot = booted(image)
        try:
            children = boot.children()
            boot.process.send_signal(number)
            expect(f"the exit status after {number.name}", boot.end(), 128 + number)
            # It has waited for them: they are gone when it is.
            expect("what is left", [word for pid, word in children.items() if Path(f"/proc/{pid}").exists()], [])
            expect("the terminal's modes", termios.tcgetattr(boot.theirs), boot.modes)
        finally:
            boot.close()
        whole(image)


def a_boot_sh_that_is_killed_leaves_neither(image):
    boot = booted(image)
    try:
        children = boot.children()
        boot.process.kill()
        boot.end()
        gone(children)
    finally:
        boot.close()


def the_power_is_cut_by_the_socket_that_boot_sh_names(image):
    boot = Boot(image, "--volatile-cache")
    try:
        boot.hear(rb"the power is cut by: vhost-user-zbd ")
        boot.hear(rb"'exit' powers the guest off")
        boot.type("dd if=/dev/vda of=/dev/null bs=4096 count=1 iflag=direct status=none && echo $((6 * 7)) is read")
        boot.hear(rb"42 is read")
        [daemon] = [pid for pid, word in boot.children().items() if word == b"serve"]
        words = Path(f"/proc/{daemon}/cmdline").read_bytes().split(b"\0")
        control = words[words.index(b"--control-path") + 1]
        subprocess.run([os.environ["VUZ_BIN"], "ctl", control, "power-cut", "then=fail"], check=True, stdout=subprocess.DEVNULL)
        boot.type("dd if=/dev/vda of=/dev/null bs=4096 count=1 iflag=direct status=none || echo $((6 * 8)) is not")
        boot.hear(rb"48 is not")
        boot.type("exit")
        expect("the exit status", boot.end(), 0)
    finally:
        boot.close()
    whole(image)


def main(folder):
    image = Path(folder, "disk.qcow2")
    subprocess.run([os.environ["VUZ_BIN"], "create", image, "--preset", "zonefs"], check=True, stdout=subprocess.DEVNULL)
    tests = [the_shell_has_the_terminal_which_is_left_as_it_was, signals_that_end_boot_sh_end_the_machine_and_the_daemon,
             a_boot_sh_that_is_killed_leaves_neither, the_power_is_cut_by_the_socket_that_boot_sh_names]
    for test in tests:
        name = test.__name__.replace("_", "-")
        try:
            test(image)
        except Failed as failure:
            print(f"FAIL {name}: {failure}")
            return 1
        print(f"ok {name}", flush=True)
    Path(folder, "passed").write_text(str(len(tests)), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
