"""_time.pyx: sleep, sleep_until, current_time."""

import math
import time

import pytest

import greenio
from greenio.testing import VirtualClock


def run_virtually(main, *args, start=0.0):
    return greenio.run(main, *args, clock=VirtualClock(start))


def test_sleep_lasts_as_long_as_asked_on_the_virtual_clock():
    def main():
        start = greenio.current_time()
        greenio.sleep(3600.5)
        return greenio.current_time() - start

    assert run_virtually(main) == 3600.5


def test_sleep_lasts_at_least_as_long_as_asked_on_the_real_clock():
    def main():
        start = time.monotonic()
        greenio.sleep(0.02)
        return time.monotonic() - start

    assert 0.02 <= greenio.run(main) < 5


def test_current_time_is_clock_monotonic_unless_replaced():
    def main():
        before = time.monotonic()
        now = greenio.current_time()
        return before, now, time.monotonic()

    before, now, after = greenio.run(main)
    assert before <= now + 1e-6
    assert now <= after + 1e-6


def test_sleep_zero_lets_every_ready_fiber_run_once():
    ran = []

    def main():
        greenio.spawn(ran.append, 1)
        greenio.spawn(ran.append, 2)
        greenio.sleep(0)
        ran.append("main")

    greenio.run(main)
    assert ran == [1, 2, "main"]


def test_sleep_zero_takes_no_time():
    def main():
        for _ in range(1000):
            greenio.sleep(0)
        return greenio.current_time()

    assert run_virtually(main) == 0.0


@pytest.mark.parametrize("seconds", [1, 1.0, True, 0.1, 1e-9, 5e-10, 1e-300])
def test_any_real_number_of_seconds_is_slept(seconds):
    def main():
        greenio.sleep(seconds)
        return greenio.current_time()

    assert run_virtually(main) == pytest.approx(float(seconds), abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (-math.inf, ValueError),
        (math.nan, ValueError),
        (None, TypeError),
        ("1", TypeError),
    ],
)
def test_a_wrong_number_of_seconds_is_refused_and_nothing_waits(seconds, error):
    ran = []

    def main():
        greenio.spawn(ran.append, "other")
        with pytest.raises(error):
            greenio.sleep(seconds)
        assert ran == []
        assert greenio.current_fiber().state == "running"
        greenio.sleep(1)

    run_virtually(main)
    assert ran == ["other"]


@pytest.mark.parametrize("seconds", [math.inf, 1e30, 1e10])
@pytest.mark.parametrize("start", [0.0, 9e8])
def test_sleep_for_ever_ends_by_cancellation_only(seconds, start):
    def main():
        sleeper = greenio.spawn(greenio.sleep, seconds)
        greenio.sleep(1e6)
        assert sleeper.state == "parked"
        sleeper.cancel()
        sleeper.join()
        return sleeper.cancelled()

    assert run_virtually(main, start=start)


def test_the_longest_sleeps_do_not_wrap_around():
    # The clock counts nanoseconds in 64 bits: 292 years.
    def main():
        sleeper = greenio.spawn(greenio.sleep, 8.9e9)
        greenio.sleep(1)
        return sleeper.state

    assert run_virtually(main, start=1e9) == "parked"


def test_sleep_until_ends_at_the_moment_it_is_given():
    def main():
        greenio.sleep_until(12.25)
        return greenio.current_time()

    assert run_virtually(main, start=10.0) == 12.25


@pytest.mark.parametrize("moment", [10.0, 9.0, 0.0, -5.0, -math.inf])
def test_sleep_until_a_moment_that_has_passed_lets_the_ready_run(moment):
    ran = []

    def main():
        greenio.spawn(ran.append, "other")
        greenio.sleep_until(moment)
        ran.append("main")
        return greenio.current_time()

    assert run_virtually(main, start=10.0) == 10.0
    assert ran == ["other", "main"]


@pytest.mark.parametrize("moment", [0.1 + 0.2, 1 / 3, 2 / 3, 1e-10, 1234567.123456789123])
def test_sleep_until_never_ends_before_its_moment(moment):
    def main():
        greenio.sleep_until(moment)
        return greenio.current_time()

    assert run_virtually(main) >= moment


@pytest.mark.parametrize(("moment", "error"), [(math.nan, ValueError), (None, TypeError), ("1", TypeError)])
def test_a_wrong_moment_is_refused(moment, error):
    def main():
        with pytest.raises(error):
            greenio.sleep_until(moment)

    run_virtually(main)


def test_sleep_until_for_ever_ends_by_cancellation_only():
    def main():
        sleeper = greenio.spawn(greenio.sleep_until, math.inf)
        greenio.sleep(1e6)
        assert sleeper.state == "parked"

    run_virtually(main)


def test_sleep_and_sleep_until_are_checkpoints_even_when_they_need_not_wait():
    raised = []

    def cancelled_already():
        for operation in (lambda: greenio.sleep(0), lambda: greenio.sleep(1), lambda: greenio.sleep_until(0)):
            with pytest.raises(greenio.Cancelled):
                operation()
            raised.append(greenio.current_time())

    def main():
        greenio.spawn(cancelled_already).cancel()
        greenio.sleep(0)

    run_virtually(main)
    assert raised == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: greenio.sleep(0),
        lambda: greenio.sleep(1),
        lambda: greenio.sleep_until(0),
        greenio.current_time,
    ],
)
def test_outside_run_the_error_says_what_to_do(call):
    with pytest.raises(RuntimeError, match=r"inside greenio\.run\(main\)"):
        call()


def test_a_sleeping_fiber_says_so():
    def main():
        sleeper = greenio.spawn(greenio.sleep, 5)
        greenio.sleep(1)
        return sleeper.waits_for

    assert run_virtually(main) == ("sleep", None, 0.0)
