"""An order without a table: a permutation for every count, the same everywhere."""

import pytest

from dqo.task.reading.permutation import shuffled


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 100, 1023, 1025])
def test_every_number_has_one_place(count):
    assert sorted(shuffled("0 1", place, count) for place in range(count)) == list(range(count))


def test_the_order_is_the_same_on_every_machine_and_in_every_version():
    """Runs are resumed with it."""
    assert [shuffled("0 0", place, 10) for place in range(10)] == [9, 1, 7, 6, 0, 2, 8, 3, 4, 5]
    assert [shuffled("0 0", place, 10_000_000) for place in range(3)] == [9568975, 225513, 9419459]


def test_other_keys_give_other_orders():
    orders = {tuple(shuffled(f"0 {epoch}", place, 50) for place in range(50)) for epoch in range(20)}
    assert len(orders) == 20


def test_neighbours_are_spread_over_all_rows():
    """Files are often sorted: 1,000 places in a row must show each tenth of the rows about equally often (6 sigma)."""
    tenths = [shuffled("7 3", place, 1_000_000) // 100_000 for place in range(1000)]
    assert all(43 < tenths.count(tenth) < 157 for tenth in range(10))
