"""_sections.pyx: pin() and atomic(), what they count and what is refused inside."""

import contextlib
import gc
import threading

import pytest

import greenio
from greenio.testing import RandomSchedule, VirtualClock

REFUSED = r"inside greenio\.atomic\(\): no other fiber may run until the block ends"


def append_forever(seen, name):
    while True:
        seen.append(name)
        greenio.yield_now()


# --- pin -------------------------------------------------------------------------------------------------------------


def test_pin_counts_for_the_fiber_that_enters_it_and_nests():
    one = greenio.pin()

    def other():
        assert greenio.current_fiber().pinned == 0
        with one:
            greenio.yield_now()
            assert greenio.current_fiber().pinned == 1

    def main():
        me = greenio.current_fiber()
        with one, greenio.pin(), one:
            fiber = greenio.spawn(other)
            greenio.yield_now()
            assert (me.pinned, fiber.pinned) == (3, 1)
            fiber.join()
            assert me.pinned == 3
        assert me.pinned == 0

    greenio.run(main)


def test_pin_ends_with_its_block_however_that_ends():
    def main():
        with pytest.raises(ZeroDivisionError), greenio.pin():
            divmod(1, 0)
        with greenio.move_on_after(0), greenio.pin():
            greenio.sleep(1)
        assert greenio.current_fiber().pinned == 0

    greenio.run(main)


def test_a_fiber_spawned_with_pin_is_pinned_all_its_life():
    def child():
        with greenio.pin():
            pass
        return greenio.current_fiber().pinned

    def main():
        with greenio.TaskGroup() as group:
            fibers = [
                greenio.spawn(child, pin=True),
                greenio.current_scheduler().spawn(child, pin=True),
                group.spawn(child, pin=True),
                greenio.spawn(child, pin=False),
                group.spawn(child),
            ]
            assert [fiber.pinned for fiber in fibers] == [1, 1, 1, 0, 0]
            started = group.start(lambda task_status: task_status.started(greenio.current_fiber().pinned), pin=True)
            return [*(fiber.result() for fiber in fibers), started]

    assert greenio.run(main) == [1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("section", [greenio.pin, greenio.atomic])
def test_misuse_is_a_clear_error(section):
    with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
        section().__enter__()
    with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
        section().__exit__(None, None, None)
    with pytest.raises(TypeError, match=rf"use greenio\.{section.__name__}\(\)"):
        type(section())()

    def main():
        with pytest.raises(
            RuntimeError, match=rf"main leaves a greenio\.{section.__name__}\(\) that it has not entered"
        ):
            section().__exit__(None, None, None)
        with section():
            pass
        greenio.sleep(0)

    greenio.run(main)


# --- atomic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [None, RandomSchedule(3)])
def test_operations_that_complete_do_not_give_way_inside_atomic(schedule):
    def main():
        seen = []
        fiber = greenio.spawn(append_forever, seen, "other")
        greenio.yield_now()
        channel = greenio.Channel(1)
        with greenio.atomic():
            before = len(seen)
            for _ in range(1000):
                channel.send(1)
                channel.receive()
                greenio.checkpoint()
            assert len(seen) == before
        for _ in range(1000):
            greenio.checkpoint()
        assert len(seen) > before
        fiber.cancel()

    greenio.run(main, schedule=schedule)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: greenio.sleep(1),
        lambda: greenio.sleep(0),
        lambda: greenio.sleep_until(0),
        greenio.yield_now,
        lambda: greenio.Channel(0).send(1),
        lambda: greenio.Event().wait(),
        lambda: greenio.spawn(int).join(),
    ],
)
def test_what_has_to_wait_is_refused_inside_atomic(wait):
    def main():
        seen = []
        other = greenio.spawn(append_forever, seen, "other")
        with greenio.atomic():
            with greenio.atomic():
                pass
            with pytest.raises(RuntimeError, match=REFUSED):
                wait()
            assert seen == []
        greenio.yield_now()
        assert seen
        other.cancel()

    greenio.run(main, clock=VirtualClock())


def test_a_refused_wait_has_not_happened():
    def main():
        channel, lock, queue = greenio.Channel(0), greenio.Lock(), greenio.Queue(1)
        queue.put("there")
        holder = greenio.spawn(lambda: [lock.acquire(), greenio.sleep(1), lock.release()])
        greenio.yield_now()
        for refused in (channel.receive, lock.acquire, lambda: queue.put("no room")):
            with pytest.raises(RuntimeError, match=REFUSED), greenio.atomic():
                refused()
        receiver = greenio.spawn(channel.receive)
        channel.send("item")
        assert receiver.result() == "item"
        holder.join()
        assert not lock.locked()
        assert (queue.get(), queue.qsize()) == ("there", 0)

    greenio.run(main, clock=VirtualClock())


def test_after_a_refusal_the_way_out_of_the_block_may_wait():
    def main():
        seen = []
        with greenio.atomic(), greenio.atomic():
            try:
                with greenio.TaskGroup() as group:
                    group.spawn(lambda: [greenio.sleep(1), seen.append("not cancelled")])
            except* RuntimeError:
                with pytest.raises(RuntimeError, match=REFUSED), greenio.atomic():
                    greenio.sleep(1)
                greenio.sleep(1)
                seen.append("waited")
        assert seen == ["waited"]
        with pytest.raises(RuntimeError, match=REFUSED), greenio.atomic():
            greenio.sleep(1)

    greenio.run(main, clock=VirtualClock())


def test_cancellation_comes_before_the_refusal():
    def main():
        with greenio.CancelScope() as scope:
            scope.cancel()
            with greenio.atomic():
                greenio.sleep(1)
        assert scope.cancelled_caught
        greenio.sleep(0)

    greenio.run(main)


def test_a_fiber_that_ends_with_atomic_in_a_generator_left_behind_holds_nobody_up():
    def section():
        with greenio.atomic():
            yield

    kept = []

    def child():
        kept.append(section())
        next(kept[0])

    def main():
        fiber = greenio.spawn(child)
        fiber.add_done_callback(lambda fiber: greenio.sleep(0))
        fiber.join()
        with pytest.raises(RuntimeError, match="has not entered"):
            kept.pop().close()
        greenio.sleep(0)

    greenio.run(main)
    gc.collect()


def test_other_os_threads_run_on_beside_atomic():
    def main():
        ran = threading.Event()
        thread = threading.Thread(target=ran.set)
        with greenio.atomic():
            thread.start()
            assert ran.wait(30)
        thread.join()

    greenio.run(main)


def test_sections_of_one_fiber_hold_in_others_nothing():
    def main():
        with contextlib.ExitStack() as stack:
            stack.enter_context(greenio.pin())
            assert greenio.spawn(lambda: [greenio.sleep(0), greenio.current_fiber().pinned]).result() == [None, 0]

    greenio.run(main)
