"""Runs one search in process against a keyed fake model. Knows no engine: replies come in issue order."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from treesearch.algorithms.base import Search
from treesearch.tree import ROOT, Tree
from treesearch.types import GREEDY, Chain, Expand, Expansion, Step, digest, path_digest


@dataclass(frozen=True)
class FakeModel:
    """Steps are a function of (path, chain index): a letter of `letters`, finished at `depth` or by chance."""

    letters: int = 4
    depth: int = 4
    answers: int = 3
    failures: float = 0.0

    def chain(self, path: int, depth: int, index: int, until: str) -> Chain:
        """A chain below the path of this digest: one step, or all to the answer."""
        steps: list[Step] = []
        while not steps or (until != "step" and steps[-1].finish == "step"):
            step = self._step(digest(path, index), depth + len(steps) + 1)
            steps.append(step)
            path, index = path_digest(path, step), 0
        return tuple(steps)

    def _step(self, key: int, depth: int) -> Step:
        text = "abcdefghijklmnopqrstuvwxyz"[key % self.letters]
        score = key // 64 % 1000 / 1000
        logprob = -(1 + key // 4096 % 50 / 10)
        if depth < self.depth and key // 7 % 5:
            return Step(text, tokens=2, logprob=logprob, score=score)
        answer = str(key // 11 % self.answers)
        return Step(text, tokens=2, logprob=logprob, score=score, finish="answer", answer=answer, canonical=answer,
                    outcome=key // 128 % 10 / 10)  # fmt: skip

    def fails(self, path: int, attempt: int) -> bool:
        return digest("fails", path, attempt) % 1000 < self.failures * 1000


class Expander:
    """Answers wishes about one tree; counts the chains already asked at a path, as the manager does."""

    def __init__(self, tree: Tree, model: FakeModel) -> None:
        self.tree, self.model = tree, model
        self.first: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()

    def path(self, leaf: int) -> int:
        path = 0
        for step in self.tree.path(leaf):
            path = path_digest(path, step)
        return path

    def reply(self, wish: Expand) -> Expansion:
        path = self.path(wish.leaf)
        self.attempts[path] += 1
        if self.model.fails(path, self.attempts[path]):
            return Expansion(wish.leaf, error="injected")
        n = self.model.letters if wish.n is None else wish.n
        first = 0 if wish.sampling == GREEDY else self.first[path]
        self.first[path] += n
        depth = self.tree.depth[wish.leaf]
        return Expansion(wish.leaf, tuple(self.model.chain(path, depth, first + i, wish.until) for i in range(n)))


def run(search: Search, model: FakeModel | None = None, seed: int = 0, resumes: int | None = None) -> Tree:
    """The tree a search grows; with `resumes` the generator is closed after that many replies."""
    tree = Tree(seed)
    expander = Expander(tree, model or FakeModel())
    generator = search.search(tree)
    outstanding = deque(next(generator))
    count = 0
    while outstanding:
        if count == resumes:
            generator.close()
            return tree
        count += 1
        reply = expander.reply(outstanding.popleft())
        try:
            outstanding += generator.send(reply)
        except StopIteration:
            return tree
    raise AssertionError(f"the search waits with nothing outstanding, after {count} replies and {len(tree)} nodes")


def replies(search: Search, model: FakeModel | None = None, seed: int = 0) -> int:
    """How many replies the whole search takes."""
    tree = Tree(seed)
    expander = Expander(tree, model or FakeModel())
    generator = search.search(tree)
    outstanding, count = deque(next(generator)), 0
    while outstanding:
        count += 1
        try:
            outstanding += generator.send(expander.reply(outstanding.popleft()))
        except StopIteration:
            break
    return count


def searched(search: Search, model: FakeModel, seed: int = 0) -> tuple[Tree, list[Expand], Counter[int]]:
    """The final tree, every wish made, and the chains drawn at each path."""
    tree = Tree(seed)
    expander, generator = Expander(tree, model), search.search(tree)
    outstanding = deque(next(generator))
    made = list(outstanding)
    while outstanding:
        try:
            new = generator.send(expander.reply(outstanding.popleft()))
        except StopIteration:
            break
        outstanding += new
        made += new
    return tree, made, expander.first


def check_statistics(tree: Tree) -> None:
    """Laws of every tree: nothing in flight, and visits are those of the children plus those ended here."""
    for node in range(len(tree)):
        assert tree.held[node] == 0, f"node {node}: {tree.held[node]} held"
        assert tree.visits[node] == tree.ended[node] + sum(tree.visits[child] for child in tree.children[node])


def node_of(tree: Tree, *texts: str) -> int:
    """The first node at this path of texts."""
    node = ROOT
    for text in texts:
        node = next(c for c in tree.children[node] if (step := tree.steps[c]) is not None and step.text == text)
    return node
