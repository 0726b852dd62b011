"""What is left of a run: nodes of a kind last alike, the rest is shared, and what is not known is said."""

import pytest

from vibe_pipeline.runtime.remaining import Left, Seen, kind_of, time_left

CHAIN = {"adapters.a.train": frozenset(), "arms.a.generate": frozenset({"adapters.a.train"})}


def rows(count: int) -> dict[str, frozenset[str]]:
    return {f"arms.{i}.measure": frozenset() for i in range(count)}


def test_kinds_leave_the_row_out() -> None:
    assert kind_of("arms.full.generate") == kind_of("arms.truth.generate") != kind_of("arms.full.measure")
    assert kind_of("write_page") == "write_page"


def test_nodes_of_a_kind_are_taken_to_last_alike_and_share_the_workers() -> None:
    seen = Seen(done={"arms.0.measure": 10.0, "arms.1.measure": 20.0})
    assert time_left(rows(6), 1, seen) == Left(60.0, False)
    assert time_left(rows(6), 2, seen) == Left(30.0, False)


def test_no_number_of_workers_shortens_a_chain() -> None:
    parents = {f"arms.{i}.measure": frozenset({f"arms.{i - 1}.measure"} if i else ()) for i in range(4)}
    assert time_left(parents, 8, Seen(done={"arms.0.measure": 7.0})).seconds == pytest.approx(21)


def test_what_a_node_has_spent_is_not_left_and_what_its_bar_says_counts() -> None:
    known = Seen(done={"arms.0.measure": 10.0}, spent={"arms.1.measure": 4.0})
    assert time_left(rows(2), 1, known).seconds == pytest.approx(6)
    late = Seen(done={"arms.0.measure": 10.0}, spent={"arms.1.measure": 40.0})
    assert time_left(rows(2), 1, late).seconds == 0
    told = Seen(spent={"arms.0.measure": 4.0}, whole={"arms.0.measure": 30.0})
    assert time_left(rows(2), 1, told) == Left(26.0 + 30.0, False)


def test_a_kind_that_was_never_seen_makes_it_at_least() -> None:
    left = time_left(CHAIN, 1, Seen(spent={"adapters.a.train": 1.0}, whole={"adapters.a.train": 300.0}))
    assert left.at_least and str(left) == "more than 5 min left"
    assert str(time_left(CHAIN, 1, Seen(done=dict.fromkeys(CHAIN, 1.0)))) == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, ""), (45, "about 45 s left"), (240, "about 4 min left"), (36_000, "about 10.0 h left")]
)
def test_it_is_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert str(Left(seconds, False)) == said
