"""The searches by their names in a config. Knows no config, no model and no clock."""

from __future__ import annotations

from treesearch.algorithms.ab_mcts import ABMCTS
from treesearch.algorithms.beam import Beam
from treesearch.algorithms.best_first import BestFirst
from treesearch.algorithms.compat.sal_beam import SALBeam
from treesearch.algorithms.dvts import DVTS
from treesearch.algorithms.mcts import MCTS, Widening
from treesearch.algorithms.particles import Particles
from treesearch.algorithms.rebase import Rebase
from treesearch.algorithms.sample import Sample

SEARCHES: dict[str, type] = {
    "sample": Sample,
    "beam": Beam,
    "dvts": DVTS,
    "rebase": Rebase,
    "particles": Particles,
    "best_first": BestFirst,
    "ab_mcts": ABMCTS,
    "mcts": MCTS,
    "sal_beam": SALBeam,
}

__all__ = [
    "ABMCTS", "DVTS", "MCTS", "SEARCHES", "Beam", "BestFirst", "Particles", "Rebase", "SALBeam", "Sample", "Widening",
]  # fmt: skip
