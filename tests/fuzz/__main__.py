"""`python -m tests.fuzz --count N`: N inputs for each target (fewer where one costs more), on one core.

In rounds over all targets, each told with the sums so far: whoever stops it knows what was done.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.runner import Failed, Outcome, fuzz
from tests.fuzz.targets import TARGETS

ROUND = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    args = parser.parse_args()
    failed, done = 0, dict.fromkeys(args.target or TARGETS, Outcome())
    for start in range(args.first, args.first + args.count, ROUND):
        for name in list(done):
            share = TARGETS[name].share
            first, last = (int(k * share) for k in (start, min(start + ROUND, args.first + args.count)))
            try:
                done[name] += fuzz(name, max(1, last - first), args.seed, first)
                print(done[name].line(name), flush=True)
            except Failed as failure:
                failed += 1
                del done[name]
                print(f"FAILED {failure}", flush=True)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, seed {args.seed}, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
