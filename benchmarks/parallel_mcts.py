"""What do simulations in flight cost in strength? MCTS with k at once, against WU-UCT, virtual loss, leaf batches.

    nice -n 5 python -m benchmarks.parallel_mcts [--quick] [--games 300] [--puzzles 800] [--json FILE]

SIMULATED: games whose values are known (benchmarks/known_trees.py); the searches are the real ones, run by the real manager,
which delivers in the order of the wishes, so that latencies change nothing. Three questions, the same games for all:

- Strength speed-up (Chaslot, Winands and van den Herik, "Parallel Monte-Carlo Tree Search", 2008): k * sequential rollouts
  that reach the same strength / parallel rollouts. Strength is simple regret: what the most visited move is worth less than
  the best. `on the clock` takes the time that the search needs where each request takes as long, instead of rollouts / k:
  it pays for the times when less than k were in flight. `faster` is that time alone at equal rollouts, whatever the strength:
  the speed-up of the paper on WU-UCT (arXiv 1810.11755), which shows the loss of performance beside it, as regret is here.
- Meetings: the share of requests whose path another request in flight has.
- Accuracy on the Game of 24 at equal rollouts, with random legal moves and a noisy scorer, less than that of k = 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.known_trees import KnownTree, NoisyGame24, play, solved
from benchmarks.rivals import WUUCT, LeafBatch, VirtualLoss
from benchmarks.strength import Array, interval, speedup
from treesearch import __version__
from treesearch.algorithms.mcts import MCTS
from treesearch.answers import AnswerRule
from treesearch.tasks import load_task
from treesearch.tree import ROOT, Tree
from treesearch.types import Problem

OURS = "ours"
KINDS: dict[str, type[MCTS]] = {OURS: MCTS, "WU-UCT": WUUCT, "virtual loss": VirtualLoss, "leaf batch": LeafBatch}
FLYING = (2, 4, 8, 16, 32)
GAMES = {"4 moves, 6 deep": (4, 6), "8 moves, 5 deep": (8, 5)}
ROLLOUTS = 256
MARKS = tuple(round(2 ** (j / 2)) for j in range(6, 18))  # rollouts at which strength is taken: 8 to 362
C = 0.4  # of UCT: the best of 0.1, 0.2, 0.4, 0.6, 0.8, 1.0 for k = 1 on other games


@dataclass(frozen=True)
class Games:
    """Many games of one search. `regret` and `time`: [game, mark]; the others are means a game."""

    regret: Array
    time: Array
    met: float
    flying: float


def played(kind: type[MCTS], k: int, game: tuple[int, int], seeds: Iterable[int], marks: tuple[int, ...]) -> Games:
    """Classical MCTS: all moves of a leaf at once, one random playout from the first new one."""
    search = kind(simulations=marks[-1], parallel=k, branch=None, c=C, rollouts=1, widening=None)
    regrets, times, met, flying = [], [], [], []
    for seed in seeds:
        known, regret, at = KnownTree(seed, *game), list[float](), list[float]()

        def watch(tree: Tree, now: float, known: KnownTree = known, regret: Any = regret, at: Any = at) -> None:
            while len(regret) < len(marks) and tree.visits[ROOT] >= marks[len(regret)]:
                regret.append(known.regret(tree))
                at.append(now)

        end = play(search, Problem("game", "game"), known.reply, seed, watch=watch)
        regrets.append(regret)
        times.append(at)
        met.append(end.met / end.jobs)
        flying.append(end.jobs / end.time)
    return Games(np.array(regrets), np.array(times), float(np.mean(met)), float(np.mean(flying)))


def strengths(name: str, seeds: range, kinds: Sequence[str], flying: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each kind of search and k, on one family of games."""
    rows, games = list[dict[str, Any]](), len(seeds)
    one = played(MCTS, 1, GAMES[name], seeds, MARKS)
    marks = tuple(mark for mark in MARKS if mark <= ROLLOUTS)
    last = len(marks) - 1
    rows.append(_row(name, "one after the other", 1, one, last, (1.0, (1.0, 1.0)), 1.0))
    for kind, k in ((kind, k) for kind in kinds for k in flying):
        many = played(KINDS[kind], k, GAMES[name], seeds, marks)

        def ratio(drawn: Any, many: Games = many, k: int = k) -> float:
            return speedup(k, one.regret[drawn], MARKS, many.regret[drawn, last], ROLLOUTS)

        value = ratio(np.arange(games))
        faster = float(one.time[:, last].mean() / many.time[:, last].mean())
        rows.append(_row(name, kind, k, many, last, (value, interval(ratio, games)), faster))
        print(_line(rows[-1]), flush=True)
    return rows


def _row(name: str, kind: str, k: int, games: Games, last: int, value: tuple[float, tuple[float, float]],
         faster: float) -> dict[str, Any]:  # fmt: skip
    regret = games.regret[:, last]
    return {
        "game": name, "search": kind, "k": k, "games": len(regret), "rollouts": ROLLOUTS, "regret": float(regret.mean()),
        "regret_error": float(regret.std() / len(regret) ** 0.5), "best_move": float((regret == 0).mean()),
        "speedup": value[0], "low": value[1][0], "high": value[1][1], "on_the_clock": value[0] * faster / k, "faster": faster,
        "met": games.met, "in_flight": games.flying,
    }  # fmt: skip


def accuracies(puzzles: int, seeds: range, kinds: Sequence[str], flying: Sequence[int]) -> list[dict[str, Any]]:
    """Game of 24 with the searches' defaults (64 simulations): accuracy less than that of k = 1, paired by puzzle."""
    asked = [p for split in ("game24", "game24:train") for p in load_task("game24").problems(split)][:puzzles]
    reply, rule, rows = NoisyGame24().reply, AnswerRule("best"), list[dict[str, Any]]()
    one = np.zeros(0)
    for kind, k in ((OURS, 1), *((kind, k) for kind in kinds for k in flying)):
        ends = [play(KINDS[kind](parallel=k), problem, reply, seed, rule) for seed in seeds for problem in asked]
        right = np.array([solved(end.answer) for end in ends], float)
        one = right if k == 1 else one
        lost = one - right
        rows.append({
            "search": kind, "k": k, "puzzles": len(asked), "seeds": len(seeds), "accuracy": float(right.mean()),
            "lost": float(lost.mean()), "lost_error": float(lost.std() / len(lost) ** 0.5),
            "met": sum(end.met for end in ends) / sum(end.jobs for end in ends),
            "in_flight": sum(end.jobs for end in ends) / sum(end.time for end in ends),
            "tokens": sum(end.answer.tokens_generated or 0 for end in ends) / len(ends),
        })  # fmt: skip
        print(_line(rows[-1]), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    head = f"{row.get('game', 'game of 24'):16} {row['search']:12} k = {row['k']:2}"
    tail = f"{row['met']:6.1%} met, {row['in_flight']:4.1f} in flight"
    if "lost" in row:
        lost = f"{100 * row['lost']:+5.1f} +- {196 * row['lost_error']:.1f} points lost"
        return f"{head}  accuracy {row['accuracy']:6.1%}  {lost}  {tail}"
    speed = f"speed-up {row['speedup']:4.1f} ({row['low']:.1f} to {row['high']:.1f}), on the clock {row['on_the_clock']:4.1f}"
    return f"{head}  regret {row['regret']:.4f}  {speed}, faster {row['faster']:4.1f}  {tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=300, help="of each family")
    parser.add_argument("--puzzles", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1, help="searches of each puzzle")
    parser.add_argument("--first", type=int, default=0, help="seed of the first game and search; the others follow")
    parser.add_argument("--searches", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--flying", type=int, nargs="+", default=FLYING, metavar="K")
    parser.add_argument("--quick", action="store_true", help="under half a minute, wide intervals")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.games, args.puzzles = 10, 20
    began = time.process_time()
    games, seeds = (range(args.first, args.first + count) for count in (args.games, args.seeds))
    print(f"SIMULATED games, {args.games} a family, {ROLLOUTS} rollouts; intervals are 95 %")
    rows = [row for name in GAMES if args.games for row in strengths(name, games, args.searches, args.flying)]
    print(f"SIMULATED Game of 24, {args.puzzles} puzzles x {args.seeds}, 64 simulations")
    points = accuracies(args.puzzles, seeds, args.searches, args.flying) if args.puzzles else []
    seconds = time.process_time() - began
    machine = {"machine": platform.machine(), "python": platform.python_version(), "treesearch": __version__}
    print(f"{seconds:.0f} s of one core ({', '.join(machine.values())})")
    if args.json is not None:
        found = {
            **machine,
            "arguments": sys.argv[1:],
            "label": "SIMULATED",
            "seconds": seconds,
            "known": rows,
            "game24": points,
        }
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
