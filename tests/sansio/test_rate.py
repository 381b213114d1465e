"""The rate meter: windows, averages, and silence."""

from beiran.sansio.rate import WINDOW_S, Rate


def test_a_rate_is_that_of_the_last_windows() -> None:
    rate = Rate()
    for step in range(20):
        rate.add(1000, now=step * WINDOW_S / 4)
    assert rate.at(19 * WINDOW_S / 4) > 0
    before = rate.at(5.0 * WINDOW_S)
    for step in range(20, 40):
        rate.add(4000, now=step * WINDOW_S / 4)
    assert rate.at(10 * WINDOW_S) > 2 * before


def test_a_rate_is_zero_before_the_first_window_and_after_a_silence() -> None:
    rate = Rate()
    rate.add(1000, now=0.0)
    assert rate.at(0.0) == 0.0
    rate.add(1000, now=WINDOW_S)
    assert rate.at(WINDOW_S) == 2000 / WINDOW_S
    assert rate.at(WINDOW_S + 4.1 * WINDOW_S) == 0.0
