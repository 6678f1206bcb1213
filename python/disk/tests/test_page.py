"""The Python of docs/disk.md runs, and prints what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "disk.md"


def test_the_page_prints_what_it_says(capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    shown = [(code, blocks[number + 1]) for number, (kind, code) in enumerate(blocks) if kind == "python"]
    assert shown
    for code, (kind, printed) in shown:
        exec(compile(code, str(PAGE), "exec"), {})
        assert (kind, printed) == ("text", capsys.readouterr().out)
