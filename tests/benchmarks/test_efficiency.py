"""What is read off from curves of accuracy, what a stop saves, and the picture of both."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.efficiency import Point, efforts, parameters, picture, reach, savings


def point(family: str, name: str, right: int, generated: float, flops: float = 1.0) -> Point:
    return Point(family, name, tuple(k < right for k in range(10)), generated, 0.0, flops, 0.0)


POINTS = [
    point("sample", "best of 4", 4, 100, 10), point("sample", "best of 64", 8, 1600, 160),
    point("sample, stop", "best of 64, stop", 8, 400, 40), point("beam", "beam 1x4", 6, 100, 20),
    point("beam", "beam 1x16", 10, 400, 80), point("mcts", "mcts 4", 7, 3000, 300),
]  # fmt: skip


def test_the_cost_of_an_accuracy_is_read_off_between_points() -> None:
    assert reach([(400, 1.0), (100, 0.6)], 0.8) == pytest.approx(200)
    assert reach([(100, 0.6), (400, 1.0)], 0.6) == 100
    assert reach([(100, 0.6), (400, 1.0)], 0.5) == 100
    assert reach([(100, 0.6), (200, 0.4), (400, 1.0)], 0.8) == pytest.approx(
        200
    )  # what is worse and dearer is left out
    assert reach([(100, 0.6)], 0.7) is None and reach([], 0.1) is None


def test_efforts_are_compared_with_best_of_64() -> None:
    rows = {row["search"]: row for row in efforts(POINTS)}
    assert rows["sample"]["fewer_tokens"] == 1
    assert (rows["beam"]["tokens"], rows["beam"]["fewer_tokens"]) == (pytest.approx(200), pytest.approx(8))
    assert (rows["beam"]["fewer_flops"], rows["sample, stop"]["fewer_tokens"]) == (pytest.approx(4), 4)
    assert rows["mcts"]["tokens"] is None and rows["mcts"]["fewer_tokens"] is None


def test_a_stop_is_compared_with_going_without() -> None:
    assert savings([*POINTS, point("beam, stop", "beam 1x16, stop", 9, 100)]) == [
        {"search": "best of 64", "saved": 0.75, "lost": 0.0},
        {"search": "beam 1x16", "saved": 0.75, "lost": pytest.approx(10)},
    ]


def test_the_picture_has_every_point() -> None:
    root = ElementTree.fromstring(picture(POINTS))
    space = "{http://www.w3.org/2000/svg}"
    assert {title.text for title in root.iter(f"{space}title")} == {p.name for p in POINTS}


def test_parameters_are_those_of_the_bundled_weights() -> None:
    from treesearch.models import folder

    size = (folder("proposer") / "model.safetensors").stat().st_size
    assert size / 4 * 0.99 < parameters("proposer") <= size / 2
