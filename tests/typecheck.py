"""The exceptions of mypy.ini, made anew: run this when a module has become better, or is new.

Tensors, arrays, numbers and JSON stand in for one another in ways that mypy cannot follow. Such
kinds of error are turned off module by module, each where it still occurs. All others are found.
A module that does not exist is never excepted. (A name that does not exist is found by ruff, too.)
"""

import re
import subprocess
import sys
from collections import defaultdict

from sync import ROOT

CONFIG = ROOT / "mypy.ini"
MARK = "# What mypy cannot follow, by module; written by tests/typecheck.py, to become shorter."
NEVER = {"import-not-found", "syntax", "used-before-def"}
FOUND = re.compile(r"^(sentiment_kit\S*)\.py:\d+: error: .*\[([a-z-]+)\]$")


def mypy(*options: str) -> str:
    "What mypy says of the package."
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def general() -> str:
    "mypy.ini without its exceptions."
    return CONFIG.read_text(encoding="utf-8").partition(MARK)[0].rstrip() + "\n"


def main() -> None:
    CONFIG.write_text(general(), encoding="utf-8")
    codes = defaultdict(set)
    for line in mypy().splitlines():
        if (match := FOUND.match(line)) and match[2] not in NEVER:
            codes[match[1].replace("/", ".").removesuffix(".__init__")].add(match[2])
    lines = [general(), MARK]
    for module, found in sorted(codes.items()):
        lines += [f"[mypy-{module}]", f"disable_error_code = {', '.join(sorted(found))}"]
    CONFIG.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(codes)} modules with exceptions, {sum(map(len, codes.values()))} in all")
    print(mypy(), end="")


if __name__ == "__main__":
    main()
