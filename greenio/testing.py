"""Time and order under the test's control: a clock that jumps, and a way to wait until everybody else waits."""

from greenio._scheduler import Clock, current_scheduler

__all__ = ["VirtualClock", "wait_all_parked"]


class VirtualClock(Clock):
    """A clock that stands still while fibers run and jumps to the next deadline once all of them are parked.

    ``run(main, clock=VirtualClock())``: ``sleep(3600)`` ends at once. Descriptors that are ready come first, and while a
    call is out in another OS thread (name resolution) the clock does not jump.

    Args:
        start: the first moment, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now_ns = int(start * 1e9)

    def now_ns(self) -> int:
        """The virtual moment in nanoseconds."""
        return self._now_ns

    def wait_ns(self, deadline_ns: int) -> int:
        """Nothing is ready: it is *deadline_ns* now."""
        self._now_ns = max(self._now_ns, deadline_ns)
        return 0

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
