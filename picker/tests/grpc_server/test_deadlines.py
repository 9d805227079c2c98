"""Deadlines of many objects."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from picker.grpc_server.deadlines import TICK_S, Deadlines


@dataclass(eq=False)
class Timed:
    tick: int = 0


@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.floats(0, 10))), max_size=30))
def test_deadline_is_due_once_and_not_early(steps: list[tuple[int, float | None]]) -> None:
    """The last deadline set applies, at most two ticks late. A cleared deadline is never due."""
    deadlines: Deadlines[Timed] = Deadlines()
    timed = [Timed() for _ in range(5)]
    expected: dict[int, float] = {}
    for index, at_s in steps:
        if at_s is None:
            deadlines.clear(timed[index])
            expected.pop(index, None)
        else:
            deadlines.set(timed[index], at_s)
            expected[index] = at_s
    now_s = 0.0
    while now_s < 11:
        for due in deadlines.pop_due(now_s):
            at_s = expected.pop(timed.index(due))
            assert at_s <= now_s <= at_s + 2 * TICK_S + 1e-9
        now_s += TICK_S
    assert expected == {}
    assert len(deadlines) == 0
