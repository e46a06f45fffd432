"""testing.py: the clock that jumps, waiting until everybody else waits, and fibers left behind."""

import socket
import threading
import time

import pytest

import greenio
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import FiberLeakError, VirtualClock, check_no_fiber_left, wait_all_parked


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


def answering_thread(ready, act):
    """An OS thread that, once *ready*() holds, does *act*() after a moment."""

    def answer():
        while not ready():
            time.sleep(0.0005)
        time.sleep(0.002)
        act()

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_the_virtual_clock_waits_for_a_peer_in_another_os_thread():
    ours, theirs = socket.socketpair()

    def main():
        me = greenio.current_fiber()
        with greenio.socket.socket(fileno=ours.detach()) as connection, theirs:
            connection.settimeout(3600)
            thread = answering_thread(lambda: me.state == "parked", lambda: theirs.send(b"an answer"))
            received = connection.recv(100)
            thread.join()
        return received, greenio.current_time()

    assert greenio.run(main, clock=VirtualClock(patience=0.2)) == (b"an answer", 0.0)


def test_the_virtual_clock_waits_for_an_os_thread_that_unparks():
    def main():
        me = greenio.current_fiber()
        thread = answering_thread(lambda: me.state == "parked", lambda: unpark_fiber(me))
        woken = park_here("an answer", None, 3600)
        thread.join()
        return woken, greenio.current_time()

    assert greenio.run(main, clock=VirtualClock(patience=0.2)) == (True, 0.0)


def test_the_virtual_clock_waits_no_longer_than_its_patience():
    never = threading.Event()

    def main():
        thread = threading.Thread(target=never.wait)
        thread.start()
        before = time.monotonic()
        greenio.sleep(3600)
        took = time.monotonic() - before
        never.set()
        thread.join()
        return greenio.current_time(), took

    for clock, least in ((VirtualClock(), 0.01), (VirtualClock(patience=0), 0), (VirtualClock(patience=0.05), 0.05)):
        never.clear()
        now, took = greenio.run(main, clock=clock)
        assert now == 3600
        assert least <= took < least + 1


def test_a_patient_clock_is_patient_without_other_threads_too():
    def main():
        before = time.monotonic()
        greenio.sleep(3600)
        return time.monotonic() - before

    assert greenio.run(main, clock=VirtualClock(patience=0.02)) >= 0.02


def test_sockets_between_fibers_need_no_patience():
    def main():
        here, there = greenio.socket.socketpair()
        with here, there:
            echo = greenio.spawn(lambda: [there.sendall(there.recv(10)) for _ in range(100)])
            for _ in range(100):
                greenio.sleep(60)
                here.sendall(b"ping")
                assert here.recv(10) == b"ping"
            echo.join()
        return greenio.current_time()

    before = time.monotonic()
    assert greenio.run(main, clock=VirtualClock()) == 6000
    assert time.monotonic() - before < 1


def test_a_negative_patience_is_refused():
    with pytest.raises(ValueError, match="patience must be >= 0"):
        VirtualClock(patience=-1)


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


# --- fibers left behind ----------------------------------------------------------------------------------------------


def test_a_fiber_left_behind_is_named_with_where_it_was_spawned_and_stands():
    def forgotten():
        greenio.sleep(1000)

    def main():
        fiber = greenio.spawn(forgotten, name="forgotten-1")
        with pytest.raises(FiberLeakError) as caught:
            check_no_fiber_left()
        assert fiber.state == "parked"
        return str(caught.value)

    text = greenio.run(main, clock=VirtualClock())
    assert text.startswith("1 fiber was left behind: forgotten-1; join or cancel what a test spawns\n")
    assert f"spawned at {__file__}:" in text
    assert "in forgotten\n" in text


def test_fibers_that_can_end_at_once_are_not_left_behind():
    def main():
        for _ in range(5):
            greenio.spawn(greenio.yield_now)
            greenio.spawn(greenio.sleep, 1000).cancel()
        check_no_fiber_left()
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 0.0


def test_a_fiber_that_never_stops_is_left_behind():
    def main():
        def spin():
            while True:
                greenio.yield_now()

        greenio.spawn(spin)
        with pytest.raises(FiberLeakError, match="1 fiber was left behind"):
            check_no_fiber_left()

    greenio.run(main)


def test_many_fibers_left_behind_are_counted():
    def main():
        for _ in range(200):
            greenio.spawn(greenio.sleep, 1000)
        with pytest.raises(FiberLeakError, match=r"200 fibers were left behind: .*, \.\.\.; join"):
            check_no_fiber_left()

    greenio.run(main, clock=VirtualClock())


def test_a_clock_does_not_start_before_its_zero():
    with pytest.raises(ValueError, match="starts at a moment >= 0"):
        VirtualClock(-0.5)
    with pytest.raises(ValueError, match="starts at a moment >= 0"):
        VirtualClock(float("nan"))
