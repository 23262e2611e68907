"""Counterbalance, blinding and order, counted over all booklets."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from diffexplain.study.booklets import booklet
from tests.unit.study.population import study


@settings(max_examples=40, deadline=None)
@given(units=st.integers(2, 9), items=st.integers(1, 9), methods=st.integers(1, 3))
def test_every_unit_is_shown_equally_often_by_every_method(units: int, items: int, methods: int) -> None:
    of = study(units, "ABC"[:methods], items)
    readers = units * methods
    shown = [page.item for number in range(readers) for page in booklet(of, number)]
    counts = Counter((i.unit, i.method) for i in shown if i.kind == "attribute")
    assert len(counts) == units * methods
    assert len(set(counts.values())) == 1


def test_a_reader_sees_each_unit_once_and_both_methods_alike() -> None:
    for number in range(8):
        pages = [p.item for p in booklet(study(), number) if p.item.kind == "rating"]
        assert len({i.unit for i in pages}) == len(pages) == 8
        assert Counter(i.method for i in pages) == {"A": 4, "B": 4}


def test_arms_swap_for_half_the_readers_of_each_unit() -> None:
    of = study()
    swaps = Counter(
        (page.item.unit, page.swapped)
        for number in range(8)
        for page in booklet(of, number)
        if page.item.kind == "side"
    )
    assert set(swaps.values()) == {4}
    page = next(p for p in booklet(of, 0) if p.swapped)
    assert [(p.heading, p.pictures) for p in page.panels] == [
        ("before", ("x",)),
        ("left", ("b",)),
        ("right", ("a",)),
    ]


def test_blind_questions_come_before_those_that_name_the_change() -> None:
    orders = set()
    for number in range(8):
        kinds = [page.item.kind for page in booklet(study(checks=0), number)]
        order = tuple(dict.fromkeys(kinds))
        assert set(order[:2]) == {"attribute", "share"}
        assert len(order) == 4  # no kind is interrupted
        orders.add(order)
    assert len(orders) == 4


def test_checks_never_come_first_and_all_come() -> None:
    for number in range(30):
        kinds = [page.item.kind for page in booklet(study(checks=3), number)]
        assert kinds.count("check") == 3
        assert kinds[0] != "check"


def test_booklets_repeat_and_differ() -> None:
    of = study()
    assert booklet(of, 3) == booklet(of, 3)
    assert booklet(of, 3) != booklet(of, 4)
    orders = Counter(
        page.orders[0] for n in range(24) for page in booklet(of, n) if page.item.kind == "attribute"
    )
    assert len(orders) == 24  # every order of four choices


def test_what_a_reader_gets_says_nothing_of_method_unit_or_truth() -> None:
    of = study(methods=("secret-method", "other-method"))
    told = json.dumps([page.shown() for page in booklet(of, 0)])
    assert "method" not in told
    assert "truth" not in told
    assert '"u' not in told
    last = [
        c for page in booklet(of, 0) if page.item.kind == "share" for c in page.shown()["asks"][0]["choices"]
    ]
    assert last[6][1] == "s6"
    assert last[7][1] == "s7"
