"""For ci.sh: reads GitHub's workflows and actions as a runner does.

ci.py job ACTION WORKFLOW [INPUT=VALUE]...
    Prints the script steps of an action, for bash to read: the arrays names, ids, conditions, environments, scripts, and the number steps.
    Its inputs are those that the workflow's job gives it, then those of the command line, else their defaults. An environment is code that
    exports the step's variables; what a step puts out is asked of the function "output ID NAME" when that code is run.
ci.py scripts FILE FOLDER
    Writes the script of each step of a workflow or an action into a file of its own, for shellcheck. What is in ${{ }} becomes a word.
    Complains about steps, jobs and permissions that are not right, and about actions of a generation that runs on a Node out of support.
"""
import re
import shlex
import sys
from pathlib import Path

import yaml

# The first generation of each action that runs on Node 24.
NODE_24 = {"actions/checkout": 5, "actions/cache": 5, "actions/upload-artifact": 6, "actions/download-artifact": 7}
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")


def load(file):
    """A YAML file. (YAML takes the key "on" for a truth.)"""
    with open(file, encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def all_steps(document):
    """The steps of an action or of all jobs of a workflow."""
    if "runs" in document:
        return document["runs"]["steps"]
    return [step for job in document["jobs"].values() for step in job["steps"]]


def value(text, inputs):
    """A value as bash code: its expressions are inputs, or outputs of earlier steps."""
    code, end = "", 0
    for match in EXPRESSION.finditer(text):
        code += shlex.quote(text[end:match.start()]) if match.start() > end else ""
        kind, *path = match[1].split(".")
        if kind == "inputs":
            code += shlex.quote(inputs[path[0]])
        elif kind == "steps" and path[1] == "outputs":
            code += f'"$(output {path[0]} {path[2]})"'
        else:
            sys.exit(f"ci.py does not know the expression {match[0]}")
        end = match.end()
    return code + shlex.quote(text[end:])


def job(action_file, workflow_file, *given):
    """Prints an action's script steps."""
    action, workflow = load(action_file), load(workflow_file)
    inputs = {name: about.get("default", "") for name, about in action["inputs"].items()}
    uses = [step for step in all_steps(workflow) if "/vhost-user-zbd@" in step.get("uses", "")]
    for name, text in list(uses[0]["with"].items()) + [pair.split("=", 1) for pair in given]:
        if name not in inputs:
            sys.exit(f"the action has no input {name}")
        inputs[name] = text
    missing = [name for name, about in action["inputs"].items() if about.get("required") and not inputs[name]]
    if missing:
        sys.exit(f"the action's input {missing[0]} is missing")
    scripts = [step for step in all_steps(action) if "run" in step]
    print(f"steps={len(scripts)}")
    for number, step in enumerate(scripts, 1):
        exports = [f"export {name}={value(text, inputs)}" for name, text in step.get("env", {}).items()]
        for array, text in (("names", step["name"]), ("ids", step.get("id", "")), ("conditions", step.get("if", "")),
                            ("environments", "\n".join(exports)), ("scripts", step["run"])):
            print(f"{array}[{number}]={shlex.quote(text)}")


def scripts_of(file, folder):
    """Writes the scripts, and complains."""
    document, wrong = load(file), []
    if "jobs" in document and True not in document:
        wrong.append("says not when it runs")
    for number, step in enumerate(all_steps(document), 1):
        name = step.get("name", f"step {number}")
        if ("run" in step) == ("uses" in step):
            wrong.append(f"{name}: has to have either run or uses")
        elif "uses" in step:
            action, _, version = step["uses"].partition("@")
            major = re.match(r"v(\d+)", version)
            if action.startswith("actions/") and (action not in NODE_24 or not major or int(major[1]) < NODE_24[action]):
                wrong.append(f"{name}: {step['uses']} is not known to run on Node 24")
        else:
            if "runs" in document and step.get("shell") != "bash":
                wrong.append(f"{name}: an action's script has to name its shell, bash")
            # What comes from outside is to reach a script by its environment, where it is no code.
            if EXPRESSION.search(step["run"]):
                wrong.append(f"{name}: has an expression in its script")
            Path(folder, f"{Path(file).stem}-{number}.sh").write_text("#!/usr/bin/env bash\nset -eo pipefail\n" + step["run"], encoding="utf-8")
    for complaint in wrong:
        print(f"{file}: {complaint}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit({"job": job, "scripts": scripts_of}[sys.argv[1]](*sys.argv[2:]))
