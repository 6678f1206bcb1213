"""For ci.sh: prints the script steps of a GitHub workflow as shell functions step_1, step_2 ..., with names and the job's environment.

Reads what examples/ci has, not YAML in general: steps are items of six blanks, a script stands behind "run:" or below "run: |".
"""
import re
import shlex
import sys

ITEM, KEYS = "      - ", "        "


def steps(lines):
    """Of each step its keys and values."""
    found = []
    for line in lines[lines.index("    steps:") + 1:]:
        if line.startswith(ITEM):
            found.append({})
            line = KEYS + line[len(ITEM):]
        if not found:
            continue
        key = re.match(KEYS + r"([a-z]+): ?(.*)", line)
        if key:
            last, value = key[1], key[2]
            found[-1][last] = "" if value == "|" else value
        elif line.startswith(KEYS + "  ") and found[-1]:
            found[-1][last] += line[len(KEYS) + 2:] + "\n"
    return found


def environment(lines):
    """The job's variables."""
    inside, found = False, {}
    for line in lines:
        pair = re.match(r"      ([A-Z_]+): (.+)", line)
        if line == "    env:":
            inside = True
        elif inside and pair:
            found[pair[1]] = pair[2]
        elif inside and not line.startswith("      "):
            break
    return found


def main(workflow):
    """Prints all of it, for bash to read."""
    with open(workflow, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for name, value in environment(lines).items():
        print(f"export {name}={shlex.quote(value)}")
    scripts = [step for step in steps(lines) if "run" in step]
    print(f"steps={len(scripts)}")
    for number, step in enumerate(scripts, 1):
        print(f"names[{number}]={shlex.quote(step.get('name', ''))}")
        print(f"conditions[{number}]={shlex.quote(step.get('if', ''))}")
        print(f"scripts[{number}]={shlex.quote(step['run'])}")


if __name__ == "__main__":
    main(sys.argv[1])
