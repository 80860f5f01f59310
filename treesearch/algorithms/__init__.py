"""The searches by their names in a config. Knows no config, no model and no clock."""

from __future__ import annotations

from treesearch.algorithms.ab_mcts import ABMCTS
from treesearch.algorithms.beam import Beam
from treesearch.algorithms.best_first import BestFirst
from treesearch.algorithms.compat.its_beam import ITSBeam
from treesearch.algorithms.compat.its_particles import ITSParticles
from treesearch.algorithms.compat.openr_mcts import OpenRMCTS
from treesearch.algorithms.compat.sal_beam import SALBeam
from treesearch.algorithms.compat.sal_best_of_n import SALBestOfN
from treesearch.algorithms.compat.sal_dvts import SALDVTS
from treesearch.algorithms.compat.tot_bfs import ToTBFS
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
    "sal_best_of_n": SALBestOfN,
    "sal_beam": SALBeam,
    "sal_dvts": SALDVTS,
    "openr_mcts": OpenRMCTS,
    "tot_bfs": ToTBFS,
    "its_particles": ITSParticles,
    "its_beam": ITSBeam,
}

__all__ = [
    "ABMCTS", "DVTS", "MCTS", "SALDVTS", "SEARCHES", "Beam", "BestFirst", "ITSBeam", "ITSParticles", "OpenRMCTS",
    "Particles", "Rebase", "SALBeam", "SALBestOfN", "Sample", "ToTBFS", "Widening",
]  # fmt: skip
