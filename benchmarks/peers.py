"""What does the tree code of others cost? Microseconds per node, beside ours, in one process on the same made-up steps.

No model, no loop: whoever decides what to grow next is asked, and told what came of it. `pip install -e '.[bench]'`
installs the others; without them there are no rows for them.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from treesearch.algorithms import MCTS, Beam
from treesearch.manager import Manager
from treesearch.tree import Tree
from treesearch.types import Expansion, Problem, Step

BRANCH = 4
DEPTH = 32  # steps of the longest path
INSTALL = "pip install treequest==0.3.3 its_hub==1.2.0"
SLICE = 0.1  # of the nodes: the last tenth of a tree is what is measured
Code = Callable[[int], Iterator[int]]  # nodes to grow -> after each piece of work, how many there are


def steps() -> Iterator[Step]:
    """Made-up steps, scored at random by a fixed seed."""
    rng, ids = random.Random(0), tuple(range(10))
    while True:
        yield Step(f"step {rng.randrange(10**9)}\n", ids, 10, -1.0, rng.random())


def per_node(code: Code, nodes: int) -> float:
    """Processor microseconds per node: over the last tenth of a tree of so many nodes, over all of a beam search."""
    last = 1.0 if code in WHOLE else SLICE
    before, since = 0, time.process_time()
    for count in code(nodes):
        if before < (1 - last) * nodes <= count:
            before, since = count, time.process_time()
        if count >= nodes:
            break
    return (time.process_time() - since) / (count - before) * 1e6


def _mcts(nodes: int) -> MCTS:
    """With the exploration of treequest's, one simulation at a time as there."""
    return MCTS(simulations=nodes, branch=BRANCH, c=math.sqrt(2), widening=None, parallel=1)


def ours_mcts(nodes: int) -> Iterator[int]:
    """Our search and tree alone, as a generator is driven."""
    tree, made = Tree(), steps()
    wishes = _mcts(nodes).search(tree)
    waiting = deque(next(wishes))
    while waiting:
        leaf = waiting.popleft().leaf
        waiting.extend(wishes.send(_grown(leaf, tree, made)))
        yield len(tree)


def ours_managed(nodes: int) -> Iterator[int]:
    """The same through the manager: jobs with digests, seeds and paths, replies in their turn."""
    manager, made = Manager(_mcts(nodes)), steps()
    waiting = deque(manager.open(Problem("p", "question"), 0.0).jobs)
    tree = manager.live["p"].tree
    while waiting:
        job = waiting.popleft()
        waiting.extend(manager.deliver(job.id, _grown(job.leaf, tree, made), 0.0).jobs)
        yield len(tree)


def ours_beam(nodes: int) -> Iterator[int]:
    """Beam search of as many beams as make so many nodes within DEPTH levels, at one stroke."""
    tree, made = Tree(), steps()
    wishes = Beam(beams=_beams(nodes), branch=BRANCH, depth=2 * DEPTH).search(tree)
    waiting = deque(next(wishes))
    while waiting and len(tree) < nodes:
        wish = waiting.popleft()
        waiting.extend(wishes.send(Expansion(wish.leaf, tuple([(next(made),) for _ in range(wish.n or 1)]))))
    yield len(tree)


def _beams(nodes: int) -> int:
    return -(-nodes // (BRANCH * DEPTH))


def _grown(leaf: int, tree: Tree, made: Iterator[Step]) -> Expansion:
    chains = [next(made) for _ in range(BRANCH)]
    if tree.depth[leaf] + 1 >= DEPTH:
        chains = [Step(s.text, s.ids, s.tokens, s.logprob, s.score, "answer") for s in chains]
    return Expansion(leaf, tuple([(step,) for step in chains]))


def treequest_mcts(nodes: int) -> Iterator[int]:
    """treequest's StandardMCTS, a node by each ask and tell, four to a leaf as ours."""
    from treequest.algos.standard_mcts import StandardMCTS

    yield from _asked(StandardMCTS(samples_per_action=BRANCH))


def treequest_ab_mcts(nodes: int) -> Iterator[int]:
    """treequest's AB-MCTS-A."""
    from treequest import ABMCTSA

    yield from _asked(ABMCTSA())


def _asked(search: Any) -> Iterator[int]:
    """Nodes after each ask and tell of one of treequest's searches."""
    state, made = search.init_tree(), steps()
    while True:
        state, trial = search.ask(state, ["step"])
        step = next(made)
        state = search.tell(state, trial.trial_id, (step.text, step.score))
        yield len(state.tree)


class _Steps:
    """What its_hub's beam search calls for steps: every path goes on until DEPTH."""

    def __init__(self) -> None:
        self.made, self.count = steps(), 0

    async def aforward(self, lm: Any, prompts: list[str], so_far: list[list[str]], **_: Any) -> list[tuple[str, bool]]:
        self.count += len(prompts)
        return [(next(self.made).text, len(path) + 1 >= DEPTH) for path in so_far]

    def _post_process(self, path: list[str], stopped: bool = False) -> str:
        return "".join(path)


class _Scores:
    async def ascore(self, prompt: str, texts: list[str]) -> list[float]:
        return [len(text) % 97 / 97 for text in texts]


def its_hub_beam(nodes: int) -> Iterator[int]:
    """its_hub's BeamSearch over the same number of levels; it is one call, so its whole is measured."""
    import asyncio

    from its_hub.core.algorithms.beam_search import BeamSearch

    made: Any = _Steps()
    beams = _beams(nodes)
    asyncio.run(BeamSearch(made, _Scores(), beams).ainfer(None, "question", beams * BRANCH))  # type: ignore[arg-type]
    yield made.count


WHOLE = (ours_beam, its_hub_beam)
OURS: dict[str, Code] = {"mcts": ours_mcts, "mcts, managed": ours_managed, "beam": ours_beam}
THEIRS: dict[
    str, tuple[str, Code, str, int]
] = {  # row -> package, its code, ours beside it, most nodes in bearable time
    "treequest mcts": ("treequest", treequest_mcts, "mcts", 10_000),
    "treequest ab_mcts_a": ("treequest", treequest_ab_mcts, "mcts", 1_000),
    "its_hub beam": ("its_hub", its_hub_beam, "beam", 10_000),
}


def installed(package: str) -> str | None:
    """Its version; None if it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def side_by_side(sizes: Sequence[int]) -> Iterator[tuple[str, int, float, str, float]]:
    """(row, nodes, its microseconds per node, ours, our microseconds per node) for each of theirs that is installed."""
    for code in OURS.values():
        per_node(code, 100)  # imports and caches are warm
    for row, (package, code, ours, most) in THEIRS.items():
        if installed(package) is None:
            continue
        per_node(code, 100)
        for nodes in sizes:
            if nodes <= most:
                mine = min(per_node(OURS[ours], nodes) for _ in range(3))
                yield row, nodes, per_node(code, nodes), ours, mine
