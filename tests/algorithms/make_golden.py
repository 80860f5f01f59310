"""Writes tests/golden/*.json: a small tree per search. `python -m tests.algorithms.make_golden`, then read the diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.algorithms.driver import run
from treesearch.algorithms import (
    ABMCTS,
    DVTS,
    MCTS,
    SALDVTS,
    Beam,
    BestFirst,
    ITSBeam,
    ITSParticles,
    OpenRMCTS,
    Particles,
    Rebase,
    SALBeam,
    SALBestOfN,
    Sample,
    ToTBFS,
)
from treesearch.algorithms.base import Search
from treesearch.tree import Tree

FOLDER = Path(__file__).resolve().parents[1] / "golden"
SMALL: dict[str, Search] = {
    "sample": Sample(n=4),
    "beam": Beam(beams=2, branch=2),
    "beam_lookahead": Beam(beams=2, branch=2, lookahead=1),
    "dvts": DVTS(subtrees=2, branch=2),
    "rebase": Rebase(width=5),
    "particles": Particles(n=4),
    "best_first": BestFirst(branch=2, expansions=8),
    "ab_mcts_step": ABMCTS(simulations=16),
    "ab_mcts_answer": ABMCTS(simulations=6, unit="answer", prior="beta"),
    "mcts_default": MCTS(simulations=10),
    "mcts": MCTS(simulations=10, parallel=2, branch=2, c=1.4, rollouts=1, max_children=8, widening=None),
    "mcts_puct": MCTS(
        simulations=10, parallel=2, branch=2, c=1.4, max_children=8, widening=None, selection="puct", rollouts=0
    ),
    "sal_best_of_n": SALBestOfN(n=3),
    "sal_beam": SALBeam(n=4, beam_width=2),
    "sal_dvts": SALDVTS(n=4, beam_width=2, lookahead=1),
    "openr_mcts": OpenRMCTS(num_sequence=4, width=2),
    "tot_bfs": ToTBFS(n_generate_sample=3, n_select_sample=2),
    "its_particles": ITSParticles(n=4),
    "its_beam": ITSBeam(n=4, beam_width=2),
}


def table(tree: Tree) -> list[list[Any]]:
    """[parent, visits, closed, text] of each node."""
    return [
        [tree.parent[i], tree.visits[i], tree.closed[i], "" if step is None else step.text]
        for i, step in enumerate(tree.steps)
    ]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, search in SMALL.items():
        rows = ",\n".join(json.dumps(row) for row in table(run(search)))
        (FOLDER / f"{name}.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
