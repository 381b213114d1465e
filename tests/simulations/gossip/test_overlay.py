"""A layer over a shared mapping behaves as a dict of its own, order included."""

from hypothesis import given
from hypothesis import strategies as st

from simulations.gossip.overlay import Overlay

KEYS = st.integers(min_value=0, max_value=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers()),
        st.tuples(st.just("pop"), KEYS, st.just(0)),
        st.tuples(st.just("setdefault"), KEYS, st.integers()),
        st.tuples(st.just("get"), KEYS, st.integers()),
    )
)


@given(st.dictionaries(KEYS, st.integers()), STEPS)
def test_a_layer_behaves_as_a_dict(base: dict[int, int], steps: list[tuple[str, int, int]]) -> None:
    shared = dict(base)
    layer, plain = Overlay(shared), dict(base)
    for what, key, value in steps:
        match what:
            case "set":
                layer[key] = plain[key] = value
            case "pop":
                assert layer.pop(key, None) == plain.pop(key, None)
            case "setdefault":
                assert layer.setdefault(key, value) == plain.setdefault(key, value)
            case "get":
                assert layer.get(key) == plain.get(key)
                assert layer.get(key, value) == plain.get(key, value)
        assert list(layer.items()) == list(plain.items())
        assert list(layer) == list(plain)
        assert len(layer) == len(plain)
        assert [key in layer for key in range(7)] == [key in plain for key in range(7)]
    assert shared == base
