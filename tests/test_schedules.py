"""_schedules.py, and explore and replay of testing.py: orders made from a seed, and the races that they find."""

from functools import partial
from itertools import pairwise

import pytest

import greenio
from greenio._scheduler import park_here, unpark_fiber
from greenio.testing import PctSchedule, RandomSchedule, SeededSchedule, VirtualClock, explore, replay

SEEDED = pytest.mark.parametrize("schedule", [PctSchedule, RandomSchedule])


# --- planted races: each is right in the order of round robin -------------------------------------------------------------


def lost_update():
    account = [0]

    def pay_in():
        amount = account[0]
        greenio.checkpoint()
        account[0] = amount + 1

    for fiber in [greenio.spawn(pay_in) for _ in range(2)]:
        fiber.join()
    assert account == [2], f"an update was lost: {account}"


def lost_wakeup():
    flag = []

    def wait_for_flag():
        if not flag:
            greenio.checkpoint()
            park_here("the flag", flag)

    def set_flag(waiter):
        flag.append(True)
        unpark_fiber(waiter, flag)

    waiter = greenio.spawn(wait_for_flag)
    greenio.spawn(set_flag, waiter).join()
    waiter.join()


class HandMadeLock:
    def __init__(self, name):
        self.name = name
        self.owner = None
        self.waiting = []

    def __repr__(self):
        return f"<lock {self.name}>"

    def acquire(self):
        greenio.checkpoint()
        while self.owner is not None:
            self.waiting.append(greenio.current_fiber())
            park_here("lock acquire", self)
        self.owner = greenio.current_fiber()
        greenio.checkpoint()

    def release(self):
        self.owner = None
        if self.waiting:
            unpark_fiber(self.waiting.pop(0), self)


def order_of_locks():
    here, there = HandMadeLock("here"), HandMadeLock("there")

    def transfer(first, second):
        first.acquire()
        second.acquire()
        second.release()
        first.release()

    fibers = [greenio.spawn(transfer, here, there, name="out"), greenio.spawn(transfer, there, here, name="back")]
    for fiber in fibers:
        fiber.join()


RACES = [(lost_update, AssertionError), (lost_wakeup, greenio.DeadlockError), (order_of_locks, greenio.DeadlockError)]
planted = pytest.mark.parametrize(("race", "failure"), RACES, ids=lambda part: part.__name__)


@planted
def test_round_robin_does_not_show_the_planted_races(race, failure):
    greenio.run(race, clock=VirtualClock())


def first_failing_seed(race, failure, schedule):
    with pytest.raises(failure) as caught:
        explore(race, range(500), schedule)
    (note,) = caught.value.__notes__
    return int(note.split("seed=")[1].split(")")[0]), note


@SEEDED
@planted
def test_a_planted_race_is_found_within_500_seeds(race, failure, schedule):
    seed, note = first_failing_seed(race, failure, schedule)
    assert 0 <= seed < 500
    assert f"{schedule.__name__}({seed}" in note
    assert f"replay({race.__name__}, seed={seed})" in note


@pytest.mark.slow
@SEEDED
@planted
def test_a_failing_seed_fails_100_times_of_100(race, failure, schedule):
    seed, _ = first_failing_seed(race, failure, schedule)
    for _ in range(100):
        with pytest.raises(failure):
            replay(race, seed, schedule)


def test_without_the_race_no_seed_fails():
    def right_update():
        account = [0]

        def pay_in():
            greenio.checkpoint()
            account[0] += 1

        for fiber in [greenio.spawn(pay_in) for _ in range(2)]:
            fiber.join()
        assert account == [2]

    assert explore(right_update) == 500


# --- repetition ------------------------------------------------------------------------------------------------------


def trace(count=5, steps=8):
    """The order in which some fibers of mixed habits do what they do."""
    events = []

    def worker(name):
        for step in range(steps):
            events.append((name, step))
            if step % 3 == 0:
                greenio.checkpoint()
            elif step % 3 == 1:
                greenio.yield_now()
            else:
                greenio.sleep(name)

    for fiber in [greenio.spawn(worker, name) for name in range(count)]:
        fiber.join()
    return events


@SEEDED
def test_the_same_seed_gives_the_same_order_and_others_give_others(schedule):
    orders = [tuple(replay(trace, seed, schedule)) for seed in range(20)]
    assert [tuple(replay(trace, seed, schedule)) for seed in range(20)] == orders
    assert len(set(orders)) > 10


@SEEDED
def test_a_schedule_object_begins_anew_in_each_run(schedule):
    made = schedule(7)
    orders = [greenio.run(trace, clock=VirtualClock(), schedule=made) for _ in range(3)]
    assert orders[0] == orders[1] == orders[2]
    assert made.step > 0


@SEEDED
def test_every_fiber_comes_to_its_end(schedule):
    for seed in range(20):
        events = replay(partial(trace, 4, 30), seed, schedule)
        assert sorted(events) == [(name, step) for name in range(4) for step in range(30)]


@SEEDED
def test_loops_that_wait_by_yielding_or_computing_come_to_an_end(schedule):
    def main(wait):
        flag = []

        def spin():
            while not flag:
                wait()

        spinners = [greenio.spawn(spin) for _ in range(3)]
        greenio.spawn(flag.append, True)
        for fiber in spinners:
            fiber.join()

    for seed in range(10):
        replay(partial(main, greenio.yield_now), seed, schedule)
        replay(partial(main, greenio.checkpoint), seed, schedule)


def test_a_deadline_comes_though_a_fiber_computes_under_a_schedule():
    clock = VirtualClock()

    def main():
        greenio.spawn(greenio.sleep, 1).add_done_callback(lambda fiber: done.append(True))
        greenio.sleep(0.5)
        clock.advance(10)
        while not done:
            greenio.checkpoint()

    done = []
    greenio.run(main, clock=clock, schedule=PctSchedule(3))


# --- priority changes ------------------------------------------------------------------------------------------------


def test_depth_1_changes_no_priority():
    def main():
        def worker(name):
            for _ in range(10):
                events.append(name)
                greenio.checkpoint()

        for fiber in [greenio.spawn(worker, name) for name in range(3)]:
            fiber.join()

    for seed in range(20):
        events = []
        replay(main, seed, partial(PctSchedule, depth=1))
        # Each in one go: whoever is of the highest priority stays it.
        assert sum(one != other for one, other in pairwise(events)) == 2


def test_depth_2_changes_one_priority():
    def main():
        def worker(name):
            for _ in range(10):
                events.append(name)
                greenio.checkpoint()

        for fiber in [greenio.spawn(worker, name) for name in range(2)]:
            fiber.join()

    switches = []
    for seed in range(50):
        events = []
        replay(main, seed, partial(PctSchedule, depth=2, steps=20))
        switches.append(sum(one != other for one, other in pairwise(events)))
    assert set(switches) == {1, 2}


@pytest.mark.parametrize(
    ("options", "message"), [({"depth": 0}, "depth must be >= 1"), ({"steps": 0}, "steps must be >= 1")]
)
def test_priority_schedules_refuse_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        PctSchedule(1, **options)


def test_a_schedule_says_how_to_make_it_again():
    assert repr(RandomSchedule(3)) == "RandomSchedule(3)"
    assert repr(PctSchedule(3)) == "PctSchedule(3, depth=3)"
    assert repr(PctSchedule(3, 2, 50)) == "PctSchedule(3, depth=2, steps=50)"


# --- schedules of one's own ------------------------------------------------------------------------------------------


def test_a_schedule_of_ones_own_picks_the_order():
    class NewestFirst(greenio.Schedule):
        def choose(self, ready, running, yielded):
            return ready[-1] if running is None else running

    order = []

    def main():
        for fiber in [greenio.spawn(order.append, name) for name in "abc"]:
            fiber.join()

    greenio.run(main, schedule=NewestFirst())
    assert order == ["c", "b", "a"]


def test_a_schedule_is_told_who_stands_where():
    seen = []

    class Listening(SeededSchedule):
        def choose(self, ready, running, yielded):
            seen.append(([fiber.name for fiber in ready], running and running.name, yielded))
            return ready[0]

    def main():
        greenio.spawn(greenio.yield_now, name="a")
        greenio.checkpoint()
        greenio.sleep(1)

    greenio.run(main, clock=VirtualClock(), schedule=Listening(1))
    assert seen == [
        (["a", "main"], "main", False),
        (["main", "a"], "a", True),
        (["a"], None, False),
        (["main"], None, False),
    ]


def test_an_error_of_a_schedule_is_raised_in_main():
    class Wrong(greenio.Schedule):
        def choose(self, ready, running, yielded):
            return "nobody"

    def main():
        greenio.checkpoint()
        greenio.checkpoint()

    with pytest.raises(ValueError, match=r"chose 'nobody', which is none of those that are ready"):
        greenio.run(main, schedule=Wrong())


def test_a_schedule_cannot_park():
    class Sleepy(greenio.Schedule):
        def choose(self, ready, running, yielded):
            greenio.sleep(1)

    def main():
        greenio.checkpoint()
        greenio.checkpoint()

    with pytest.raises(RuntimeError, match="cannot wait"):
        greenio.run(main, schedule=Sleepy())


def test_other_runs_are_not_under_the_schedule():
    greenio.run(trace, clock=VirtualClock(), schedule=RandomSchedule(1))
    assert greenio.run(trace, clock=VirtualClock()) == greenio.run(trace, clock=VirtualClock())
    assert greenio.run(lambda: greenio.current_scheduler().schedule) is None


def test_explore_counts_seeds_and_uses_the_clock_it_is_given():
    clocks = []

    def clock():
        clocks.append(VirtualClock(start=5))
        return clocks[-1]

    assert explore(lambda: greenio.sleep(1), range(3), clock=clock) == 3
    assert [each.now_ns() for each in clocks] == [6_000_000_000] * 3


@pytest.mark.skipif(not hasattr(greenio, "select"), reason="select is not built yet")
def test_the_choices_of_select_come_from_the_seed():
    def main():
        channels = [greenio.Channel(1) for _ in range(4)]
        taken = []
        for _ in range(20):
            for channel in channels:
                if not len(channel):
                    channel.send("an item")
            taken.append(greenio.select(*channels).index)
        return tuple(taken)

    assert len({replay(main, 5) for _ in range(5)}) == 1
    assert len({replay(main, seed) for seed in range(10)}) > 5
    assert len({greenio.run(main) for _ in range(10)}) > 5  # and do not stay as they were seeded
