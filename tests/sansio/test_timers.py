"""Deadlines come up in order, once, and follow when everything is put off."""

from hypothesis import given
from hypothesis import strategies as st

from beiran.sansio.timers import Timers

operations = st.lists(
    st.tuples(
        st.sampled_from(["set", "cancel", "pop", "shift"]), st.integers(0, 5), st.integers(0, 50)
    ),
    max_size=60,
)


@given(operations)
def test_timers_behave_as_a_sorted_dictionary(operations: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, tuple[float, int]] = {}
    for order, (operation, key, value) in enumerate(operations):
        if operation == "set":
            timers.set(key, value)
            model[key] = (value, order)
        elif operation == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        elif operation == "shift":
            timers.shift(value)
            model = {k: (at + value, o) for k, (at, o) in model.items()}
        else:
            due = [k for k, (at, _) in model.items() if at <= value]
            expected = min(due, key=lambda k: model[k]) if due else None
            assert timers.pop_due(value) == expected
            if expected is not None:
                del model[expected]
        assert timers.next_deadline() == (min(at for at, _ in model.values()) if model else None)
        assert all(timers.deadline(k) == at for k, (at, _) in model.items())


def test_a_timer_that_is_moved_for_ever_takes_no_more_room() -> None:
    timers: Timers[str] = Timers()
    for at in range(10_000):
        timers.set("forget", at + 86_400)
    assert len(timers._heap) < 200
    assert timers.next_deadline() == 9_999 + 86_400
