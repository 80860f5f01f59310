"""Sampling with stops, and the searches that go level by level."""

from __future__ import annotations

from collections import Counter

from tests.algorithms.driver import Expander, FakeModel, replies, run, searched
from treesearch.algorithms import DVTS, Beam, BestFirst, Particles, Rebase, Sample
from treesearch.tree import ROOT, Tree
from treesearch.types import GREEDY, Expand


def test_sampling_stops_once_the_answer_is_certain() -> None:
    """With one possible answer 9 of 16 votes cannot be overtaken, and 4 are likely enough."""
    one = FakeModel(answers=1)
    assert replies(Sample(parallel=1), one) == 16
    assert replies(Sample(parallel=1, stop="certain"), one) == 9
    assert replies(Sample(parallel=1, stop="likely"), one) == 4
    assert len(searched(Sample(stop="certain"), one)[1]) == 16  # nothing saved: all were asked at once


def test_a_certain_stop_names_the_answer_of_the_whole_vote() -> None:
    def leader(search: Sample, model: FakeModel) -> str | None:
        return Counter(c.canonical for c in run(search, model).candidates()).most_common(1)[0][0]

    for depth in range(1, 8):
        model = FakeModel(depth=depth, letters=26, answers=2)
        assert leader(Sample(n=15, parallel=2, stop="certain"), model) == leader(Sample(n=15), model)


def test_sampling_never_has_more_in_flight_than_parallel_and_replaces_failed_chains() -> None:
    tree, made, _ = searched(Sample(n=20, parallel=3), FakeModel(failures=0.05))
    assert len(tree.children[ROOT]) == 20 and len(made) >= 20


def test_beam_goes_on_from_the_best_and_asks_branch_per_survivor() -> None:
    model = FakeModel(letters=26, depth=5)
    tree, made, _ = searched(Beam(beams=3, branch=2), model)
    assert made[0] == Expand(ROOT, 6) and {wish.n for wish in made[1:]} == {2}
    best = sorted(tree.children[ROOT], key=tree.score, reverse=True)[:3]
    assert [w.leaf for w in made[1:] if tree.depth[w.leaf] == 1] == [node for node in best if tree.is_open(node)]


def test_beam_merges_equal_paths_but_keeps_every_candidate() -> None:
    model = FakeModel(letters=1, depth=4)
    tree, made, _ = searched(Beam(beams=4, branch=4), model)
    assert all(
        Counter(tree.depth[wish.leaf] for wish in made)[depth] == 1 for depth in {tree.depth[w.leaf] for w in made}
    )
    _, apart, _ = searched(Beam(beams=4, branch=4, merge=False), model)
    assert len(apart) > len(made)
    finished = [node for node in range(len(tree)) if tree.finish(node) == "answer"]
    assert [candidate.node for candidate in tree.candidates()] == finished


def test_lookahead_is_greedy_and_the_search_goes_on_from_the_tip() -> None:
    tree, made, _ = searched(Beam(beams=2, branch=2, lookahead=2), FakeModel(letters=26, depth=6))
    ahead = [wish for wish in made if wish.sampling == GREEDY]
    grown = [wish.leaf for wish in made if wish.sampling is None]
    assert ahead and all(wish.n == 1 for wish in ahead)
    assert {tree.depth[leaf] for leaf in grown} == set(range(max(tree.depth[leaf] for leaf in grown) + 1))


def test_subtrees_of_dvts_do_not_wait_for_each_other() -> None:
    """One reply at the root is enough for its subtree to go on."""
    tree = Tree(0)
    expander, generator = Expander(tree, FakeModel(letters=26, depth=9)), DVTS(subtrees=2, branch=2).search(tree)
    first = next(generator)
    assert first == [Expand(ROOT, 2), Expand(ROOT, 2)]
    (second,) = generator.send(expander.reply(first[0]))
    assert tree.depth[second.leaf] == 1


def test_enumerating_searches_ask_for_all_at_every_node() -> None:
    for search in (Beam(branch=None), DVTS(branch=None), BestFirst(branch=None)):
        assert {wish.n for wish in searched(search, FakeModel())[1]} == {None}


def test_rebase_and_particles_ask_their_width_at_every_level() -> None:
    tree, made, _ = searched(Rebase(width=8), FakeModel(letters=26, depth=4))
    finished = Counter(tree.depth[c.node] for c in tree.candidates())
    width = 8
    for depth in sorted({tree.depth[wish.leaf] for wish in made}):
        width -= finished[depth]
        assert sum(wish.n or 0 for wish in made if tree.depth[wish.leaf] == depth) == width
    _, made, _ = searched(Particles(n=8), FakeModel(letters=26, depth=4))
    assert made[0].n == 8 and all(1 <= (wish.n or 0) <= 8 for wish in made)


def test_best_first_expands_the_highest_open_score() -> None:
    tree, made, _ = searched(BestFirst(branch=3, expansions=5), FakeModel(letters=26, depth=9))
    leaves = [node for node in tree.children[ROOT] if tree.is_open(node)]
    assert len(made) == 5 and made[1].leaf == max(leaves, key=tree.score)
