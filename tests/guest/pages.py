"""For pages.sh: takes a page apart into steps, and compares what a step printed with what the page shows.

    pages.py steps PAGE FOLDER    makes FOLDER/NN.host, NN.guest (a command a line) and NN.shown (the session, or empty: not shown),
                                  and for a guest NN.boot: the value of VUZ_GUEST, then boot.sh's options
    pages.py compare SHOWN FILE   exits with 1 and a line where FILE is not the session SHOWN
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pages


def steps(page, folder):
    """Host commands up to a boot.sh are a step, the guest's sessions from there to the next host commands another one."""
    boot, number = None, 0

    def step(kind, commands, shown):
        nonlocal number
        number += 1
        base = f"{folder}/{number:02}"
        Path(f"{base}.{kind}").write_text("".join(command.text + "\n" for command in commands))
        Path(f"{base}.shown").write_text("".join(line + "\n" for line in shown))
        if kind == "guest":
            Path(f"{base}.boot").write_text("\n".join(boot) + "\n")

    guest = []
    for block in pages.blocks(page):
        if block.kind == "guest":
            guest += block.commands
            continue
        if guest:
            step("guest", guest, pages.session(guest))
            guest = []
        if block.kind == "host":
            step("host", block.commands, pages.session(block.commands))
        elif block.kind == "commands":
            host = []
            for command in block.commands:
                if "qemu-scripts/boot.sh" in command.text:
                    flavour = [word for word in command.text.split() if word.startswith("VUZ_GUEST=")]
                    boot = [flavour[0].split("=")[1] if flavour else "small"] + command.words()[1:]
                else:
                    host.append(command)
            if host:
                step("host", host, [])
    if guest:
        step("guest", guest, pages.session(guest))


def compare(shown, printed):
    """Exits with 1 where they differ."""
    wrong = pages.difference(Path(shown).read_text().splitlines(), Path(printed).read_text(errors="replace").splitlines())
    if wrong:
        sys.exit(wrong)


if __name__ == "__main__":
    {"steps": steps, "compare": compare}[sys.argv[1]](*sys.argv[2:])
