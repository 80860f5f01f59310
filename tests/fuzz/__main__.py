"""`python -m tests.fuzz --count N`: N inputs for each target (fewer where one costs more), on one core."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.runner import Failed, fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    args = parser.parse_args()
    failed = 0
    for name in args.target or TARGETS:
        count = max(1, int(args.count * TARGETS[name].share))
        try:
            print(fuzz(name, count, args.seed, args.first).line(name), flush=True)
        except Failed as failure:
            failed += 1
            print(f"FAILED {failure}", flush=True)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, seed {args.seed}, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
