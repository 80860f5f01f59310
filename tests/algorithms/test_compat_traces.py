"""The compat searches by hand: small recorded trees through the real engine, every choice worked out beside them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from treesearch.algorithms import SEARCHES, compat
from treesearch.algorithms.compat.openr_mcts import puct
from treesearch.algorithms.compat.sal_votes import Voter, accuracies, winner
from treesearch.config import build
from treesearch.errors import ConfigError
from treesearch.results import read_rows
from treesearch.run import answer_all, run
from treesearch.tasks import load_task
from treesearch.types import Answer, Problem

Node = dict[str, Any]


def step(text: str, score: float, **more: Any) -> Node:
    return {"text": text, "score": score, "tokens": 1, **more}


def end(text: str, score: float, **more: Any) -> Node:
    return step(text, score, finish="answer", **more)


def config(tmp_path: Path, search: Node, tree: dict[tuple[str, ...], Sequence[Node]], rule: str) -> Any:
    lines = [{"problem": "p", "path": list(path), "children": list(children)} for path, children in tree.items()]
    recorded = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"  # a file is read once
    recorded.write_text("".join(json.dumps(line) + "\n" for line in lines))
    replies = {"type": "recorded", "path": str(recorded)}
    answer = {"rule": rule, "aggregate": "last"}
    return build([{"task": "plain", "search": search, "answer": answer, "proposer": replies, "scorer": replies}])


def solve(tmp_path: Path, search: Node, tree: dict[tuple[str, ...], Sequence[Node]], rule: str = "best") -> Answer:
    (answer,) = asyncio.run(answer_all(config(tmp_path, search, tree, rule), [Problem("p", "?", "3")]))
    assert (answer.error, answer.stopped) == (None, "finished")
    return answer


def texts(answer: Answer) -> list[str]:
    return [candidate.text for candidate in answer.candidates]


# n 4 and beam_width 2 keep 2 beams. Level 1: d is complete, b and c are the best two of a, b, c.
# Level 2, pool b c b c: b1, c1 are complete; b2 and c2 go on. Level 3, pool b2 c2 b2 c2: all four are complete.
BEAM = {
    (): [step("a\n", 0.1), step("b\n", 0.5), step("c\n", 0.5), end("Answer:", 0.2)],
    ("b\n",): [end("Answer: 3", 0.3), step("b2\n", 0.9)],
    ("c\n",): [end("Answer: 3", 0.8), step("c2\n", 0.4)],
    ("b\n", "b2\n"): [end("Answer: 9", 0.1), end("Answer: 9 ", 0.7)],
    ("c\n", "c2\n"): [end("Answer: 9", 0.2), end("Answer: 9 ", 0.6)],
}
FIRST_FOUR = ["Answer:", "b\nAnswer: 3", "c\nAnswer: 3", "b\nb2\nAnswer: 9"]


def test_sal_beam_gives_the_first_n_completed(tmp_path: Path) -> None:
    answer = solve(tmp_path, {"type": "sal_beam", "n": 4, "beam_width": 2}, BEAM)
    assert texts(answer) == FIRST_FOUR
    assert (answer.answer, answer.score) == ("3", 0.8)


def test_sal_beam_sorted_gives_the_n_best_completed(tmp_path: Path) -> None:
    answer = solve(tmp_path, {"type": "sal_beam", "n": 4, "beam_width": 2, "sort_completed": True}, BEAM)
    assert [candidate.scores[-1] for candidate in answer.candidates] == [0.8, 0.7, 0.6, 0.3]


# Subtree 0 draws a b, goes on from b (0.9), then from b2 (0.8), and ends with x; subtree 1 draws c d, goes on from c, the
# first of two equals, and ends with its best, which has a box. What b1 answered is no output.
DVTS = {
    (): [step("a\n", 0.2), step("b\n", 0.9), step("c\n", 0.7), step("d\n", 0.7)],
    ("b\n",): [end("Answer: 1", 0.3), step("b2\n", 0.8)],
    ("b\n", "b2\n"): [end("Answer: 2", 0.6), step("y\n", 0.5)],
    ("c\n",): [step("so \\boxed{5}\n", 0.4), step("c2\n", 0.1)],
}


def test_sal_dvts_gives_the_last_candidates_of_every_subtree(tmp_path: Path) -> None:
    """The unfinished ones are read and vote too: the plain task reads their whole text."""
    answer = solve(tmp_path, {"type": "sal_dvts", "n": 4, "beam_width": 2}, DVTS)
    assert texts(answer) == ["b\nb2\nAnswer: 2", "b\nb2\ny\n", "c\nso \\boxed{5}\n", "c\nc2\n"]
    assert [candidate.answer for candidate in answer.candidates] == ["2", "b\nb2\ny", "c\nso \\boxed{5}", "c\nc2"]
    assert answer.answer == "2"


def test_sal_dvts_ranks_by_lookahead_and_keeps_one_step(tmp_path: Path) -> None:
    """a (0.9) leads to 0.1 and b (0.2) to 0.8: b is kept, without what was looked at, and drawn from anew."""
    tree = {
        (): [step("a\n", 0.9), step("b\n", 0.2)],
        ("a\n",): [step("a1\n", 0.1)],
        ("b\n",): [step("seen\n", 0.8), end("Answer: 4", 0.3), end("Answer: 5", 0.4)],
    }
    answer = solve(tmp_path, {"type": "sal_dvts", "n": 2, "beam_width": 2, "lookahead": 1}, tree)
    assert texts(answer) == ["b\nAnswer: 4", "b\nAnswer: 5"]


def test_sal_votes_of_a_finished_run(tmp_path: Path) -> None:
    """The outputs answer (nothing) 0.2, 3 at 0.3, 3 at 0.8, 9 at 0.1; right is 3.

    Over the first output all say nothing; over two the vote is a tie, and nothing was there first; over four 3 has two
    votes of four and 1.1 of 1.4.
    """
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "p", "question": "?", "reference": "3"}\n')
    base = config(tmp_path, {"type": "sal_beam", "n": 4, "beam_width": 2}, BEAM, "best").resolved()
    asyncio.run(run(build([base, {"problems": str(problems)}]), tmp_path / "out"))
    rows = list(read_rows(tmp_path / "out"))
    assert [c["text"] for c in rows[0]["candidates"]] == FIRST_FOUR
    canonical = load_task("plain").canonical
    assert accuracies(rows, canonical) == {
        1: {"naive": 0.0, "weighted": 0.0, "maj": 0.0},
        2: {"naive": 1.0, "weighted": 1.0, "maj": 0.0},
        4: {"naive": 1.0, "weighted": 1.0, "maj": 1.0},
    }
    nobody = {**rows[0], "candidates": []}
    assert accuracies([*rows, nobody], canonical)[4]["maj"] == 0.5
    unscored = {**rows[0], "candidates": [{**rows[0]["candidates"][0], "score": None}]}
    with pytest.raises(ConfigError, match=r"problem 'p' has an output without a score: .*answer\.aggregate: last"):
        accuracies([unscored], canonical)


def test_sal_votes_break_ties_as_the_original() -> None:
    """Naive: the first of the highest. Weighted and majority: the answer seen first of the heaviest."""
    voters = [Voter("x", 0.25, False), Voter("y", 0.5, True), Voter("x", 0.5, False), Voter("y", 0.25, True)]
    assert winner(voters, "naive") is voters[1]
    assert winner(voters, "weighted") is winner(voters, "maj") is voters[0]
    assert winner([*voters, Voter("y", 0.0, True)], "maj") is voters[1]


# Priors at the root: e^-1 and e^-2 shared out, 0.7311 and 0.2689; below, 0.5 each.
PUCT = {
    (): [step("A\n", 0.6, logprob=-1.0), step("B\n", 0.5, logprob=-2.0), step("A\n", 0.6, logprob=-1.0)],
    ("A\n",): [end("Answer: 1", 0.2, logprob=-1.0), end("Answer: 2", 0.3, logprob=-1.0), end("Answer: 2", 0.3)],
    ("B\n",): [end("Answer: 3", 0.9, logprob=-3.0), end("Answer: 4", 0.1, logprob=-3.0), end("Answer: 4", 0.1)],
}


def test_openr_mcts_follows_puct_path_by_path(tmp_path: Path) -> None:
    """Twins of siblings count once. With pb = ln((N + 19653) / 19652) + 1.25:

    1. nothing visited: the best scores, A (0.6 > 0.5) and A2 (0.3)
    2. A: 0.3 + pb 0.7311 1/2 = 0.757, B: 0.5 + pb 0.2689 1/1 = 0.836; below B nothing is visited: B3 (0.9)
    3. A: 0.3 + pb 0.7311 1.414/2 = 0.946, B: 0.9 + pb 0.2689 1.414/2 = 1.138; B3 again: 1.213 > 0.725
    4. A: 0.3 + pb 0.7311 1.732/2 = 1.092, B: 0.9 + pb 0.2689 1.732/3 = 1.094; B3 again: 1.195 > 0.984
    5. A: 0.3 + pb 0.7311 2/2 = 1.214, B: 0.9 + pb 0.2689 2/4 = 1.068; A1: 0.2 + pb 0.5 = 0.825 > 0.613
    """
    search = {"type": "openr_mcts", "num_sequence": 5, "width": 3}
    answer = solve(tmp_path, search, PUCT, "majority")
    assert [candidate.answer for candidate in answer.candidates] == ["2", "3", "3", "3", "1"]
    assert (answer.answer, answer.score, answer.expansions) == ("3", 3.0, 3)
    assert [round(puct(0.3, 0.7311, n, 1, 19652, 1.25), 3) for n in (1, 2, 3, 4)] == [0.757, 0.946, 1.092, 1.214]
    assert [round(puct(0.9, 0.2689, n, n - 1, 19652, 1.25), 3) for n in (2, 3, 4)] == [1.138, 1.094, 1.068]


def test_openr_mcts_ends_a_path_at_its_depth_and_reads_what_the_limit_cut(tmp_path: Path) -> None:
    tree = {(): [step("A\n", 0.6)], ("A\n",): [step("B Answer: 8\n", 0.5, finish="length")]}
    answer = solve(tmp_path, {"type": "openr_mcts", "num_sequence": 2, "width": 1, "depth": 2}, tree)
    assert [candidate.answer for candidate in answer.candidates] == ["A\nB Answer: 8"] * 2
    shallow = solve(tmp_path, {"type": "openr_mcts", "num_sequence": 2, "width": 1, "depth": 1}, tree)
    assert texts(shallow) == ["A\n"] * 2 and shallow.answer is None  # as an invalid answer there: it does not vote


# Game of 24 judged three times a state: sure 20, likely 1, impossible 0.001.
TOT = {
    (): [step("p1\n", 3.0), step("p2\n", 20.002), step("p1\n", 3.0), step("p3\n", 3.0), step("p4\n", 0.003)],
    ("p2\n",): [end("Answer: 3", 40.001), end("Answer: 2", 60.0)],
    ("p1\n",): [end("Answer: 3", 60.0), end("Answer: 4", 41.0)],
    ("p3\n",): [end("Answer: 5", 3.0)],
}


def test_tot_bfs_keeps_the_best_of_each_level(tmp_path: Path) -> None:
    """Level 1: p2, then p1 before its equal p3. Level 2: both 60s, that of the better state first."""
    search = {"type": "tot_bfs", "steps": 2, "n_select_sample": 2}
    answer = solve(tmp_path, search, TOT)
    assert texts(answer) == ["p2\nAnswer: 2", "p1\nAnswer: 3"]
    assert (answer.answer, answer.score, answer.expansions) == ("2", 60.0, 3)


def test_tot_bfs_gives_a_duplicate_of_its_level_no_value(tmp_path: Path) -> None:
    """Four are kept: p2 and p1, p3, then p4 with 0.003 before the second p1 with 0. Unfinished ones are outputs too."""
    answer = solve(tmp_path, {"type": "tot_bfs", "steps": 1, "n_select_sample": 4}, TOT)
    assert texts(answer) == ["p2\n", "p1\n", "p3\n", "p4\n"]
    assert answer.answer == "p2"


def test_tot_bfs_draws_by_value_with_replacement(tmp_path: Path) -> None:
    """All of the value is one state's, so it is drawn each time, and each copy is proposed for by itself."""
    tree = {
        (): [step("p1\n", 0.0), step("p2\n", 20.0)],
        ("p2\n",): [end(f"Answer: {k}", float(k == 3)) for k in range(6)],
    }
    search = {"type": "tot_bfs", "steps": 2, "n_generate_sample": 2, "n_select_sample": 3, "method_select": "sample"}
    answer = solve(tmp_path, search, tree)
    assert texts(answer) == ["p2\nAnswer: 3"] * 3
    assert answer.expansions == 4


def test_tot_bfs_by_votes_needs_one_state_a_level(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.n_select_sample = 5: must be 1 with method_evaluate: vote"):
        solve(tmp_path, {"type": "tot_bfs", "method_evaluate": "vote"}, TOT)
    vote = {"type": "tot_bfs", "steps": 1, "n_select_sample": 1, "method_evaluate": "vote"}
    assert texts(solve(tmp_path, vote, {(): [step("a\n", 1.0), step("b\n", 4.0), step("b\n", 4.0)]})) == ["b\n"]


def test_its_particles_draws_finished_particles_again(tmp_path: Path) -> None:
    """The odds of scores 1 and 0, clipped by 1e-7, are 10^14 to 1: both particles are the finished one after a step."""
    tree = {(): [step("a\n", 0.0), end("Answer: 3", 1.0)], ("a\n",): [end("Answer: 4", 0.5)]}
    search = {"type": "its_particles", "n": 2, "selection": None}
    assert texts(solve(tmp_path, search, tree)) == ["Answer: 3"] * 2
    assert texts(solve(tmp_path, {"type": "its_particles", "n": 2}, tree)) == ["Answer: 3"]


def test_its_searches_stop_one_step_after_max_steps_or_with_a_box(tmp_path: Path) -> None:
    line = {("x\n",) * k: [step("x\n", 0.5)] for k in range(4)}
    boxed = {(): [step("x\n", 0.5)], ("x\n",): [step("\\boxed{3}\n", 0.5)]}
    for kind, more in (("its_particles", {}), ("its_beam", {"beam_width": 1})):
        search = {"type": kind, "n": 1, **more}
        assert texts(solve(tmp_path, {**search, "max_steps": 2}, line)) == ["x\nx\nx\n"]
        assert texts(solve(tmp_path, search, boxed)) == ["x\n\\boxed{3}\n"]


def test_its_beam_copies_what_it_keeps(tmp_path: Path) -> None:
    """n 4, beam_width 2: two first steps, b before a; then b a b a, of which the best two have both finished."""
    tree = {
        (): [step("a\n", 0.2), step("b\n", 0.6)],
        ("b\n",): [end("Answer: 1", 0.1), end("Answer: 3", 0.7)],
        ("a\n",): [end("Answer: 2", 0.7), end("Answer: 5", 0.3)],
    }
    answer = solve(tmp_path, {"type": "its_beam", "n": 4, "beam_width": 2}, tree)
    assert texts(answer) == ["a\nAnswer: 2"]  # of two equals the first of the pool: b1 a1 b2 a2
    assert answer.expansions == 6


def test_the_settings_in_the_readme_are_valid() -> None:
    import yaml

    readme = Path(compat.__file__).with_name("README.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    types = {build([yaml.safe_load(block)]).resolved()["search"]["type"] for block in blocks}
    assert types == {"sal_dvts", "openr_mcts", "tot_bfs", "its_particles"}
    own = {name for name, cls in SEARCHES.items() if cls.__module__.startswith(compat.__name__)}
    assert own == set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
