"""Time and order under the test's control: a clock that jumps, waiting until everybody else waits, schedules made from a seed.

    greenio.run(main, clock=VirtualClock())                            # sleep(3600) ends at once
    greenio.run(main, clock=VirtualClock(), schedule=PctSchedule(17))  # an unlikely order, the same each time
    explore(main, seeds=range(500))                                    # many orders; stops at the first that fails

With pytest, ``@pytest.mark.greenio`` does all of that and looks for fibers that a test leaves behind: greenio.pytest_plugin.
"""

import _thread
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from greenio._run import run
from greenio._scheduler import Clock, Fiber, Schedule, current_fiber, current_scheduler, describe_fiber, yield_now
from greenio._schedules import PctSchedule, RandomSchedule, SeededSchedule

__all__ = [
    "FiberLeakError",
    "PctSchedule",
    "RandomSchedule",
    "SeededSchedule",
    "VirtualClock",
    "check_no_fiber_left",
    "explore",
    "replay",
    "wait_all_parked",
]

_Result = TypeVar("_Result")

LAST_TURNS = 100  # for fibers that are about to end when a test does


class FiberLeakError(AssertionError):
    """Fibers were still alive when the test's function had returned. The text names each, where it was spawned and stands."""


class VirtualClock(Clock):
    """A clock that stands still while fibers run and jumps to the next deadline once all of them are parked.

    ``run(main, clock=VirtualClock())``: ``sleep(3600)`` ends at once. What is under way comes first: descriptors that are ready,
    and calls that are out in other OS threads (name resolution), for which the clock waits as long as they take.

    What other OS threads are about to do nobody can know: a peer that has not written yet, a thread that will unpark a fiber. While
    such threads live, the clock jumps only after *patience* real seconds in which nothing came. What takes a thread longer,
    and what other processes do, may find that the clock has moved on; give *patience* then, or keep deadlines out of such tests.

    Args:
        start: the first moment, in seconds.
        patience: real seconds >= 0 without any event before each jump. None: 0.01 while other Python threads live, else 0.
    Raises:
        ValueError: *patience* is negative.
    """

    def __init__(self, start: float = 0.0, patience: float | None = None) -> None:
        if patience is not None and not patience >= 0:
            raise ValueError(f"patience must be >= 0 seconds or None, not {patience!r}")
        if not start >= 0:
            raise ValueError(f"a clock starts at a moment >= 0 seconds, not {start!r}")
        self._now_ns = int(start * 1e9)
        self._patience = patience
        self._quiet: tuple[int, int] | None = None  # the deadline waited for, and how many switches there had been
        self._quiet_until = 0.0  # on time.monotonic

    def now_ns(self) -> int:
        """The virtual moment in nanoseconds."""
        return self._now_ns

    def wait_ns(self, deadline_ns: int) -> int:
        """Nothing is ready: it is *deadline_ns* now; or, while somebody outside may still act, so many real nanoseconds of waiting."""
        left = self._patience_left(deadline_ns)
        if left > 0:
            return int(left * 1e9) + 1
        self._now_ns = max(self._now_ns, deadline_ns)
        self._quiet = None
        return 0

    def _patience_left(self, deadline_ns: int) -> float:
        patience = self._patience
        if patience == 0:
            return 0.0
        if patience is None:
            # Threads that Python started and that live: without a look at every thread state, each fiber having one.
            if _thread._count() == 0:
                return 0.0
            patience = 0.01
        quiet = (deadline_ns, current_scheduler().switch_count)
        now = time.monotonic()
        if quiet != self._quiet:
            self._quiet = quiet
            self._quiet_until = now + patience
        return self._quiet_until - now

    def advance(self, seconds: float) -> None:
        """Move on by *seconds* >= 0; what has become due fires when the scheduler looks next."""
        if not seconds >= 0:
            raise ValueError(f"time moves by >= 0 seconds, not {seconds!r}")
        self._now_ns += int(seconds * 1e9)


def wait_all_parked() -> None:
    """Park until every other fiber of this run is parked and no descriptor that one waits for is ready.

    Fixes the order in a test: what the others can do without this fiber, and without time passing, they have done.

    Raises:
        Cancelled: this fiber was cancelled.
    """
    current_scheduler().wait_all_parked()


def check_no_fiber_left() -> None:
    """Fail if any other fiber of this run is alive. For the end of a test's function.

    Fibers that can end now without waiting for anything (cancelled ones, say) get a last few turns to do so: no time passes on a
    virtual clock. May park.

    Raises:
        FiberLeakError: some are left. They stay alive; the end of the run cancels and unwinds them.
    """
    me = current_fiber()
    scheduler = current_scheduler()
    for _ in range(LAST_TURNS):
        others = [fiber for fiber in scheduler.fibers() if fiber is not me]
        if all(fiber.state == "parked" for fiber in others):
            break
        yield_now()
    left = [fiber for fiber in scheduler.fibers() if fiber is not me]
    if left:
        raise FiberLeakError(_tell_left(left))


def _tell_left(fibers: list[Fiber]) -> str:
    stacks = "\n".join(describe_fiber(fiber) for fiber in fibers[:LAST_TURNS])
    names = ", ".join(fiber.name for fiber in fibers[:5]) + (", ..." if len(fibers) > 5 else "")
    count = "1 fiber was" if len(fibers) == 1 else f"{len(fibers)} fibers were"
    return f"{count} left behind: {names}; join or cancel what a test spawns\n{stacks}"


def explore(
    fn: Callable[[], object],
    seeds: Iterable[int] = range(500),
    schedule: Callable[[int], Schedule] = PctSchedule,
    clock: Callable[[], Clock | None] = VirtualClock,
) -> int:
    """Run fn() as the main fiber of a fresh run once for each seed, each in another order of its fibers, up to the first that fails.

    Args:
        fn: what to try; it must set up what it needs itself, since it is called many times.
        seeds: numbers.
        schedule: makes a run's schedule from a seed: PctSchedule, RandomSchedule, or one of your own, for example
            ``functools.partial(PctSchedule, depth=2, steps=60)``.
        clock: makes a run's clock; ``lambda: None`` is the real one.
    Returns:
        How many seeds were tried.
    Raises:
        BaseException: what *fn* raised, or the run, for example DeadlockError; with a note that names the seed.
    """
    tried = 0
    for seed in seeds:
        replay(fn, seed, schedule, clock)
        tried += 1
    return tried


def replay(
    fn: Callable[[], _Result],
    seed: int,
    schedule: Callable[[int], Schedule] = PctSchedule,
    clock: Callable[[], Clock | None] = VirtualClock,
) -> _Result:
    """Run fn() as `explore` does for this one seed, and return what it returns."""
    made = schedule(seed)
    try:
        return run(fn, clock=clock(), schedule=made)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        error.add_note(
            f"greenio: failed under {made!r}; again: greenio.testing.replay({name}, seed={seed}), same schedule"
        )
        raise
