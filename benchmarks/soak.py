"""Does a run stay healthy for hours while something breaks every minute? Real processes, SIMULATED models.

    python -m benchmarks.soak [--minutes 60] [--every 60] [--seed 0] [--rate 0.5] [--json FILE]

Three runs in turn (beam, ab_mcts, mcts) of `treesearch run --ray`, each on a local Ray of its own with two managers, two
proposers and two scorers. Problems come by standard input at a steady rate, and some requests always fail. A fault a
minute, drawn by the seed: a replica or a manager killed, frozen for good or for a moment, a prompt that kills whoever
reads it, a driver frozen; and in the first third of each run a driver killed, terminated, or out of disk, and started
again with the same folder. At the end every problem must have the answer of an undisturbed run in one process.

Needs Linux. Exits 1 if a verdict fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.health import Record, verdicts
from benchmarks.processes import family, role, usage
from benchmarks.troubled import POISON
from treesearch.config import load
from treesearch.results import read_rows
from treesearch.run import run

SILENCE = 5.0  # seconds after which whoever says nothing is replaced
FROZEN, STALLED = 6 * SILENCE, SILENCE / 2  # seconds that a process is stopped for
SAMPLE = 10.0  # seconds
ATTEMPTS = 10  # of a driver to start, on a machine that is too busy for its Ray
PATIENCE, LEFT = 180.0, 10.0  # seconds from the last problem to the end of a run, from there to that of its processes
SEARCHES = {  # and the share of the time that each gets
    "beam": ("{type: beam, beams: 4, branch: 4}", 1 / 6),
    "ab_mcts": ("{type: ab_mcts, simulations: 24, unit: answer, parallel: 4}", 1 / 6),
    "mcts": ("{type: mcts, simulations: 64, parallel: 8, branch: 4, rollouts: 1, widening: null}", 2 / 3),
}
FAULTS = ("kill proposer", "freeze proposer", "stall proposer", "kill scorer", "freeze scorer", "kill manager",
          "freeze manager", "stall manager", "stall driver", "poison prompt")  # fmt: skip
ENDS = ("kill driver", "full disk", "terminate driver")  # of a driver

Clock = Callable[[], float]


class Soak:
    """One run of `treesearch run --ray`: feeds it, breaks it, starts it again, watches it."""

    def __init__(self, folder: Path, search: str, seconds: float, given: argparse.Namespace, clock: Clock) -> None:
        self.folder, self.search, self.seconds, self.given, self.clock = folder, search, seconds, given, clock
        self.rng = random.Random(f"{given.seed} {search}")
        self.lines: list[str] = []
        self.closed = False
        self.driver: subprocess.Popen[bytes] | None = None
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.seen = Record(search, clock())
        self._place = (0, 0)  # inode of results.jsonl, bytes read of it

    def go(self) -> Record:
        """The whole run, up to its end."""
        for when, fault in self._plan():
            self.due.append((self.seen.began + when, lambda fault=fault: self._strike(fault)))  # type: ignore[misc]
        sampled = self.seen.began
        while not self._over():
            now = self.clock()
            self._feed(now - self.seen.began)
            self._attend()
            for item in sorted(item for item in self.due if item[0] <= now):
                self.due.remove(item)
                item[1]()
            self._read()
            if self.driver is not None and now >= sampled + SAMPLE:
                sampled = now
                self.seen.sample(now, self.driver.pid)
            time.sleep(0.2)
        self._read()
        self.seen.ended = self.clock()
        self._outlived("the run", list(self.seen.samples), LEFT)
        self.seen.rows = list(read_rows(self.folder))
        self.seen.expected = {row["id"]: row for row in read_rows(self._undisturbed())}
        return self.seen

    def _undisturbed(self) -> Path:
        """The folder of a run of the same problems in this process."""
        problems, out = self.folder.with_suffix(".jsonl"), self.folder.with_suffix(".calm")
        problems.write_text("".join(self.lines))
        given = settings(str(problems), self.search, "proposer.base_ms=0", "proposer.deadly=false")
        asyncio.run(run(load(None, given), out))
        return out

    def _plan(self) -> list[tuple[float, str]]:
        """(second, fault): each kind once before any comes again; those that end the driver in the first third."""
        count = max(1, int(self.seconds / self.given.every - 0.5))
        early = range(max(1, count // 3))
        ends = dict(zip(self.rng.sample(early, min(len(early), len(ENDS), max(1, count // 8))),
                        self.rng.sample(ENDS, len(ENDS)), strict=False))  # fmt: skip
        bag: list[str] = []
        plan = []
        for k in range(count):
            bag = bag or self.rng.sample(FAULTS, len(FAULTS))
            plan.append(((k + 1) * self.given.every, ends.get(k) or bag.pop()))
        return plan

    def _over(self) -> bool:
        """Whether the driver has come to its end by itself; it is ended if it does not."""
        if not self.closed or self.driver is None:
            return False
        if self.clock() > self.seen.closed + PATIENCE:
            self.seen.faulty.append(f"the run had not ended {PATIENCE:g} s after its last problem")
            self.driver.kill()
            return True
        return self.driver.poll() == 0

    # The driver

    def _attend(self) -> None:
        """Start the driver, also again."""
        if self.driver is not None and (self.driver.poll() is None or self.driver.returncode == 0):
            return
        if self.driver is not None and self.driver.returncode not in (-signal.SIGKILL, 1, 130):
            self.seen.faulty.append(f"the driver ended with {self.driver.returncode}")
        if self.seen.starts > len(self.seen.faults) + ATTEMPTS:
            raise SystemExit(f"the driver ends again and again: see {self.folder}.log")
        sets = [part for text in settings("-", self.search) for part in ("--set", text)]
        with open(f"{self.folder}.log", "ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "treesearch", "run", *sets, "--ray", "--out", self.folder], stdin=subprocess.PIPE,
                stdout=log, stderr=log, env={**os.environ, "RAY_TMPDIR": str(self.given.sessions)})  # fmt: skip
        self.seen.starts += 1
        threading.Thread(target=self._pour, args=(self.driver,), daemon=True).start()

    def _pour(self, driver: subprocess.Popen[bytes]) -> None:
        """Bring all lines to the driver's standard input, as they come."""
        assert driver.stdin is not None
        poured = 0
        try:
            while not self.closed or poured < len(self.lines):
                while poured < len(self.lines):
                    driver.stdin.write(self.lines[poured].encode())
                    poured += 1
                driver.stdin.flush()
                time.sleep(0.05)
            driver.stdin.close()
        except OSError:
            return  # it was ended

    def _feed(self, elapsed: float) -> None:
        """Problems that are due."""
        while not self.closed and len(self.seen.asked) < elapsed * self.given.rate:
            self._ask(f"question {len(self.seen.asked)}")
        if not self.closed and elapsed > self.seconds:
            self.closed, self.seen.closed = True, self.clock()

    def _ask(self, question: str) -> None:
        name = f"p{len(self.seen.asked)}"
        self.seen.asked[name] = self.clock()
        self.lines.append(json.dumps({"id": name, "question": question, "answer": name}) + "\n")

    # Faults

    def _strike(self, fault: str) -> None:
        """Do it, and have mended what does not mend itself."""
        assert self.driver is not None
        what, whom = fault.split()
        pid: int | None = self.driver.pid
        if whom in ("proposer", "scorer", "manager"):
            pid = self.rng.choice([pid for pid in family(self.driver.pid) if role(pid) == whom] or [None])
        soon = self.seen.faults and self.clock() < self.seen.faults[-1][0] + self.given.every / 2
        if pid is None or soon or self.driver.poll() is not None:  # wait for somebody to strike, and for the last fault
            self.due.append((self.clock() + 1, lambda: self._strike(fault)))
            return
        print(f"{self.clock():7.1f} s  {fault} {'' if whom == 'prompt' else pid}", flush=True)
        self.seen.faults.append((self.clock(), fault))
        if whom in ("driver", "disk") and what != "stall":
            self._mourn(fault)
        match what:
            case "poison":
                self._ask(f"{POISON} {len(self.lines)}")
            case "full":  # as if: no file of the driver's may grow
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            case "kill":
                os.kill(pid, signal.SIGKILL)
            case "terminate":
                os.kill(pid, signal.SIGTERM)
            case "freeze" | "stall":
                os.kill(pid, signal.SIGSTOP)
                wakes = FROZEN if what == "freeze" else STALLED
                self.due.append((self.clock() + wakes, lambda: self._wake(pid, what, fault)))

    def _wake(self, pid: int, what: str, fault: str) -> None:
        """What was frozen for long must be gone by now, or it holds its memory, or its card, for ever."""
        if usage(pid) is None:
            return
        if what == "freeze":
            self.seen.faulty.append(f"{fault}: process {pid} was never ended")
        os.kill(pid, signal.SIGCONT)

    def _mourn(self, fault: str) -> None:
        """The actors of a driver that ends must end too."""
        assert self.driver is not None
        actors = [(who, pid) for pid in family(self.driver.pid) if (who := role(pid))]
        self.due.append((self.clock() + FROZEN, lambda: self._outlived(fault, actors)))

    def _outlived(self, what: str, actors: list[tuple[str, int]], patience: float = 0.0) -> None:
        """Note the actors that are still there after so many seconds, and end them."""
        until = self.clock() + patience
        while left := [(who, pid) for who, pid in actors if role(pid) == who]:
            if self.clock() >= until:
                break
            time.sleep(0.2)
        for who, pid in left:
            self.seen.faulty.append(f"{who} {pid} outlived {what}")
            os.kill(pid, signal.SIGKILL)

    # What is seen

    def _read(self) -> None:
        """New lines of results.jsonl."""
        try:
            with open(self.folder / "results.jsonl", "rb") as file:
                inode, size = os.fstat(file.fileno()).st_ino, os.fstat(file.fileno()).st_size
                start = self._place[1] if self._place[0] == inode and self._place[1] <= size else 0
                file.seek(start)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._place = inode, start + len(whole)
        for line in whole.splitlines():
            self.seen.answered.setdefault(json.loads(line)["id"], self.clock())


def settings(problems: str, search: str, *more: str) -> list[str]:
    """Of a run, as `--set` takes them."""
    return [
        f"problems={problems}", "task=plain", f"search={SEARCHES[search][0]}",
        "proposer={type: 'benchmarks.troubled:Troubled', accuracy: 0.3, steps: 6}",
        "scorer={type: 'benchmarks.troubled:TroubledScorer'}",
        f"cluster={{managers: 2, proposers: 2, scorers: 2, restarts: 1000, silence: {SILENCE}}}", *more,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.5, help="problems a second")
    parser.add_argument("--keep", type=Path, help="a new folder for the runs and what their drivers say")
    parser.add_argument("--json", type=Path, help="write samples and verdicts there too")
    given = parser.parse_args()
    began = time.monotonic()
    print(f"SIMULATED models; {platform.machine()}, {os.cpu_count()} cores, seed {given.seed}", flush=True)
    soaks = []
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as temporary:
        given.sessions = temporary  # of Ray: the names of its sockets must be short
        place = given.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        for search, (_, share) in SEARCHES.items():
            soak = Soak(place / search, search, given.minutes * 60 * share, given, lambda: time.monotonic() - began)
            soaks.append(soak)
            print(f"{soak.clock():7.1f} s  {search}", flush=True)
            soak.go()
        found = list(verdicts([soak.seen for soak in soaks]))
    print(*found, sep="\n")
    if given.json is not None:
        given.json.write_text(json.dumps({
            "machine": platform.platform(), "verdicts": [asdict(verdict) for verdict in found],
            "faults": [fault for soak in soaks for fault in soak.seen.faults],
            "samples": [{"role": who, "pid": pid, "held": [(t, asdict(u)) for t, u in samples]}
                        for soak in soaks for (who, pid), samples in soak.seen.samples.items()],
        }, indent=1) + "\n")  # fmt: skip
    sys.exit(any(verdict.well is False for verdict in found))


if __name__ == "__main__":
    main()
