"""The compat searches against plain loops of the same rules, over many seeded models: outputs, draws and statistics."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.algorithms import references
from tests.algorithms.driver import replies, run, searched
from tests.algorithms.references import Draws, Path, Place, Salted
from treesearch.algorithms import SALDVTS, ITSBeam, ITSParticles, OpenRMCTS, SALBeam, SALBestOfN, ToTBFS
from treesearch.algorithms.base import Search
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


def outputs(tree: Tree) -> list[Path]:
    assert tree.outputs is not None
    return [tree.path(node) for node in tree.outputs]


def models(count: int, boxes: float = 0.0, apart: bool = False) -> Iterator[tuple[int, Salted]]:
    """Seeded models; half of them give few different scores, texts and lengths (unless texts shall be kept apart)."""
    for seed in range(count):
        letters = 26 if apart or seed % 2 else 3
        yield seed, Salted(letters, 3 + seed % 5, salt=seed, grades=(1000, 3)[seed % 4 > 1], boxes=boxes)


@pytest.mark.parametrize(("n", "m", "iterations"), [(4, 4, 40), (8, 4, 40), (6, 4, 3), (4, 1, 5), (2, 4, 4), (8, 2, 1)])
def test_sal_beam_is_the_plain_loop(n: int, m: int, iterations: int) -> None:
    rules = itertools.cycle(itertools.product(("last", "min", "prod"), (False, True), (False, True)))
    for (seed, model), (how, merge, best_first) in zip(models(60), rules, strict=False):
        draw = Draws(model)
        expected = references.sal_beam(draw, n, m, iterations, how, merge, best_first)
        tree, _, drawn = searched(SALBeam(n, m, iterations, how, merge, best_first), model)  # type: ignore[arg-type]
        assert outputs(tree) == expected, f"model {seed}, {how}, merge {merge}, sort_completed {best_first}"
        assert drawn == draw.count


@pytest.mark.parametrize(
    ("n", "m", "iterations", "lookahead"), [(4, 4, 40, 0), (8, 2, 40, 0), (6, 3, 2, 0), (4, 2, 40, 1), (8, 4, 3, 2)]
)
def test_sal_dvts_is_the_plain_loop(n: int, m: int, iterations: int, lookahead: int) -> None:
    """With lookahead all texts differ: equal paths of two subtrees share their samples, whoever asks first."""
    for seed, model in models(60, boxes=0.1, apart=lookahead > 0):
        draw, how = Draws(model), ("last", "min", "prod")[seed % 3]
        expected = references.sal_dvts(draw, n, m, iterations, lookahead, how)
        tree, _, drawn = searched(SALDVTS(n, m, iterations, lookahead, how), model)  # type: ignore[arg-type]
        assert outputs(tree) == expected, f"model {seed}, {how}"
        assert drawn == draw.count


def test_sal_outputs_are_unfinished_ones_too() -> None:
    """Otherwise the comparison above would say nothing of them."""
    trees = [searched(SALDVTS(8, 4), model)[0] for _, model in models(20, boxes=0.1)]
    finishes = Counter(path[-1].finish for tree in trees for path in outputs(tree))
    assert finishes["step"] > 20 and finishes["answer"] > 20
    assert [candidate.node for candidate in trees[0].candidates()] == trees[0].outputs


def test_sal_searches_sample_n_chains_an_iteration() -> None:
    """As search-and-learn: n a level in beam search until no beam is left, beam_width for each live subtree in DVTS."""
    for _, model in models(20):
        tree, made, _ = searched(SALBeam(n=8, beam_width=4), model)
        assert set(Counter(tree.depth[wish.leaf] for wish in made).values()) == {8}
        tree, made, _ = searched(SALDVTS(n=8, beam_width=4), model)
        assert {wish.n for wish in made} == {4}
        assert all(count <= 2 for count in Counter(tree.depth[wish.leaf] for wish in made).values())
        assert len(outputs(tree)) == 8
    tree, made, _ = searched(SALBestOfN(n=8), model)
    assert made == [Expand(ROOT, 1, "answer")] * 8 and len(outputs(tree)) == 8


@pytest.mark.parametrize("by_prior", [False, True])
def test_openr_mcts_is_the_plain_loop(by_prior: bool) -> None:
    for seed, model in models(150):
        width, depth = 2 + seed % 3, 2 + seed % 4
        draw = Draws(model)
        expected, root = references.openr_mcts(draw, 12, width, depth, by_prior, random.Random(seed))
        search = OpenRMCTS(num_sequence=12, width=width, depth=depth, select_by_prior=by_prior)
        tree, made, drawn = searched(search, model, seed)
        assert outputs(tree) == expected, f"model {seed}"
        assert drawn == draw.count and {wish.n for wish in made} == {width}
        assert statistics(tree) == {place.path: place.backed for place in places(root)}


def places(place: Place) -> Iterator[Place]:
    if place.backed:
        yield place
    for child in place.below or ():
        yield from places(child)


def statistics(tree: Tree) -> dict[Path, object]:
    """Visits and mean of each visited node, comparable with the values that were backed up there."""
    return {
        tree.path(node): Backed(tree.visits[node], tree.mean(node)) for node in range(len(tree)) if tree.visits[node]
    }


class Backed:
    def __init__(self, visits: int, mean: float) -> None:
        self.visits, self.mean = visits, mean

    def __eq__(self, values: object) -> bool:
        assert isinstance(values, list)
        return len(values) == self.visits and sum(values) / len(values) == pytest.approx(self.mean)


@pytest.mark.parametrize("select", ["greedy", "sample"])
def test_tot_bfs_is_the_plain_loop(select: str) -> None:
    for seed, model in models(200):
        steps, samples, keep = 2 + seed % 3, 1 + seed % 4, 1 + seed % 5
        draw = Draws(model)
        expected = references.tot_bfs(draw, steps, samples, keep, select, random.Random(seed))
        tree, _, drawn = searched(ToTBFS(steps, samples, keep, method_select=select), model, seed)  # type: ignore[arg-type]
        assert outputs(tree) == expected, f"model {seed}"
        assert drawn == draw.count


@pytest.mark.parametrize("selection", ["argmax", "sample", None])
def test_its_particles_is_the_plain_loop(selection: str | None) -> None:
    for seed, model in models(150, boxes=0.1):
        n, max_steps, how = 2 + seed % 7, 1 + seed % 5, ("last", "min", "prod")[seed % 3]
        draw = Draws(model)
        expected = references.its_particles(draw, n, max_steps, how, selection, random.Random(seed))
        search = ITSParticles(n, max_steps, aggregate=how, selection=selection)  # type: ignore[arg-type]
        tree, _, drawn = searched(search, model, seed)
        assert outputs(tree) == expected, f"model {seed}, {how}"
        assert drawn == draw.count


def test_its_beam_is_the_plain_loop() -> None:
    for seed, model in models(150, boxes=0.1):
        width, copies, max_steps = 1 + seed % 4, 1 + seed % 3, 1 + seed % 5
        draw, how = Draws(model), ("last", "min", "prod")[seed % 3]
        expected = references.its_beam(draw, width * copies, width, max_steps, how)
        tree, _, drawn = searched(ITSBeam(width * copies, width, max_steps, aggregate=how), model)  # type: ignore[arg-type]
        assert outputs(tree) == expected, f"model {seed}, {how}"
        assert drawn == draw.count


@pytest.mark.parametrize("search", [SALBeam(8, 4), SALDVTS(8, 4), OpenRMCTS(6, 3), ToTBFS(4, 3, 2), ITSParticles(6)])
def test_a_search_closed_early_offers_what_it_has(search: Search) -> None:
    """Its outputs so far, where it has named some; else the finished leaves, as of particles, which name theirs last."""
    named = 0
    for _, model in models(10):
        for resumes in range(replies(search, model)):
            tree = run(search, model, resumes=resumes)
            finished = [node for node in range(1, len(tree)) if tree.finish(node) == "answer"]
            offered = [candidate.node for candidate in tree.candidates()]
            assert offered == (finished if tree.outputs is None else tree.outputs)
            named += bool(tree.outputs)
    assert (named == 0) == isinstance(search, ITSParticles)
