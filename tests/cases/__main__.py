from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import CASES, names, verdicts


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cases", description="Judge what comes of every input of every folder."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="folders; default all")
    parser.add_argument("--cases", type=Path, default=CASES, help="the folder of these folders")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "TRANSFORMERS_VERBOSITY": "error"}
    there = names(asked.cases)
    if missing := [name for name in asked.names if name not in there] or (not there and [str(asked.cases)]):
        print(f"there is no {', '.join(missing)}; there are: {', '.join(there) or 'none'}", file=sys.stderr)
        return 2
    count = wrong = 0
    for name in asked.names or there:
        for given, right, said in verdicts(name, asked.cases):
            print(f"{'right' if right else 'wrong'}  {name}/{given}{': ' if said else ''}{said[:400]}", flush=True)
            count, wrong = count + 1, wrong + (not right)
    print(f"{count - wrong} of {count} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
