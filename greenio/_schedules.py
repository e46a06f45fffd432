"""Schedules made from a seed: they pick which ready fiber runs next, and whether one that need not park gives way all the same.

A run under one is repeated exactly by the same seed, as long as the program takes no other chances: real clocks, other OS threads
and processes, sets of strings (PYTHONHASHSEED). Public by greenio.testing.
"""

import random

from greenio._scheduler import Fiber, Schedule


class SeededSchedule(Schedule):
    """What the schedules have in common; subclass it for one of your own, with `choose` and, for what must start anew, `begin`.

    Attributes:
        seed: what all choices come from; also select's, while the run lasts.
        random: a random.Random, the same sequence in each run.
        step: how many choices the run has asked for: parks, ends, and operations that did not need to park.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.begin()

    def begin(self) -> None:
        """A run begins: everything as it was at first. Called by greenio.run."""
        self.random = random.Random(self.seed)
        self.step = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.seed})"


class RandomSchedule(SeededSchedule):
    """At each step any of the ready fibers, the running one among them, each as likely as the others."""

    def choose(self, ready: list[Fiber], running: Fiber | None, yielded: bool) -> Fiber:
        self.step += 1
        return ready[self.random.randrange(len(ready))]


class PctSchedule(SeededSchedule):
    """Priorities by chance, and a few moments at which the running fiber falls below all others: finds races that need few of them.

    Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS
    2010): always run the ready fiber of the highest priority; priorities are random, and at depth - 1 random steps that of the
    fiber about to run drops below all. A bug that takes `depth` ordering constraints among n fibers in k steps is found with a
    probability of at least 1 / (n * k ** (depth - 1)) a seed, if *steps* is about k. Most races are of depth 2 (an order
    violated) or 3.

    So that loops which wait by yield_now come to an end, unlike in the paper, a fiber that yields drops below all, and so does one
    that has been preferred for 1000 steps on end.

    Args:
        seed: what all choices come from.
        depth: one more than the number of moments, >= 1.
        steps: about how many steps the run takes, >= 1: the moments are among these. None: a power of two from 8 to 256, from the seed.
    Raises:
        ValueError: *depth* or *steps* < 1.
    """

    PATIENCE = 1000

    def __init__(self, seed: int, depth: int = 3, steps: int | None = None) -> None:
        if depth < 1:
            raise ValueError(f"depth must be >= 1, not {depth!r}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be >= 1 or None, not {steps!r}")
        self.depth = depth
        self.steps = steps
        super().__init__(seed)

    def begin(self) -> None:
        """A run begins: everything as it was at first. Called by greenio.run."""
        super().begin()
        steps = 8 << self.random.randrange(6) if self.steps is None else self.steps
        count = min(self.depth - 1, steps)
        self._changes = set(self.random.sample(range(1, steps + 1), count))
        self._priorities: dict[int, float] = {}  # by fiber id; as drawn: 0 to 1
        self._floor = 0.0  # the lowest so far
        self._favourite = 0  # the fiber that was chosen last, by id,
        self._preferred = 0  # and how often on end

    def _drop(self, fiber: Fiber) -> None:
        self._floor -= 1.0
        self._priorities[fiber.id] = self._floor

    def _best(self, ready: list[Fiber]) -> Fiber:
        return max(ready, key=lambda fiber: self._priorities[fiber.id])

    def choose(self, ready: list[Fiber], running: Fiber | None, yielded: bool) -> Fiber:
        self.step += 1
        for fiber in ready:
            if fiber.id not in self._priorities:
                self._priorities[fiber.id] = self.random.random()
        if yielded and running is not None:
            self._drop(running)
        chosen = self._best(ready)
        self._preferred = self._preferred + 1 if chosen.id == self._favourite else 0
        if self.step in self._changes or (self._preferred >= self.PATIENCE and len(ready) > 1):
            self._drop(chosen)
            chosen = self._best(ready)
            self._preferred = 0
        self._favourite = chosen.id
        return chosen

    def __repr__(self) -> str:
        steps = "" if self.steps is None else f", steps={self.steps}"
        return f"PctSchedule({self.seed}, depth={self.depth}{steps})"
