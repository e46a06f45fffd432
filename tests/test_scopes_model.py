"""_scopes.pyx against a model: random trees of nested scopes, shields, deadlines and cancellations, by trio's rules.

The model is plain Python and knows no fibers: it walks the same tree, moves a number called `now`, and asks at each checkpoint
whether a cancelled scope is in sight. What must agree: which checkpoint raises, which scope catches, and when. Where trio is
installed, it walks the trees too, so that the model is trio's and not only ours.

Each action from outside has a fraction of a second of its own, so that no two things happen at one moment by chance; deadlines
and sleeps that end at one moment do occur.
"""

import itertools
import math
import random
from contextlib import contextmanager
from functools import partial

import pytest

import greenio
from greenio.testing import VirtualClock

QUICK = 400
ALL = 10_000


# --- random programs -------------------------------------------------------------------------------------------------
#
# A block is a list of nodes: ("sleep", id, seconds), ("checkpoint", id), ("scope", id, deadline from the entry or None, shield,
# block), ("swallow", block): what is cancelled in it goes on below; ("finally", block, block).
# An action is (moment, what, id of a scope or None, value).


def random_block(rng, ids, scopes, depth):
    block = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if depth == 0 or kind < 0.35:
            block.append(("sleep", next(ids), rng.randint(1, 5)))
        elif kind < 0.45:
            block.append(("checkpoint", next(ids)))
        elif kind < 0.8:
            scope = next(ids)
            scopes.append(scope)
            deadline = rng.choice([None, None, 0, 1, 2, 3, 5, 8])
            block.append(
                ("scope", scope, deadline, rng.random() < 0.25, random_block(rng, ids, scopes, depth - 1)),
            )
        elif kind < 0.92:
            block.append(("swallow", random_block(rng, ids, scopes, depth - 1)))
        else:
            block.append(
                ("finally", random_block(rng, ids, scopes, depth - 1), random_block(rng, ids, scopes, depth - 1)),
            )
    return block


def random_program(seed):
    rng = random.Random(seed)
    scopes = []
    block = random_block(rng, itertools.count(), scopes, rng.randint(1, 5))
    actions = []
    for fraction in rng.sample(range(1, 16), rng.randint(0, 6)):
        moment = rng.randint(0, 20) + fraction / 16
        if not scopes or rng.random() < 0.1:
            actions.append((moment, "cancel fiber", None, None))
            continue
        what = rng.choice(["cancel", "cancel", "shield", "deadline"])
        value = None
        if what == "shield":
            value = rng.random() < 0.5
        elif what == "deadline":
            value = rng.choice([math.inf, *(moment + change for change in (-3, -1, 1, 2, 4))])
        actions.append((moment, what, rng.choice(scopes), value))
    return block, scopes, sorted(actions)


class Journal:
    """What happened: (id of a checkpoint, "done" or "cancelled", when), (id of a scope, caught or not, when)."""

    def __init__(self, scopes):
        self.events = []
        self.scopes = scopes  # by id
        self.left = set()

    def act(self, what, scope, value):
        if scope in self.left:
            return
        if what == "cancel":
            self.scopes[scope].cancel()
        elif what == "shield":
            self.scopes[scope].shield = value
        elif what == "deadline":
            self.scopes[scope].deadline = value


def walk(block, world, journal):
    for node in block:
        if node[0] in ("sleep", "checkpoint"):
            try:
                if node[0] == "sleep":
                    world.sleep(node[2])
                else:
                    world.checkpoint()
            except world.Cancelled:
                journal.events.append((node[1], "cancelled", world.now()))
                raise
            journal.events.append((node[1], "done", world.now()))
        elif node[0] == "scope":
            _, number, deadline, shield, inner = node
            scope = journal.scopes[number]
            scope.deadline = math.inf if deadline is None else world.now() + deadline
            scope.shield = shield
            try:
                with world.entered(scope):
                    walk(inner, world, journal)
            finally:
                journal.left.add(number)
                journal.events.append((number, scope.cancelled_caught, world.now()))
        elif node[0] == "group":
            try:
                world.in_group([*node[2], node[3]], partial(walk, world=world, journal=journal))
            finally:
                journal.events.append((node[1], "left", world.now()))
        elif node[0] == "swallow":
            try:
                walk(node[1], world, journal)
            except world.Cancelled:
                pass
        else:
            try:
                walk(node[1], world, journal)
            finally:
                walk(node[2], world, journal)


# --- the model -------------------------------------------------------------------------------------------------------


class ModelCancelled(BaseException):
    pass


class ModelScope:
    def __init__(self):
        self.deadline = math.inf
        self.shield = False
        self.cancelled = False
        self.cancelled_caught = False

    def cancel(self):
        self.cancelled = True


class Model:
    Cancelled = ModelCancelled

    def __init__(self, actions, journal):
        self.time = 0.0
        self.actions = list(actions)
        self.journal = journal
        self.fiber = ModelScope()
        self.entered_scopes = [self.fiber]  # the outermost first

    def now(self):
        return self.time

    def cancelled(self, scopes):
        """Whether what is in all of *scopes*, the outermost first, is cancelled."""
        for scope in reversed(scopes):
            if scope.cancelled:
                return True
            if scope.shield:
                return False
        return False

    def happen(self):
        """Whatever is due now."""
        while self.actions and self.actions[0][0] <= self.time:
            _, what, scope, value = self.actions.pop(0)
            if what == "cancel fiber":
                self.fiber.cancel()
            else:
                self.journal.act(what, scope, value)
        for scope in self.entered_scopes:
            if scope.deadline <= self.time:
                scope.cancel()

    def checkpoint(self):
        self.happen()
        if self.cancelled(self.entered_scopes):
            raise ModelCancelled

    def sleep(self, seconds):
        end = self.time + seconds
        self.checkpoint()
        while self.time < end:
            moments = [scope.deadline for scope in self.entered_scopes if not scope.cancelled]
            moments += [action[0] for action in self.actions[:1]]
            self.time = min([end, *moments])
            self.checkpoint()

    @contextmanager
    def entered(self, scope):
        self.entered_scopes.append(scope)
        try:
            yield
        except ModelCancelled:
            parents = self.entered_scopes[:-1]
            if not scope.cancelled or (not scope.shield and self.cancelled(parents)):
                raise
            scope.cancelled_caught = True
        finally:
            self.entered_scopes.pop()


def by_the_model(program):
    block, scopes, actions = program
    journal = Journal({number: ModelScope() for number in scopes})
    model = Model(actions, journal)
    try:
        walk(block, model, journal)
    except ModelCancelled:
        journal.events.append("cancelled")
    return journal.events


# --- greenio ---------------------------------------------------------------------------------------------------------


class Greenio:
    Cancelled = greenio.Cancelled
    now = staticmethod(greenio.current_time)
    sleep = staticmethod(greenio.sleep)
    checkpoint = staticmethod(greenio.yield_now)

    @staticmethod
    def entered(scope):
        return scope


def by_greenio(program, world=Greenio):
    block, scopes, actions = program
    journal = Journal({number: greenio.CancelScope() for number in scopes})

    def worker():
        try:
            walk(block, world, journal)
        except greenio.Cancelled:
            journal.events.append("cancelled")

    def main():
        fiber = greenio.spawn(worker)
        for moment, what, scope, value in actions:
            greenio.sleep_until(moment)
            if what == "cancel fiber":
                fiber.cancel()
            else:
                journal.act(what, scope, value)
        fiber.join()

    greenio.run(main, clock=VirtualClock())
    return journal.events


# --- trio ------------------------------------------------------------------------------------------------------------


def by_trio(program, trio, clock):
    block, scopes, actions = program
    journal = Journal({number: trio.CancelScope() for number in scopes})

    async def walk(block):
        for node in block:
            if node[0] in ("sleep", "checkpoint"):
                try:
                    await (trio.sleep(node[2]) if node[0] == "sleep" else trio.lowlevel.checkpoint())
                except trio.Cancelled:
                    journal.events.append((node[1], "cancelled", trio.current_time() - start))
                    raise
                journal.events.append((node[1], "done", trio.current_time() - start))
            elif node[0] == "scope":
                _, number, deadline, shield, inner = node
                scope = journal.scopes[number]
                scope.deadline = math.inf if deadline is None else trio.current_time() + deadline
                scope.shield = shield
                try:
                    with scope:
                        await walk(inner)
                finally:
                    journal.left.add(number)
                    journal.events.append((number, scope.cancelled_caught, trio.current_time() - start))
            elif node[0] == "group":
                try:
                    async with trio.open_nursery() as nursery:
                        for inner in node[2]:
                            nursery.start_soon(walk, inner)
                        await walk(node[3])
                finally:
                    journal.events.append((node[1], "left", trio.current_time() - start))
            elif node[0] == "swallow":
                try:
                    await walk(node[1])
                except (trio.Cancelled, BaseExceptionGroup):  # of nothing but Cancelled
                    pass
            else:
                try:
                    await walk(node[1])
                finally:
                    await walk(node[2])

    async def worker(fiber, done):
        with fiber:
            await walk(block)
        if fiber.cancelled_caught:
            journal.events.append("cancelled")
        done.cancel()

    async def main():
        nonlocal start
        start = trio.current_time()
        fiber = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, fiber, nursery.cancel_scope)
            for moment, what, scope, value in actions:
                await trio.sleep_until(start + moment)
                if what == "cancel fiber":
                    fiber.cancel()
                else:
                    journal.act(what, scope, start + value if what == "deadline" else value)

    start = 0.0
    trio.run(main, clock=clock)
    return journal.events


# --- with task groups: against trio itself ---------------------------------------------------------------------------
#
# One more node: ("group", id, blocks of its fibers, block of its body). Here every length of time is its own, to the microsecond:
# what several fibers do at one moment has no order that two schedulers would share. No shield is moved: trio marks a nursery as
# cancelled when its parent is woken by a cancellation, greenio lets the tree tell.


def random_microseconds(rng, most):
    return rng.randint(0, most) + rng.randint(1, 999_999) / 1e6


def random_group_block(rng, ids, scopes, depth):
    block = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()

        def inner():
            return random_group_block(rng, ids, scopes, depth - 1)

        if depth == 0 or kind < 0.35:
            block.append(("sleep", next(ids), random_microseconds(rng, 4)))
        elif kind < 0.4:
            block.append(("checkpoint", next(ids)))
        elif kind < 0.65:
            scope = next(ids)
            scopes.append(scope)
            deadline = None if rng.random() < 0.4 else random_microseconds(rng, 6)
            block.append(("scope", scope, deadline, rng.random() < 0.2, inner()))
        elif kind < 0.9:
            block.append(("group", next(ids), [inner() for _ in range(rng.randint(1, 3))], inner()))
        elif kind < 0.95:
            block.append(("swallow", inner()))
        else:
            block.append(("finally", inner(), inner()))
    return block


def random_group_program(seed):
    rng = random.Random(seed)
    scopes = []
    block = random_group_block(rng, itertools.count(), scopes, rng.randint(2, 4))
    actions = []
    for _ in range(rng.randint(0, 4) if scopes else 0):
        moment = random_microseconds(rng, 12)
        what = rng.choice(["cancel", "deadline"])
        actions.append((moment, what, rng.choice(scopes), moment + random_microseconds(rng, 4)))
    return block, scopes, sorted(actions)


class GreenioWithGroups(Greenio):
    @staticmethod
    def in_group(blocks, walk_one):
        with greenio.TaskGroup() as group:
            for block in blocks[:-1]:
                group.spawn(walk_one, block)
            walk_one(blocks[-1])


def in_order_of_ids(events):
    return sorted((number, outcome, round(moment, 6)) for number, outcome, moment in events)


# --- tests -----------------------------------------------------------------------------------------------------------


def check(seeds):
    for seed in seeds:
        program = random_program(seed)
        expected = by_the_model(program)
        assert by_greenio(program) == expected, f"seed {seed}: {program}"


def test_random_trees_follow_the_model():
    check(range(QUICK))


@pytest.mark.slow
def test_ten_thousand_random_trees_follow_the_model():
    check(range(QUICK, QUICK + ALL))


def test_the_random_trees_are_worth_walking():
    outcomes = [event for seed in range(200) for event in by_the_model(random_program(seed))]
    checkpoints = [event[1] for event in outcomes if event != "cancelled" and isinstance(event[1], str)]
    scopes = [event[1] for event in outcomes if event != "cancelled" and isinstance(event[1], bool)]
    assert checkpoints.count("cancelled") > 200 and checkpoints.count("done") > 200
    assert scopes.count(True) > 100 and scopes.count(False) > 100
    assert outcomes.count("cancelled") > 5


@pytest.mark.slow
def test_the_model_follows_trio():
    trio = pytest.importorskip("trio")
    from trio.testing import MockClock

    for seed in range(300):
        program = random_program(seed)
        clock = MockClock(autojump_threshold=0)
        assert by_trio(program, trio, clock) == by_the_model(program), f"seed {seed}: {program}"


@pytest.mark.slow
def test_random_trees_of_task_groups_follow_trio():
    trio = pytest.importorskip("trio")
    from trio.testing import MockClock

    fibers = 0
    for seed in range(1000):
        program = random_group_program(seed)
        fibers += str(program).count("group")
        by_us = [event for event in by_greenio(program, GreenioWithGroups) if event != "cancelled"]
        by_them = [event for event in by_trio(program, trio, MockClock(autojump_threshold=0)) if event != "cancelled"]
        assert in_order_of_ids(by_us) == in_order_of_ids(by_them), f"seed {seed}: {program}"
    assert fibers > 1000
