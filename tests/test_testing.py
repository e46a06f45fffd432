"""testing.py: the clock that jumps, and waiting until everybody else waits."""

import threading
import time

import pytest

import greenio
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import VirtualClock, wait_all_parked


def test_the_virtual_clock_jumps_over_waits():
    def main():
        greenio.sleep(10**6)
        return greenio.current_time()

    before = time.monotonic()
    assert greenio.run(main, clock=VirtualClock()) == 10**6
    assert time.monotonic() - before < 10


def test_the_virtual_clock_stands_still_while_fibers_run():
    def main():
        for _ in range(1000):
            greenio.yield_now()
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock(start=7.5)) == 7.5


def test_the_virtual_clock_goes_from_deadline_to_deadline():
    moments = []

    def sleeper(seconds):
        greenio.sleep(seconds)
        moments.append(greenio.current_time())

    def main():
        for seconds in (3, 1, 2, 1):
            greenio.spawn(sleeper, seconds)
        greenio.sleep(10)

    greenio.run(main, clock=VirtualClock())
    assert moments == [1, 1, 2, 3]


def test_advance_makes_deadlines_due():
    clock = VirtualClock()
    woken = []

    def main():
        sleeper = greenio.spawn(lambda: (greenio.sleep(5), woken.append(greenio.current_time())))
        wait_all_parked()
        clock.advance(4.5)
        wait_all_parked()
        assert sleeper.state == "parked"
        clock.advance(100)
        wait_all_parked()
        assert sleeper.done()

    greenio.run(main, clock=clock)
    assert woken == [104.5]


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_advance_goes_forward_only(seconds):
    clock = VirtualClock(3)
    with pytest.raises(ValueError, match="moves by >= 0 seconds"):
        clock.advance(seconds)
    assert clock.now_ns() == 3_000_000_000


def test_the_virtual_clock_waits_while_a_call_is_out_in_another_os_thread():
    answered = threading.Event()

    def main():
        scheduler = greenio.current_scheduler()
        scheduler.outside_call(+1)
        waiter = greenio.current_fiber()

        def answer():
            answered.wait()

            def take():
                scheduler.outside_call(-1)
                unpark_fiber(waiter)

            scheduler.spawn(take)

        thread = threading.Thread(target=answer)
        thread.start()
        greenio.spawn(greenio.sleep, 100)
        greenio.spawn(answered.set)
        park_here("an answer", None, 1000)
        now = greenio.current_time()
        thread.join()
        return now

    assert greenio.run(main, clock=VirtualClock()) == 0.0


def test_an_error_of_a_clock_is_raised_in_main():
    class Broken(greenio.Clock):
        broken = False

        def now_ns(self):
            if self.broken:
                self.broken = False
                raise LookupError("no time")
            return 0

        def wait_ns(self, deadline_ns):
            self.broken = True
            return 0

    def main():
        with pytest.raises(LookupError, match="no time"):
            greenio.sleep(1)
        return "alive"

    assert greenio.run(main, clock=Broken()) == "alive"


def test_wait_all_parked_lets_the_others_do_all_they_can():
    done = []

    def worker(steps):
        for step in range(steps):
            greenio.yield_now()
            done.append(step)
        greenio.sleep(1)
        done.append("after the sleep")

    def main():
        workers = [greenio.spawn(worker, steps) for steps in (3, 300, 7)]
        wait_all_parked()
        assert len(done) == 310
        assert all(fiber.state == "parked" for fiber in workers)

    greenio.run(main, clock=VirtualClock())
    assert "after the sleep" not in done


def test_wait_all_parked_takes_no_time_and_needs_no_virtual_clock():
    def main():
        sleeper = greenio.spawn(greenio.sleep, 3600)
        wait_all_parked()
        return sleeper.state

    assert greenio.run(main) == "parked"


def test_wait_all_parked_alone_returns():
    greenio.run(wait_all_parked)
    greenio.run(wait_all_parked, clock=VirtualClock())


def test_several_fibers_wait_for_all_parked_together():
    order = []

    def waiter(name):
        wait_all_parked()
        order.append(name)

    def main():
        for name in "abc":
            greenio.spawn(waiter, name)
        wait_all_parked()
        order.append("main")

    greenio.run(main)
    assert sorted(order) == ["a", "b", "c", "main"]


def test_a_cancelled_wait_for_all_parked_leaves_nothing_behind():
    def main():
        waiter = greenio.spawn(wait_all_parked)
        waiter.cancel()
        waiter.join()
        second = greenio.spawn(wait_all_parked)
        greenio.spawn(second.cancel)
        greenio.yield_now()
        second.join()
        wait_all_parked()
        return waiter.cancelled(), second.cancelled()

    assert greenio.run(main) == (True, True)


def test_wait_all_parked_outside_run_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"inside greenio\.run\(main\)"):
        wait_all_parked()
