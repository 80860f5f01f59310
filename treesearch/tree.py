"""The tree of one search: an append-only table of nodes. Knows no search, no clock, no model.

A node is an index; `ROOT` is 0 and has no step. Columns are lists: to read one takes half the time of an array's, and a
million nodes still fit in a gigabyte.
A visit is one backed-up value: `visits[i]` = visits of its children + `ended[i]`. `held[i]` counts unobserved visits, the
requests in flight at or below i (WU-UCT's O, arXiv 1810.11755).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from treesearch.types import Candidate, Expansion, Step, under_way

if TYPE_CHECKING:
    import networkx

ROOT = 0
LEAST = float("-inf")
CHILDLESS: Any = ()  # of every leaf: most nodes are leaves, and a list of its own is half of what a node takes
TRIES = 3  # a failed expansion is asked again up to twice before its leaf closes


class Tree:
    """Nodes of one search and their statistics. `rng` is the search's only source of randomness."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.steps: list[Step | None] = [None]
        self.parent = [-1]
        self.depth = [0]  # steps from the root
        self.children: list[list[int]] = [CHILDLESS]
        self.visits = [0]
        self.ended = [0]  # visits whose value was backed up from here
        self.total = [0.0]  # sum of backed-up values
        self.best = [LEAST]  # largest backed-up value
        self.held = [0]
        self.failures = bytearray([0])
        self.closed = bytearray([0])  # never to be grown again: finished, failed, or a duplicate
        self.outputs: list[int] | None = None  # the nodes a search offers for the answer; None: all finished leaves

    def __len__(self) -> int:
        return len(self.steps)

    # Growth

    def grow(self, expansion: Expansion) -> list[int]:
        """Append the chains below their leaf; return the tip (last node) of each, in order.

        An error appends nothing and closes the leaf at its third failure in a row; a reply without any chain closes it
        at once.
        """
        leaf = expansion.leaf
        if expansion.error is not None:
            self.failures[leaf] += 1
            if self.failures[leaf] >= TRIES:
                self.closed[leaf] = 1
            return []
        self.failures[leaf] = 0
        if not expansion.chains:
            self.closed[leaf] = 1
        steps, parent, depth, children, closed = self.steps, self.parent, self.depth, self.children, self.closed
        size = node = len(steps)
        tips = []
        for chain in expansion.chains:
            at, level = leaf, depth[leaf]
            for step in chain:
                level += 1
                steps.append(step)
                parent.append(at)
                depth.append(level)
                children.append(CHILDLESS)
                if children[at]:
                    children[at].append(node)
                else:
                    children[at] = [node]
                closed.append(step.finish != "step")
                at, node = node, node + 1
            tips.append(at)
        new = node - size
        zeros = [0] * new
        self.visits += zeros
        self.ended += zeros
        self.held += zeros
        self.total += [0.0] * new
        self.best += [LEAST] * new
        self.failures += bytes(new)
        return tips

    def close(self, node: int) -> None:
        """Never grow this node again (a duplicate, a dead end)."""
        self.closed[node] = 1

    def is_open(self, node: int) -> bool:
        return not self.closed[node]

    # Statistics

    def hold(self, node: int, count: int = 1) -> None:
        """A request at this node is in flight: `count` unobserved visits here and above (negative: released)."""
        held, parent = self.held, self.parent
        while node >= 0:
            held[node] += count
            node = parent[node]

    def release(self, node: int, count: int = 1) -> None:
        self.hold(node, -count)

    def backup(self, node: int, value: float) -> None:
        """One visit with this value, from here up to the root."""
        self.ended[node] += 1
        self._visit(node, (float(value),))

    def backup_children(self, node: int, children: Sequence[int], values: Sequence[float]) -> None:
        """`backup` of each child of one node with its value, in order, on one way up."""
        ended, visits, total, best = self.ended, self.visits, self.total, self.best
        values = list(map(float, values))  # a search of somebody's own may bring numbers of numpy
        for child, value in zip(children, values, strict=True):
            ended[child] += 1
            visits[child] += 1
            total[child] += value
            if value > best[child]:
                best[child] = value
        if values:
            self._visit(node, values)

    def _visit(self, node: int, values: Sequence[float]) -> None:
        """A visit for each value here and above; they are added one by one, so that sums round as they always did."""
        parent, visits, total, best = self.parent, self.visits, self.total, self.best
        count, most = len(values), max(values)
        while node >= 0:
            visits[node] += count
            sum_ = total[node]
            for value in values:
                sum_ += value
            total[node] = sum_
            if most > best[node]:
                best[node] = most
            node = parent[node]

    def mean(self, node: int) -> float:
        """Mean of the values backed up through here; needs a visit."""
        return self.total[node] / self.visits[node]

    # Views

    def path(self, node: int) -> tuple[Step, ...]:
        """Steps from the root down to this node."""
        steps: list[Any] = []
        while node > ROOT:
            steps.append(self.steps[node])
            node = self.parent[node]
        steps.reverse()
        return tuple(steps)

    def score(self, node: int) -> float:
        """The scorer's value of this step; 0 for the root and where nothing was scored."""
        step = self.steps[node]
        return step.score if step is not None and step.score is not None else 0.0

    def text(self, node: int) -> str:
        step = self.steps[node]
        return "" if step is None else step.text

    def finish(self, node: int) -> str:
        step = self.steps[node]
        return "step" if step is None else step.finish

    def proposer(self, node: int) -> str | None:
        """The member of a mixture that wrote this step."""
        step = self.steps[node]
        return None if step is None else step.proposer

    def tokens(self) -> int | None:
        """Generated tokens of all nodes; None if any count is unknown."""
        total = 0
        for step in self.steps[1:]:
            assert step is not None
            if step.tokens is None:
                return None
            total += step.tokens
        return total

    def candidates(self, first: int = 0) -> list[Candidate]:
        """Finished leaves in tree order, from node `first` on: ended by an answer, or cut by a limit with a readable one.

        Where the search named its `outputs`, those instead: in its order, with its repetitions, unfinished ones too.
        """
        if self.outputs is not None:
            return [self._candidate(node) for node in self.outputs]
        steps = enumerate(self.steps[first:], first)
        return [self._candidate(i) for i, step in steps if step is not None and _finished(step)]

    def _candidate(self, node: int) -> Candidate:
        *above, last = self.path(node)
        path = (*under_way(tuple(above)), last)
        counts = [step.tokens for step in path]
        return Candidate(
            node=node,
            answer=path[-1].answer,
            canonical=path[-1].canonical,
            text="".join([step.text for step in path]),
            scores=tuple([step.score for step in path]),
            outcome=path[-1].outcome,
            tokens=None if None in counts else sum(c for c in counts if c is not None),
        )

    def view(self) -> networkx.DiGraph:
        """The tree as a networkx graph, for analysis and export; its attributes are numbers, and texts as they are.

        Whoever writes or shows them escapes them for what it writes.
        """
        import networkx as nx

        graph = nx.DiGraph()
        for i, step in enumerate(self.steps):
            graph.add_node(
                i, depth=self.depth[i], visits=self.visits[i], total=self.total[i], closed=bool(self.closed[i])
            )
            if step is not None:
                values = {"text": step.text, "score": step.score, "finish": step.finish, "tokens": step.tokens,
                          "logprob": step.logprob, "answer": step.answer, "outcome": step.outcome}  # fmt: skip
                graph.add_node(i, **{k: v for k, v in values.items() if v is not None})
                graph.add_edge(self.parent[i], i)
        return graph


def _finished(step: Step) -> bool:
    return step.finish == "answer" or (step.finish == "length" and step.answer is not None)
