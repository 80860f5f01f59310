"""Who is blamed for the death of a replica: only who alone can have been it, twice."""

from __future__ import annotations

from treesearch.blame import Blame


def blame(*deaths: str, held: str = "") -> Blame:
    """A letter is a kin, a word a death; `held` have died in the trials that are the last deaths."""
    found = Blame()
    for replica, kins in enumerate(deaths):
        for kin in kins:
            found.died(replica, kin, tried=kin in held and kins == deaths[-1 - held[::-1].index(kin)])
    return found


def test_whoever_ran_there_is_suspected_until_it_is_answered() -> None:
    b = blame("ab", "c")
    assert set(b.suspects()) == set("abc") and "a" in b and "d" not in b
    b.answered("a")
    b.answered("c")
    b.settle()
    assert set(b.suspects()) == {"b"} and not b.poison and "a" not in b


def test_who_dies_in_its_trial_is_poison_once_all_others_of_both_deaths_were_answered() -> None:
    b = blame("abc", "ade", held="a")
    b.settle()
    assert b.held == {"a"} and not set(b.suspects())
    for kin in "bcd":
        b.answered(kin)
        b.settle()
        assert not b.poison
    b.answered("e")
    b.settle()
    assert b.poison == {"a"} and not b.held and not set(b.suspects()) and b.explained == [0, 1]


def test_who_says_late_that_he_ran_where_poison_did_is_not_suspected() -> None:
    b = blame("a", "a", held="a")
    b.settle()
    b.died(1, "b")
    b.settle()
    assert b.poison == {"a"} and not set(b.suspects()) and b.explained == [0, 1], "of each replica once"


def test_a_replica_that_is_still_dying_convicts_nobody() -> None:
    b = blame("a", "a", held="a")
    b.settle(dying=[1])
    assert not b.poison and b.held == {"a"}
    b.died(1, "b")
    b.settle()
    assert not b.poison


def test_a_death_that_another_is_convicted_of_counts_no_more() -> None:
    b = blame("ab", "a", "b", "b", held="ab")
    b.settle()
    assert b.poison == {"b"} and not b.held and set(b.suspects()) == {"a"}, "it is tried again"


def test_two_that_cannot_be_told_apart_are_tried_again() -> None:
    b = blame("ab", "a", "b", held="ab")
    b.settle()
    assert not b.poison and not b.held and set(b.suspects()) == {"a", "b"}


def test_what_vanishes_without_a_reply_leaves_its_deaths_unexplained() -> None:
    b = blame("ab", "a", held="a")
    b.gone("b")
    b.settle()
    assert not b.poison and set(b.suspects()) == {"a"}
    b.gone("a")
    assert not set(b.suspects()) and "a" not in b


def test_what_may_still_run_on_a_replica_may_have_killed_it() -> None:
    b = blame("a")
    b.hung(1, "y")
    b.died(1, "a", tried=True)
    b.settle()
    assert not b.held and set(b.suspects()) == {"a"}
    b.hung(2, "y")
    b.answered("y")  # elsewhere
    b.died(2, "a", tried=True)
    b.settle()
    assert b.poison == {"a"}


def test_who_dies_beside_strangers_is_tried_again_alone_and_its_neighbours_are_not() -> None:
    b = blame("ab")
    b.died(1, "c")
    b.died(1, "a", tried=True, alone=False)
    b.died(1, "d")
    b.settle()
    assert set(b.suspects()) == b.doubted == {"a"} and not b.held
    b.answered("b")
    b.died(2, "a", tried=True)
    b.settle()
    assert b.poison == {"a"} and not b.doubted


def test_who_ran_where_replicas_went_without_a_word_is_suspected_once_it_is_so_twice() -> None:
    b = Blame()
    for kin in "abc":
        b.died(0, kin, silent=True)
    b.settle()
    assert not set(b.suspects()) and "a" in b, "its reply still tells something"
    for kin in "ad":
        b.died(1, kin, silent=True)
    b.settle()
    assert set(b.suspects()) == {"a"}
    b.died(2, "b")
    b.settle()
    assert set(b.suspects()) == {"a", "b"}, "an engine died under b"
    b.answered("a")
    b.answered("b")
    b.settle()
    assert not set(b.suspects()) and "c" in b and "d" in b


def test_a_trial_that_ends_without_a_word_convicts_as_any_other() -> None:
    b = Blame()
    for replica, kins in enumerate(("ab", "ac", "a")):
        for kin in kins:
            b.died(replica, kin, tried=replica == 2, silent=True)
    b.settle()
    assert b.held == {"a"} and not set(b.suspects())
    b.answered("b")
    b.settle()
    assert b.poison == {"a"} and not b._silent, "nothing is kept of what is known"
