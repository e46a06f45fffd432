"""Who waits for whom, and why nothing happens, as data and as a text for a person. Behind greenio.debug and DeadlockError.

Only reads; may be called on any OS thread, on top of any fiber, and while a run idles. NamedTuple and not dataclasses: importing
those takes longer than the rest of greenio together.
"""

import signal
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from greenio import _scheduler
from greenio._scheduler import Fiber, Scheduler, brief_repr, describe_fiber, group_of

MOST_TOLD = 100  # fibers told one by one
MOST_NAMED = 5  # of a group that waits for the same thing
MOST_STACKS = 10  # in one cycle
# What somebody else than the owner, or any one of several, can end.
NOT_THE_OWNERS = frozenset({"condition wait", "a place in its task group", "a result of a task group"})

Owner = Fiber | int


class Node(NamedTuple):
    """One fiber that has not ended.

    Attributes:
        fiber: itself.
        state: "ready", "running" or "parked".
        reason: while parked, the short phrase that says what for; else "".
        waiting_on: and the object, or None.
        owners: who must do something first: those that hold `waiting_on` or that it waits for. A Fiber, or an OS thread's ident.
            It needs all of them. Empty where that is not known: who sends on a channel may be anybody.
        seconds: how long it has been parked.
        spawned_at: (file name, line number), or None for a main fiber.
    """

    fiber: Fiber
    state: str
    reason: str
    waiting_on: Any
    owners: tuple[Owner, ...]
    seconds: float
    spawned_at: tuple[str, int] | None


Members = dict[int, list[Fiber]]  # by the id of a task group's scope


def _scope_of(waiting_on: Any) -> Any:
    """The cancel scope of the task group that *waiting_on* is, or itself."""
    try:
        return getattr(waiting_on, "cancel_scope", waiting_on)
    except Exception:
        return waiting_on


def _owners_of(fiber: Fiber, reason: str, waiting_on: Any, members: Members) -> tuple[Owner, ...]:
    if waiting_on is None or reason in NOT_THE_OWNERS:
        return ()
    if isinstance(waiting_on, Fiber):
        return () if waiting_on.state == "done" else (waiting_on,)
    scope = _scope_of(waiting_on)
    if id(scope) in members:
        return tuple(members[id(scope)])
    try:
        owner = getattr(waiting_on, "owner", None)
        owners = (owner,) if owner is not None else tuple(getattr(waiting_on, "owners", None) or ())
    except Exception:
        return ()
    return tuple(each for each in owners if isinstance(each, Fiber) or (type(each) is int and each != 0))


def _node(fiber: Fiber, members: Members) -> Node:
    waits = fiber.waits_for
    if waits is None:
        return Node(fiber, fiber.state, "", None, (), 0.0, fiber.spawned_at)
    reason, waiting_on, since = waits
    seconds = max(0.0, fiber.scheduler.time() - since)
    owners = _owners_of(fiber, reason, waiting_on, members)
    return Node(fiber, "parked", reason, waiting_on, owners, seconds, fiber.spawned_at)


class WaitGraph:
    """Every live fiber and whom it waits for, at one moment. str() is a text for a person: cycles first, then the crowds.

    Attributes:
        nodes: a Node for each fiber that has not ended.
        remarks: why a run in which every fiber waits is not called a deadlock; a line for each run.
    """

    def __init__(self, nodes: Iterable[Node], remarks: Iterable[str] = ()) -> None:
        self.nodes = list(nodes)
        self.remarks = list(remarks)
        self._by_fiber = {id(node.fiber): node for node in self.nodes}

    def node(self, fiber: Fiber) -> Node | None:
        """The Node of *fiber*, or None: it was not alive."""
        return self._by_fiber.get(id(fiber))

    @property
    def edges(self) -> list[tuple[Fiber, Owner]]:
        """(who waits, whom it needs), the second a Fiber or an OS thread's ident."""
        return [(node.fiber, owner) for node in self.nodes for owner in node.owners]

    def cycles(self) -> list[list[Node]]:
        """Fibers that wait for one another in a circle, each for the next, the last for the first: nobody inside can end it.

        One circle for each set of fibers that are entangled, a shortest one; the rest shows once that one is mended.
        """
        return [self._shortest_circle(knot) for knot in self._knots()]

    def _next(self, node: Node) -> list[Node]:
        found = (self.node(owner) for owner in node.owners if isinstance(owner, Fiber))
        return [each for each in found if each is not None]

    def _knots(self) -> list[list[Node]]:
        # Strongly connected parts (Tarjan), without recursion: chains may be as long as there are fibers.
        order: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[Node] = []
        inside: set[int] = set()
        knots = []
        for root in self.nodes:
            if id(root) in order:
                continue
            work = [(root, iter(self._next(root)))]
            order[id(root)] = low[id(root)] = len(order)
            stack.append(root)
            inside.add(id(root))
            while work:
                node, successors = work[-1]
                for each in successors:
                    if id(each) not in order:
                        order[id(each)] = low[id(each)] = len(order)
                        stack.append(each)
                        inside.add(id(each))
                        work.append((each, iter(self._next(each))))
                        break
                    if id(each) in inside:
                        low[id(node)] = min(low[id(node)], order[id(each)])
                else:
                    work.pop()
                    if work:
                        above = id(work[-1][0])
                        low[above] = min(low[above], low[id(node)])
                    if low[id(node)] == order[id(node)]:
                        knot: list[Node] = []
                        while not knot or knot[-1] is not node:
                            knot.append(stack.pop())
                            inside.discard(id(knot[-1]))
                        if len(knot) > 1 or node in self._next(node):
                            knots.append(sorted(knot, key=lambda one: one.fiber.id))
        return knots

    def _shortest_circle(self, knot: list[Node]) -> list[Node]:
        # From its oldest fiber back to itself, breadth first.
        start = knot[0]
        within = {id(node) for node in knot}
        came_from: dict[int, Node] = {}
        edge = [start]
        while edge:
            following = []
            for node in edge:
                for each in self._next(node):
                    if each is start:
                        circle = [node]
                        while circle[-1] is not start:
                            circle.append(came_from[id(circle[-1])])
                        return circle[::-1]
                    if id(each) in within and id(each) not in came_from:
                        came_from[id(each)] = node
                        following.append(each)
            edge = following
        raise AssertionError("a knot without a circle")

    def __str__(self) -> str:
        return self.format()

    def __repr__(self) -> str:
        return f"<greenio.debug.WaitGraph of {len(self.nodes)} fibers, {len(self.edges)} edges>"

    def format(self) -> str:
        """The text: circles in words, remarks, then who waits for what, those that wait for the same thing in one place."""
        if not self.nodes:
            return "no fibers\n"
        return "\n".join([*self._tell_circles(), *self.remarks, *self._tell_all()])

    def _tell_circles(self) -> list[str]:
        parts = []
        for circle in self.cycles():
            if len(circle) == 1:
                parts.append("a fiber waits for itself:")
            else:
                parts.append(f"{len(circle)} fibers wait for one another in a circle, for ever:")
            words = []
            for position, node in enumerate(circle):
                following = circle[(position + 1) % len(circle)].fiber
                who = f"fiber {_name(node.fiber)}" if position == 0 else "which"
                words.append(f"  {who} waits for {_tell_need(node, following)}")
            parts.append(",\n".join(words))
            if len(circle) > MOST_STACKS:
                parts.append(f"(the stacks of the first {MOST_STACKS} follow)")
            parts.extend(_tell_fiber(node) for node in circle[:MOST_STACKS])
        return parts

    def _tell_all(self) -> list[str]:
        told = {id(node) for circle in self.cycles() for node in circle[:MOST_STACKS]}
        crowds: dict[object, list[Node]] = {}
        for node in self.nodes:
            if id(node) not in told:
                alone = node.state != "parked"
                crowds.setdefault(id(node) if alone else (node.reason, id(node.waiting_on)), []).append(node)
        parts = [_tell_crowd(crowd) for crowd in sorted(crowds.values(), key=len, reverse=True) if len(crowd) > 1]
        single = [crowd[0] for crowd in crowds.values() if len(crowd) == 1]
        parts.extend(_tell_fiber(node) for node in single[:MOST_TOLD])
        if len(single) > MOST_TOLD:
            parts.append(f"... and {len(single) - MOST_TOLD} more fibers")
        return parts


def _name(fiber: Fiber) -> str:
    return f"{fiber.id} ({fiber.name})"


def _tell_owner(owner: Owner) -> str:
    if isinstance(owner, Fiber):
        return f"fiber {_name(owner)}"
    names = [thread.name for thread in threading.enumerate() if thread.ident == owner]
    return f"OS thread {names[0] if names else owner}"


def _tell_thing(node: Node) -> str:
    """What it waits for, without who owns that."""
    if isinstance(node.waiting_on, Fiber):
        return f"{node.reason}: {_name(node.waiting_on)}"
    return node.reason if node.waiting_on is None else f"{node.reason} on {brief_repr(node.waiting_on)}"


def _is_member(owner: Owner, node: Node) -> bool:
    return isinstance(owner, Fiber) and group_of(owner) is not None and group_of(owner) is _scope_of(node.waiting_on)


def _tell_need(node: Node, owner: Owner) -> str:
    if node.waiting_on is owner:
        return f"{node.reason}: {_tell_owner(owner)}"
    if _is_member(owner, node):
        return f"{_tell_thing(node)}, of which {_tell_owner(owner)} is one"
    return f"{_tell_thing(node)}, held by {_tell_owner(owner)}"


def _tell_owners(node: Node) -> str:
    owners = [owner for owner in node.owners if owner is not node.waiting_on]
    if not owners:
        return ""
    verb = "fibers in it:" if _is_member(owners[0], node) else "held by"
    more = f" and {len(owners) - MOST_NAMED} more" if len(owners) > MOST_NAMED else ""
    return f", {verb} {', '.join(_tell_owner(owner) for owner in owners[:MOST_NAMED])}{more}"


def _tell_fiber(node: Node) -> str:
    return describe_fiber(node.fiber, _tell_owners(node))


def _tell_crowd(crowd: list[Node]) -> str:
    shortest, longest = min(node.seconds for node in crowd), max(node.seconds for node in crowd)
    span = f"{shortest:.1f}" if f"{shortest:.1f}" == f"{longest:.1f}" else f"{shortest:.1f} to {longest:.1f}"
    names = ", ".join(_name(node.fiber) for node in crowd[:MOST_NAMED])
    more = f" and {len(crowd) - MOST_NAMED} more" if len(crowd) > MOST_NAMED else ""
    first = crowd[0]
    return (
        f"{len(crowd)} fibers wait for {_tell_thing(first)}{_tell_owners(first)}, since {span} s: {names}{more}. "
        f"The oldest of them:\n{_tell_fiber(first)}"
    )


def remark_on(scheduler: Scheduler) -> str | None:
    """Why this run is not called a deadlock though all its fibers wait with nothing in sight; None where that is not so."""
    sight = scheduler.outlook()
    if sight["ready"] or sight["running"] or sight["timers"] or sight["descriptors"]:
        return None
    reasons = []
    if sight["outside_calls"]:
        reasons.append(f"{sight['outside_calls']} calls are out in other OS threads")
    if sight["other_threads"]:
        reasons.append(
            f"{sight['other_threads']} other OS threads run Python and may wake a fiber ({_other_threads()})"
        )
    reasons.extend(
        f"a Python handler for {signal_name(number)} is installed and may wake a fiber" for number in sight["signals"]
    )
    return f"not called a deadlock: {'; '.join(reasons)}" if reasons else None


def _other_threads() -> str:
    own = threading.get_ident()
    return ", ".join(thread.name for thread in threading.enumerate() if thread.ident != own) or "not Python's own"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def wait_graph_of(schedulers: Iterable[Scheduler]) -> WaitGraph:
    """As greenio.debug.wait_graph, of these runs only."""
    schedulers = list(schedulers)
    alive = [fiber for scheduler in schedulers for fiber in scheduler.fibers()]
    members: Members = {}
    for fiber in alive:
        group = group_of(fiber)
        if group is not None:
            members.setdefault(id(group), []).append(fiber)
    remarks = (remark_on(scheduler) for scheduler in schedulers)
    return WaitGraph([_node(fiber, members) for fiber in alive], [remark for remark in remarks if remark is not None])


def explain_deadlock(scheduler: Scheduler) -> str:
    """The text of a DeadlockError."""
    graph = wait_graph_of([scheduler])
    return f"all {len(graph.nodes)} fibers wait, and nothing is left that could wake one:\n{graph}"


def live_fibers() -> list[Fiber]:
    """Every fiber that has not ended, of all OS threads' schedulers, oldest first within each."""
    return [fiber for scheduler in _scheduler.live_schedulers() for fiber in scheduler.fibers()]


def format_stacks() -> str:
    """Each fiber, what it waits for and since when, where it was spawned, and its Python stack."""
    alive = live_fibers()
    if not alive:
        return "no fibers\n"
    return "\n".join(describe_fiber(fiber) for fiber in alive)


_scheduler.explain_deadlocks_by(explain_deadlock)
