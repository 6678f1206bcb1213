"""For docs.sh: checks what README.md and docs show against what is there. Prints what is wrong, a line each, and exits with 1 then.

Every command in a block falls under one of these, or it is wrong:
  run        vhost-user-zbd's: in a folder of the page's own, in the page's order. "serve" stays until the page ends; an image that a
             page only uses is made first. Where the page shows what a command prints, it is compared.
  parsed     a synopsis (FILE, [--option N], ...): the options that it names are in the command's --help. A script's or
             program's of this repository: it is there, and has the options. cargo's: the targets exist. QEMU's: the devices, objects
             and properties exist.
  elsewhere  named in ELSEWHERE with what runs it.
Blocks that are not commands are XML, which has to be well-formed, or named in SAMPLES with what makes such.
The pages of docs/guests are run by tests/guest/pages.sh; their links are checked here like all others.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.dom.minidom
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pages

TOP = Path(__file__).resolve().parent.parent
PROGRAM = "vhost-user-zbd"
# Command's beginning: what runs it, a file here and a word that is in it; or a word why nothing does.
ELSEWHERE = {
    "cat /sys/block/vda/queue/zoned": ("tests/guest/sysfs.sh", "zoned"),
    "dd if=/dev/zero of=/dev/vda": ("tests/guest/writes.sh", "oflag=direct"),
    "exit": ("qemu-scripts/guest-init.sh", "bash -i"),
    "blkzone report /dev/vda": ("tests/guest/in-guest-lib.sh", "blkzone report"),
    "setpriv --reuid=vhost-user-zbd": ("tests/service.sh", "setpriv --reuid=vhost-user-zbd"),
    "systemctl enable --now vhost-user-zbd@NAME.socket": ("tests/service.sh", "systemctl start"),
    "vhost-user-zbd map disk.qcow2": ("tests/cli/map.rs", "map"),
    "vhost-user-zbd top disk.ctl --once": ("tests/cli/top.rs", "--once"),
    "chardev-add ": ("tests/guest/plug.sh", ""),
    "device_add ": ("tests/guest/blk.sh", "device_add"),
    "device_del ": ("tests/guest/blk.sh", "device_del"),
    "chardev-remove ": ("tests/guest/blk.sh", "chardev-remove"),
    "mkdir my-qemu": ("qemu-scripts/qemu.sh", "cache_temp"),
    "my-qemu/run ": ("qemu-scripts/machine-qemu.sh", "MACHINE_QEMU/run"),
    "pip install ./python": ("tests/python.sh", "pip"),
    "pytest --vuz-bin": ("tests/python.sh", "--vuz-bin"),
    "MGR=1 MON=1 OSD=3": "the page says that it was not tried",
    "git clone . /tmp/vhost-user-zbd": "by hand: the times are in that page",
    "git commit -a -s -F": "in a clone of QEMU's repository",
    "git format-patch": "in a clone of QEMU's repository",
    "podman ": ("tests/static.sh", "chroot"),
    "crosvm run --vhost-user block,socket=disk.sock": "the page says that it was not tried",
    "./power cut ": ("tests/guest/power-cycle.sh", "./power cut lose=all"),
    "./power mark ": ("tests/guest/power-cycle.sh", "./power mark here"),
    "./power cycle": ("tests/guest/power-cycle.sh", "./power cycle"),
    "./fault ": ("tests/guest/faults-digest.sh", "./fault list"),
    "cp --sparse=always disk.qcow2 base.qcow2": ("tests/recording/served.rs", "base"),
    "touch careful": ("tests/guest/power.sh", "careful"),
    "echo 'add id=0,": ("tests/guest/zloop.sh", "add id=0"),
    "echo nobarrier >options": "the file of the next command",
    "export AWS_ACCESS_KEY_ID=": ("tests/fetch/s3.rs", "AWS_ACCESS_KEY_ID"),
    "vhost-user-zbd serve s3://": ("tests/fetch/s3.rs", "s3://"),
    "curl --unix-socket disk.ctl http://localhost/metrics": ("tests/lifecycle/control.rs", "/metrics"),
}
# Page and beginning of a block: what makes such output, a file here and a word that is in it.
SAMPLES = {
    ("docs/harness.md", "known failure: "): ("harness/results.py", "known failure: "),
    ("docs/explore.md", "btrfs, Linux 7.2.13 "): ("harness/explore.py", " distinct states, "),
    ("docs/explore.md", "write in zone 3, "): ("src/explore", "but for its first"),
    ("docs/pytest.md", "@pytest.mark.zoned_disk"): ("python/tests/test_disk.py", "zoned_disk"),
    ("docs/pytest.md", "-----"): ("python/src/pytest_vhost_user_zbd/plugin.py", "zoned disk "),
    ("docs/cli.md", "zns "): ("src/cli/preset.rs", "like an NVMe ZNS drive"),
    ("docs/cli.md", "Supported options:"): ("src/cli/named.rs", "Supported options:"),
    ("docs/cli.md", "/srv/disk.qcow2  "): ("src/cli/top/view.rs", "serving for"),
    ("docs/cli.md", "rates of the last"): ("src/cli/top/view.rs", "rates of the last"),
    ("docs/cli.md", "zones"): ("src/cli/top/view.rs", "zones"),
    ("docs/cli.md", "refused last"): ("src/cli/top/view.rs", "refused last"),
    ("docs/cli.md", "write at 65536 of 8 sectors"): ("src/observe", "expected it to be reset first"),
    ("docs/cli.md", "     2.162612 q0 write"): ("src/cli", "refused"),
    ("docs/cli.md", "zone 0: data from sector"): ("tests/cli/diff.rs", "zone 0: data from sector"),
    ("docs/cli.md", "IMAGE="): ("systemd/sample.conf", "IMAGE="),
    ("docs/ci.md", "- uses: OWNER"): ("examples/ci/github-actions.yml", "- uses: OWNER/vhost-user-zbd@v0.2.0"),
    ("docs/disk.md", "[dev-dependencies]"): ("python/disk/Cargo.toml", "vhost-user-zbd = { path ="),
    ("docs/disk.md", "use vhost_user_zbd::disk"): ("src/disk/mod.rs", "docs/disk.md"),
    ("docs/disk.md", "write at 8 of 8 sectors"): ("src/observe", ": expected a write at"),
    ("docs/disk.md", "from vhost_user_zbd import"): ("python/disk/tests/test_page.py", "disk.md"),
    ("docs/disk.md", "Zone(index=0"): ("python/disk/tests/test_page.py", "printed"),
    ("docs/power.md", "for number in"): ("examples/power/append.sh", "for number in"),
    ("docs/power.md", '{ "conventional"'): ("qemu-scripts/power.sh", "power_note"),
    ("docs/power.md", "power on, to be cut"): ("src/cli/map", "volatile in zones"),
    ("docs/power.md", "     0.531009 q0 write"): ("src/cli/trace.rs", "the power is back"),
    ("docs/explore.md", "vhost-user-zbd: --record disk.zlog: the write pointer"): ("src/record/session.rs", "the image was written"),
    ("docs/explore.md", "525 requests and"): ("src/cli/replay/list.rs", "behind request:"),
    ("docs/explore.md", "zone 0: kept"): ("src/cli/cut.rs", "kept {} of {}"),
    ("docs/explore.md", "echo 'fsync of A is done'"): ("src/vhost/texts.rs", "text_of"),
    ("docs/faults.md", "XFS (vda): Metadata I/O Error"): ("tests/guest/faults-xfs.sh", "kernel_says 'XFS"),
    ("docs/faults.md", "BTRFS error (device vda): zoned"): ("tests/guest/faults-btrfs.sh", "kernel_says 'BTRFS"),
    ("docs/uml.md", "NAME ZONED"): ("qemu-scripts/demo-guest.sh", "lsblk -z"),
    ("docs/control.md", "serving for 8 s"): ("src/cli", "serving for"),
    ("docs/control.md", "request       answered"): ("src/cli", "answered"),
    ("docs/control.md", "answered with an error"): ("src/cli", "answered with an error"),
    ("docs/control.md", "written most:"): ("src/cli", "written most"),
    ("docs/control.md", '{"cmd":"report"'): ("tests/lifecycle/control.rs", "report"),
    ("docs/control.md", "     2.162612 q0 write"): ("src/cli", "refused"),
}
# Properties that only a QEMU with zones added has, and where they are added.
ADDED = {("vhost-user-blk-pci", "zoned"): "qemu-scripts/qemu-source-edit.py"}
# Messages that docs/troubleshooting.md has from others: where they were seen.
OTHERS = {
    "Bad system call": "bash",
    "Failed to connect to '...': Permission denied": "QEMU",
    "Failed to connect to '...': No such file or directory": "QEMU",
    "Unsupported qcow2 feature(s): zoned format": "tests/qcow2_interop.rs",
    'Failed to get shared "write" lock': "qemu-img",
    "probe with driver virtio_blk failed with error -22": "Linux",
    "virtio_blk: zoned devices are not supported": "Linux's source",
    "I/O error, dev vda, sector 0 op 0x0:(READ)": "Linux",
    "'vhost-user-test-device-pci' is not a valid device model name": "QEMU 7.2 and 10.0",
    "'vhost-user-device-pci' is not a valid device model name": "QEMU 7.2",
    "Parameter 'driver' expects a pluggable device type": "QEMU 10.0",
    "Property 'vhost-user-device-pci.vq_size' not found": "QEMU 8.2",
    "Property 'vhost-user-blk-pci.zoned' not found": "QEMU; tests/guest/libvirt.sh",
    "Invalid parameter 'reconnect'": "QEMU 11.1; tests/guest/libvirt.sh",
    "Invalid parameter 'reconnect-ms'": "QEMU 7.2",
    "PCI: slot 1 function 0 not available for pcie-root-port, in use by vhost-user-test-device-pci": "QEMU 11.1 under libvirt 9.0",
}
# A word of a synopsis: FILE, NAME=VALUE, /path/NAME.qcow2, [--option, ...
PLACEHOLDER = re.compile(r"(^|[/=@:|])[A-Z]+([/.=|,]|$)|\[|\.\.\.")
WAIT_SECONDS = 30

wrong = []


def complain(page, line, text):
    """Notes what is wrong."""
    wrong.append(f"{page}:{line}: {text}")


def text_of(place):
    """The text of a file, or of all files of a folder."""
    path = TOP / place
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return "\n".join(file.read_text(errors="replace") for file in files)


def output(*command):
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


class Parser:
    """Commands that are looked at and not run."""

    def __init__(self, program, qemu):
        self.program, self.qemu, self.helps = program, qemu, {}

    def help(self, *command):
        """What `command` prints, once."""
        if command not in self.helps:
            self.helps[command] = output(*command)
        return self.helps[command]

    def synopsis(self, text):
        """The complaints about the options of a synopsis."""
        words = text[text.index(PROGRAM):].split()
        help_text = self.help(self.program, words[1], "--help") if not words[1].startswith("-") else self.help(self.program, "--help")
        if not help_text:
            return [f"no command {words[1]}"]
        return [f"no option {option}" for option in re.findall(r"--[a-z][a-z-]+", text[text.index(PROGRAM):])
                if not re.search(re.escape(option) + r"(?![a-z-])", help_text)]

    def script(self, path, words):
        """The complaints about a program of this repository."""
        file = TOP / path
        if not os.access(file, os.X_OK):
            return [f"{path} cannot be run"]
        text = file.read_text()
        return [f"{path} has no option {word}" for word in words if word.startswith("--") and word not in text]

    def cargo(self, words):
        """The complaints about targets of cargo that are not there."""
        folders = {"--test": ("tests", "tests"), "--bench": ("benches", "benches"), "--example": ("examples", "examples")}
        bad = []
        for kind, name in zip(words, words[1:]):
            if kind in folders:
                folder = TOP / folders[kind][0]
                if not (folder / f"{name}.rs").exists() and not (folder / name / "main.rs").exists():
                    bad.append(f"no target {kind} {name}")
        if "load" in words and "--" in words:
            text = text_of("benches/load")
            for word in words[words.index("--") + 1:]:
                if word.startswith("--") and word != "--help" and word[2:].replace("-", "_") not in text and word not in text:
                    bad.append(f"benches/load has no option {word}")
        return bad

    def properties(self, kind, value):
        """The complaints about a device's or object's properties."""
        name, *rest = value.split(",")
        help_text = self.help(self.qemu, f"-{kind}", f"{name},help")
        if not help_text:
            return [f"this QEMU has no {kind} {name}"]
        bad = []
        for item in rest:
            key = item.split("=")[0]
            added = ADDED.get((name, key))
            if key in ("id", "bus") or re.search(rf"^ *{re.escape(key)}=", help_text, re.MULTILINE):
                continue
            if not added or key not in text_of(added):
                bad.append(f"{kind} {name} has no property {key}")
        return bad

    def qemu_line(self, words):
        """The complaints about a command line of QEMU."""
        bad = []
        for option, value in zip(words, words[1:]):
            if option in ("-device", "-object"):
                bad += self.properties(option[1:], value)
        return bad


class Runner:
    """Runs a page's commands in a folder of its own."""

    def __init__(self, folder, program):
        self.folder, self.servers = folder, []
        self.environment = dict(os.environ, PATH=f"{Path(program).parent}:{os.environ['PATH']}", NO_COLOR="1")

    def run(self, command):
        """The complaint about a command, or None."""
        words = command.words()
        for before, image in zip(words[1:], words[2:]):
            if not image.endswith(".qcow2"):
                continue
            if words[1] == "create" or (words[1] in ("convert", "fork") and image == words[3]) or before == "-o":
                (self.folder / image).unlink(missing_ok=True)
            elif not (self.folder / image).exists():
                subprocess.run([PROGRAM, "create", "-q", image, "64M", "--zone-size", "4M"], cwd=self.folder, env=self.environment, check=True)
        if words[1] == "serve":
            return self.serve(words)
        if words[1] == "ctl" and self.servers and self.servers[-1].poll() is not None:
            self.serve(self.servers[-1].args)
        done = subprocess.run(["bash", "-c", command.text], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        if words[1:] and words[-1] == "quit":
            self.servers[-1].wait(WAIT_SECONDS)
        if command.printed:
            return pages.difference(command.printed, done.stdout.splitlines())
        return None if done.returncode == 0 else f"exit status {done.returncode}: {done.stdout.strip()}"

    def serve(self, words):
        """Starts a daemon that stays; one that is there on the same image ends first."""
        self.end()
        log = open(self.folder / "serve.log", "w+", encoding="utf-8")
        server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.servers.append(server)
        end = time.monotonic() + WAIT_SECONDS
        while "serving on" not in (self.folder / "serve.log").read_text():
            if server.poll() is not None or time.monotonic() > end:
                return f"it does not serve: {(self.folder / 'serve.log').read_text().strip()}"
            time.sleep(0.05)
        return None

    def end(self):
        """Ends the daemons."""
        for server in self.servers:
            server.terminate()
            server.wait(WAIT_SECONDS)
        self.servers = []


def elsewhere(text):
    """Whether ELSEWHERE has the command; complaints about what it says."""
    for start, runner in ELSEWHERE.items():
        if text.startswith(start):
            if isinstance(runner, tuple) and runner[1] not in text_of(runner[0]):
                return [f"{runner[0]} does not run it any more"]
            return []
    return None


def repository_path(word):
    """The path in this repository that a word means, however a page names the repository."""
    path = re.sub(r"^(/path/to/)?vhost-user-zbd/(?=[a-z-]+/)", "", word)
    return path if re.match(r"(qemu-scripts|tests|benches|packaging|harness)/", path) else None


def judge(command, parser, runner):
    """The complaints about one command."""
    listed = elsewhere(command.text)
    if listed is not None:
        return listed
    if PROGRAM in command.text.split() and any(PLACEHOLDER.search(word) for word in command.text.split()):
        return parser.synopsis(command.text)
    words = command.words()
    if words[0] == PROGRAM:
        complaint = runner.run(command)
        return [complaint] if complaint else []
    if repository_path(words[0]):
        return parser.script(repository_path(words[0]), words)
    if words[0] == "cargo":
        return parser.cargo(words)
    if words[0] == "qemu-system-x86_64":
        return parser.qemu_line(words)
    return ["no test knows this command"]


def check_xml(page, block, parser):
    """XML is well-formed, and QEMU's arguments in it are right."""
    try:
        document = xml.dom.minidom.parseString("\n".join(block.lines))
    except xml.parsers.expat.ExpatError as error:
        complain(page, block.line, f"not well-formed: {error}")
        return
    words = [item.getAttribute("value") for item in document.getElementsByTagName("qemu:arg")]
    for complaint in parser.qemu_line(words):
        complain(page, block.line, complaint)


def check_commands(page, parser, program):
    """Each block of a page."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), program)
        try:
            for block in pages.blocks(TOP / page):
                if block.kind == "xml":
                    check_xml(page, block, parser)
                    continue
                sample = [proof for (of, start), proof in SAMPLES.items() if of == page and block.lines[0].startswith(start)]
                if sample:
                    if sample[0][1] not in text_of(sample[0][0]):
                        complain(page, block.line, f"{sample[0][0]} has no \"{sample[0][1]}\" any more")
                    continue
                for command in block.commands:
                    for complaint in judge(command, parser, runner):
                        complain(page, command.line, f"{command.text}: {complaint}")
        finally:
            runner.end()


def check_links(page):
    """Links lead to files and headings that are there."""
    text = (TOP / page).read_text()
    for number, line in enumerate(text.splitlines(), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (TOP / page).parent / path if path else TOP / page
            if not file.exists():
                complain(page, number, f"no file {target}")
            elif anchor and anchor not in headings(file):
                complain(page, number, f"no heading {target}")


def headings(file):
    """The anchors of a page's headings."""
    lines = (line for line in file.read_text().splitlines() if line.startswith("#"))
    return {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines}


def messages_of_sources():
    """The sources, with strings in one piece and "..." where a value comes into one."""
    text = re.sub(r"\\\n\s*", "", text_of("src")).replace('\\"', '"')
    return re.sub(r"\{[^{}\n\"]*\}", "...", text)


def check_messages(page):
    """Each message that is a heading, or in a table of messages, is printed by this program or shown by a guest's page."""
    own, shown = messages_of_sources(), text_of("docs/guests")
    for number, line in enumerate((TOP / page).read_text().splitlines(), 1):
        if line.startswith("### `"):
            messages = re.findall(r"`([^`]+)`", line)
        elif line.startswith("| `"):
            messages = re.findall(r"`([^`]+)`", line.split("|")[1])
        else:
            continue
        for message in messages:
            pieces = [piece.strip(" :,") for piece in message.split("...") if piece.strip(" :,")]
            if message not in OTHERS and not all(piece in own for piece in pieces) and not all(piece in shown for piece in pieces):
                complain(page, number, f"neither the sources nor a guest's page have the message `{message}`")


def check_index(docs):
    """The README names every page, and the package has it."""
    readme = (TOP / "README.md").read_text()
    assets = tomllib.loads((TOP / "Cargo.toml").read_text())["package"]["metadata"]["deb"]["assets"]
    packaged = {str(file.relative_to(TOP)) for asset in assets for file in TOP.glob(asset[0])}
    for page in docs:
        if f"]({page})" not in readme:
            complain("README.md", 1, f"no link to {page}")
        if page not in packaged:
            complain("Cargo.toml", 1, f"no asset of the package has {page}")


def main(program, qemu):
    """Checks everything."""
    docs = sorted(str(file.relative_to(TOP)) for file in (TOP / "docs").rglob("*.md"))
    parser = Parser(program, qemu)
    for page in ["README.md", "CONTRIBUTING.md"] + [page for page in docs if not page.startswith("docs/guests/")]:
        check_commands(page, parser, program)
    for page in sorted(str(file.relative_to(TOP)) for file in TOP.glob("*.md")) + docs:
        check_links(page)
    check_messages("docs/troubleshooting.md")
    check_index(docs)
    print("\n".join(f"FAIL {line}" for line in wrong) or f"ok {len(docs) + 2} pages are as they say")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
