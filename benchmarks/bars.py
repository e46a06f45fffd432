"""What the figures have to reach, as data, and the verdict on it.

A ratio is taken within each round, whose two sides ran shortly after each other; the median of the
ratios is what counts.
"""

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .cases import (
    ACCEPT,
    BUFFERED,
    HANDED_OVER,
    LARGE,
    LOCK,
    MORE_IS_BETTER,
    SLEEPERS,
    SPAWN,
    TIMEOUT,
    TLS,
    Case,
    Metric,
    echo,
    memory,
    switch,
)
from .contenders import GREENIO
from .harness import Results


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a metric of a contender in a case."""

    case: Case
    metric: Metric
    contender: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing to reach.

    `faster`: the other side's cost over ours (for a rate ours over theirs) is at least `limit`;
    otherwise our cost over theirs is at most `limit`.  Without another side, our figure itself is
    at most `limit`.
    """

    title: str
    ours: Side
    theirs: Side | None
    limit: float
    faster: bool = False
    beside: tuple[Side, Side] | None = None
    """The same ratio elsewhere, printed for comparison only."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar with what was measured; None where there is no figure."""

    bar: Bar
    measured: float | None
    beside: float | None

    @property
    def met(self) -> bool | None:
        """Whether the bar was reached; None: not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bar.limit if self.bar.faster else self.measured <= self.bar.limit

    @property
    def text(self) -> str:
        """`met`, `missed` or `not measured`."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def _since_312(before: float, since: float) -> float:
    """The limit for this interpreter: from CPython 3.12 on, switching a thread state costs more."""
    return since if sys.version_info >= (3, 12) else before


def _against(
    title: str, case: Case, metric: Metric, peer: str, limit: float, *, faster: bool = False, ours: str = GREENIO
) -> Bar:
    return Bar(f"{title}, against {peer}", Side(case, metric, ours), Side(case, metric, peer), limit, faster)


def _echo_bars() -> Iterator[Bar]:
    for connections in (100, 1_000):
        for peer, limit in (("C epoll", 1.15), ("uvloop", 1.0), ("gevent", 0.4), ("asyncio streams", 0.55)):
            title = f"echo 1 KiB, {connections:,} connections, CPU per request"
            yield _against(title, echo(connections, 1_024), Metric.CPU_US, peer, limit)
    for peer, limit in (("uvloop", 0.95), ("gevent", 2.5)):
        title = "echo 1 KiB, 100 connections, requests/s"
        yield _against(title, echo(100, 1_024), Metric.REQUESTS_PER_S, peer, limit, faster=True)


def _stream_bars() -> Iterator[Bar]:
    ours = "greenio streams"
    for connections in (100, 1_000):
        for peer, limit in (("C epoll", 1.2), ("uvloop", 1.0), ("uvloop streams", 0.65), ("gevent", 0.4)):
            title = f"streams 1 KiB, {connections:,} connections, CPU per request"
            yield _against(title, echo(connections, 1_024), Metric.CPU_US, peer, limit, ours=ours)
    for connections in (1, 10):
        title = f"streams 1 KiB, {connections} connections, requests/s"
        yield _against(title, echo(connections, 1_024), Metric.REQUESTS_PER_S, "uvloop", 0.95, faster=True, ours=ours)


def _other_server_bars() -> Iterator[Bar]:
    for peer, limit in (("uvloop", 1.05), ("gevent", 0.67)):
        yield _against("TLS echo 1 KiB, 100 connections, CPU per request", TLS, Metric.CPU_US, peer, limit)
    for peer in ("uvloop", "uvloop buffered"):
        title = "100 KiB, 10 connections, requests/s"
        yield _against(title, LARGE, Metric.REQUESTS_PER_S, peer, 0.95, faster=True)
    for peer, limit in (("gevent", 2.0), ("uvloop", 0.95)):
        title = "short connections, accepted/s"
        yield _against(title, ACCEPT, Metric.REQUESTS_PER_S, peer, limit, faster=True)


_PAIR, _MANY = switch(2), switch(100_000)
_MILLION = memory(1_000_000)


def _inside_and_outside(contender: str) -> tuple[Side, Side]:
    return Side(switch(2, 80), Metric.NS, contender), Side(_PAIR, Metric.NS, contender)


BARS = (
    _against("switch, 2 fibers", _PAIR, Metric.NS, "greenlet", _since_312(2.5, 1.8), faster=True),
    _against("switch, 2 fibers", _PAIR, Metric.NS, "gevent", _since_312(15, 10), faster=True),
    _against("switch, 2 fibers", _PAIR, Metric.NS, "asyncio", _since_312(12, 10), faster=True),
    _against("switch, 2 fibers", _PAIR, Metric.NS, "Go", _since_312(2, 3)),
    _against("switch, 100,000 fibers", _MANY, Metric.NS, "Go", _since_312(1.1, 1.3)),
    _against("switch, 100,000 fibers", _MANY, Metric.NS, "gevent", 8, faster=True),
    Bar(
        "switch inside 80 C callbacks, against depth 0 (beside it greenlet's)",
        *_inside_and_outside(GREENIO),
        1.3,
        beside=_inside_and_outside("greenlet"),
    ),
    _against("spawn, run and join", SPAWN, Metric.NS, "asyncio", _since_312(8, 4), faster=True),
    _against("spawn, run and join", SPAWN, Metric.NS, "gevent", 30, faster=True),
    _against("spawn, run and join", SPAWN, Metric.NS, "Go", _since_312(2, 2.5)),
    Bar("parked fiber, 10,000 alive, bytes RSS", Side(memory(10_000), Metric.RSS_BYTES, GREENIO), None, 6 * 1024),
    Bar("parked fiber, 100,000 alive, bytes RSS", Side(memory(100_000), Metric.RSS_BYTES, GREENIO), None, 6 * 1024),
    Bar(
        "parked fiber, 1,000,000 alive and all unwound, bytes RSS",
        Side(_MILLION, Metric.RSS_BYTES, GREENIO),
        None,
        6 * 1024,
    ),
    Bar("1,000,000 fibers created, s", Side(_MILLION, Metric.CREATE_S, GREENIO), None, 20),
    _against("unbuffered channel, one item", HANDED_OVER, Metric.NS, "Go", 1.3),
    _against("unbuffered channel, one item", HANDED_OVER, Metric.NS, "gevent", 20, faster=True),
    _against("unbuffered channel, one item", HANDED_OVER, Metric.NS, "asyncio", 20, faster=True),
    _against("buffered channel, one item", BUFFERED, Metric.NS, "gevent", 1.8, faster=True),
    _against("buffered channel, one item", BUFFERED, Metric.NS, "asyncio", 7, faster=True),
    _against("buffered channel, one item", BUFFERED, Metric.NS, "Go", 3.5),
    _against("timeout around nothing", TIMEOUT, Metric.NS, "Go", 0.8),
    _against("timeout around nothing", TIMEOUT, Metric.NS, "gevent", 5, faster=True),
    _against("timeout around nothing", TIMEOUT, Metric.NS, "asyncio", 12, faster=True),
    _against("100,000 sleepers, CPU time", SLEEPERS, Metric.CPU_US, "Go", 1.6),
    _against("100,000 sleepers, CPU time", SLEEPERS, Metric.CPU_US, "gevent", 0.25),
    _against("100,000 sleepers, p99 lateness", SLEEPERS, Metric.LATE_P99_US, "Go", 1),
    _against("uncontended lock, acquire and release", LOCK, Metric.NS, "threads", 1.5),
    *_echo_bars(),
    *_stream_bars(),
    *_other_server_bars(),
)


def judge(results: Results) -> list[Verdict]:
    """The verdict on every bar whose case belonged to the run, in order."""
    cases = {case for case, _ in (*results.rounds, *results.failed)}
    return [
        Verdict(
            bar,
            _measured(results, bar.ours, bar.theirs, bar.faster),
            _measured(results, *bar.beside, bar.faster) if bar.beside else None,
        )
        for bar in BARS
        if bar.ours.case in cases
    ]


def _measured(results: Results, ours: Side, theirs: Side | None, faster: bool) -> float | None:
    our_samples = results.samples(ours.case, ours.contender, ours.metric)
    if theirs is None:
        ratios = our_samples
    else:
        their_samples = results.samples(theirs.case, theirs.contender, theirs.metric)
        # A side that failed in a later round has fewer samples; the earlier ones are still pairs.
        ratios = [our / their for our, their in zip(our_samples, their_samples, strict=False)]
        if faster and ours.metric not in MORE_IS_BETTER:
            ratios = [1 / ratio for ratio in ratios]
    return statistics.median(ratios) if ratios else None
