"""An image and the daemon that serves it, asked and told through the program's own commands and their JSON."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

# How long the daemon may take to listen or to end.
WAIT_SECONDS = 60


class DiskError(Exception):
    """The program did not do what it was told; the message has what it said."""


@dataclass(frozen=True)
class Zone:
    """A zone as "report --json" has it; positions and lengths in bytes of the disk."""

    index: int
    type: str
    state: str
    start: int
    length: int
    capacity: int
    write_pointer: int

    @property
    def written(self) -> int:
        """The bytes below the write pointer."""
        return self.write_pointer - self.start


@dataclass(frozen=True)
class GuestResult:
    """What a guest's script printed and its exit status: 124 when it took too long, 125 when the guest died."""

    returncode: int
    output: str
    errors: str


class ZonedDisk:
    """A zoned disk: `image`, served on `socket` while the daemon runs, with `control` to ask it."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        geometry: Mapping[str, object],
        serve: Sequence[str] = (),
        rig: Optional[Path] = None,
    ) -> None:
        self.program, self.folder, self.rig = program, folder, rig
        self.serve = tuple(serve)
        self.image = folder / "disk.qcow2"
        self.socket = folder / "disk.sock"
        self.control = folder / "disk.ctl"
        self.log = folder / "daemon.log"
        self.console = folder / "console"
        self._daemon: Optional[subprocess.Popen[bytes]] = None
        options = [f"--{name.replace('_', '-')}={value}" for name, value in geometry.items() if name != "size"]
        size = [str(geometry["size"])] if "size" in geometry else []
        self._run("create", str(self.image), *size, *options)
        self.start()

    def _run(self, *arguments: str, statuses: Sequence[int] = (0,)) -> str:
        done = subprocess.run([str(self.program), *arguments], capture_output=True, text=True, check=False)
        if done.returncode not in statuses:
            raise DiskError(f"{self.program.name} {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @property
    def running(self) -> bool:
        """The daemon runs."""
        return self._daemon is not None and self._daemon.poll() is None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        if self._daemon is None:
            raise DiskError("the daemon does not run")
        return self._daemon.pid

    def start(self) -> None:
        """Serves the image; returns when the daemon can be asked."""
        if self.running:
            raise DiskError("the daemon runs already")
        command = [str(self.program), "serve", str(self.image), "--socket-path", str(self.socket), "--control-path", str(self.control)]
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [*command, *self.serve], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise DiskError(f"the daemon did not come up: {self.log.read_text(errors='replace').strip()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(str(self.control))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """Ends the daemon as a service manager does; an error when that takes too long or the daemon ends with one."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            status = daemon.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise DiskError(f"the daemon was not done {WAIT_SECONDS} seconds after SIGTERM") from None
        if status != 0:
            raise DiskError(f"the daemon ended with status {status}: {self.log.read_text(errors='replace').strip()}")

    def kill(self) -> None:
        """Kills the daemon, as a crash of the host's process does."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()

    def restart(self) -> None:
        """Ends the daemon and starts a new one."""
        self.stop()
        self.start()

    def ctl(self, command: str, *arguments: str) -> dict[str, Any]:
        """The running daemon's answer to a command: "info", "stats", "map", ..."""
        answer: dict[str, Any] = json.loads(self._run("ctl", str(self.control), command, *arguments, "--json"))
        return answer

    def info(self) -> dict[str, Any]:
        """The image's geometry."""
        answer: dict[str, Any] = json.loads(self._run("info", str(self.image), "--json"))
        return answer

    def report(self) -> dict[str, Any]:
        """All of "report --json": of the daemon while it runs, else of the image."""
        if self.running:
            return self.ctl("report")
        answer: dict[str, Any] = json.loads(self._run("report", str(self.image), "--json"))
        return answer

    def zones(self) -> list[Zone]:
        """The zones, in order."""
        return [Zone(**{name: zone[name] for name in Zone.__dataclass_fields__}) for zone in self.report()["zones"]]

    def check(self) -> dict[str, Any]:
        """What "check --json" finds in the image; the daemon must not run."""
        answer: dict[str, Any] = json.loads(self._run("check", str(self.image), "--json", statuses=(0, 2, 3)))
        return answer

    def guest(self, script: Union[str, Path], files: Sequence[Union[str, Path]] = (), timeout: int = 300) -> GuestResult:
        """Boots a guest of user-mode Linux that runs the script, a path or the text itself, with the disk as /dev/vda."""
        if self.rig is None:
            raise DiskError("a guest needs the scripts of vhost-user-zbd's checkout: --vuz-rig, or VUZ_RIG in the environment")
        if isinstance(script, str):
            path = self.folder / "script"
            path.write_text(script)
        else:
            path = script
        options = ["--uml", "--socket", str(self.socket), "--timeout", str(timeout), "--console", str(self.console)]
        done = subprocess.run(
            [str(self.rig / "run.sh"), *options, str(path), *map(str, files)], capture_output=True, text=True, errors="replace", check=False
        )
        return GuestResult(done.returncode, done.stdout, done.stderr)

    def logs(self) -> list[tuple[str, str]]:
        """What there is to read when a test has failed: names and texts."""
        named = (("daemon's log", self.log), ("guest's console", self.console))
        return [(name, path.read_text(errors="replace")) for name, path in named if path.exists()]
