"""What is measured, as data: the cases, their parameters and the metrics that they give."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from .contenders import Contender

GROUPS = ("switch", "spawn", "sleep", "memory", "channel", "timeout", "lock", "echo", "large", "tls", "accept")
CONNECTIONS = (1, 10, 100, 1_000)
REQUEST_BYTES = (64, 1_024, 10_240, 102_400)
DEPTHS = (0, 20, 80)  # nested C callbacks
ALL_FIBERS = (2, 1_000, 100_000)


class Metric(StrEnum):
    """A measured quantity, by the name under which the programs print it."""

    NS = "ns"
    CPU_US = "cpu_us"
    LATE_US = "late_us"
    LATE_P99_US = "late_p99_us"
    RSS_BYTES = "rss_bytes"
    PTE_BYTES = "pte_bytes"
    CREATE_S = "create_s"
    UNWIND_S = "unwind_s"
    REQUESTS_PER_S = "requests_per_s"
    P50_US = "p50_us"
    P99_US = "p99_us"


MORE_IS_BETTER = frozenset({Metric.REQUESTS_PER_S})

UNITS = {
    "switch": {Metric.NS: "ns per switch"},
    "spawn": {Metric.NS: "ns per spawn+run+join"},
    "sleep": {Metric.CPU_US: "CPU µs per sleep", Metric.LATE_US: "µs late", Metric.LATE_P99_US: "µs late, p99"},
    "memory": {
        Metric.RSS_BYTES: "RSS bytes per fiber",
        Metric.PTE_BYTES: "page table bytes per fiber",
        Metric.CREATE_S: "s to create all",
        Metric.UNWIND_S: "s to unwind all",
    },
    "channel": {Metric.NS: "ns per item"},
    "timeout": {Metric.NS: "ns per timeout"},
    "lock": {Metric.NS: "ns per acquire+release"},
    "echo": {
        Metric.REQUESTS_PER_S: "requests/s",
        Metric.CPU_US: "server CPU µs/request",
        Metric.P50_US: "latency p50 µs",
        Metric.P99_US: "latency p99 µs",
    },
}
UNITS["large"] = UNITS["tls"] = UNITS["echo"]
UNITS["accept"] = {
    Metric.REQUESTS_PER_S: "connections/s",
    Metric.CPU_US: "server CPU µs/connection",
    Metric.P50_US: "connect, request and reply, p50 µs",
    Metric.P99_US: "connect, request and reply, p99 µs",
}
SERVED = frozenset({"echo", "tls"})
"""The workloads that are a server and a load."""
SAME_READ_SIZE = frozenset({"greenio", "greenio streams", "uvloop", "uvloop buffered", "gevent", "C epoll"})
"""The metrics of each group, most telling first, and what their numbers count."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table, or several: one workload with its parameters."""

    group: str
    label: str
    workload: str
    parameters: tuple[tuple[str, int], ...]
    operations: int = 0
    """How often the fastest contenders do it in a round; a slow one has its pace."""
    counter: str = ""
    """The parameter by which a program is told how often."""
    only: frozenset[str] | None = None
    """The contenders that are worth the time it takes; None for all."""
    metrics: tuple[Metric, ...] = ()
    most_rounds: int | None = None
    """No more rounds than this where one takes long and differs little; None for no limit."""

    def suits(self, contender: Contender) -> bool:
        """Whether the table has a figure for *contender* in this row."""
        named = contender.everywhere if self.only is None else contender.name in self.only
        return contender.offers(self.workload) and named

    def arguments(self, contender: Contender, thoroughness: float) -> list[str]:
        """The command line of a program, behind the command: workload and parameters."""
        parameters = dict(self.parameters)
        if self.counter:
            fibers = parameters.get("fibers", 1)
            count = int(self.operations * contender.pace * thoroughness / fibers)
            parameters[self.counter] = max(count, 3)
        workload = self.workload.removeprefix("nested ")
        return [workload, *(f"{name}={value}" for name, value in parameters.items())]


def switch(fibers: int, depth: int = 0) -> Case:
    """A ring of *fibers*, each yielding from inside *depth* nested C callbacks."""
    inside = f", in {depth} C callbacks" if depth else ""
    return Case(
        "switch",
        f"{fibers:,} fibers{inside}",
        "nested switch" if depth else "switch",
        (("fibers", fibers), ("depth", depth)),
        3_000_000,
        "yields",
        metrics=(Metric.NS,),
    )


SPAWN = Case("spawn", "one by one", "spawn", (), 500_000, "count", metrics=(Metric.NS,))
SLEEP = Case(
    "sleep", "10,000 fibers, 10 to 49 ms", "sleep", (("fibers", 10_000), ("sleeps", 5)), metrics=(Metric.CPU_US,)
)
SLEEPERS = Case(
    "sleep",
    "100,000 fibers, spawned, once, within 1 s",
    "sleepers",
    (("fibers", 100_000),),
    only=frozenset({"greenio", "gevent", "asyncio", "uvloop", "Go"}),
    metrics=(Metric.CPU_US, Metric.LATE_P99_US),
    most_rounds=3,
)
HANDED_OVER = Case("channel", "unbuffered", "channel", (("capacity", 0),), 1_000_000, "items", metrics=(Metric.NS,))
BUFFERED = Case("channel", "128 items", "channel", (("capacity", 128),), 3_000_000, "items", metrics=(Metric.NS,))
TIMEOUT = Case("timeout", "around nothing", "timeout", (), 1_000_000, "count", metrics=(Metric.NS,))
LOCK = Case("lock", "uncontended", "lock", (), 3_000_000, "count", metrics=(Metric.NS,))
LATENESS = Case("sleep", "1 fiber, 1 ms", "lateness", (("count", 100),), metrics=(Metric.LATE_US,))


def memory(fibers: int) -> Case:
    """*fibers* parked at once, each three Python calls deep."""
    only = None
    if fibers > 100_000:
        only = frozenset({"greenio", "asyncio", "Go"})
    elif fibers > 10_000:  # A thread each would be 1.6 GB and a limit of most systems.
        only = frozenset({"greenio", "greenlet", "gevent", "asyncio", "uvloop", "trio", "Go"})
    return Case(
        "memory",
        f"{fibers:,} fibers",
        "memory",
        (("fibers", fibers),),
        only=only,
        metrics=tuple(UNITS["memory"]),
        most_rounds=1 if fibers > 100_000 else 3,
    )


def _served(group: str, connections: int, request_bytes: int, **more: int) -> Case:
    size = f"{request_bytes // 1024} KiB" if request_bytes >= 1024 else f"{request_bytes} B"
    noun = "1 connection" if connections == 1 else f"{connections:,} connections"
    return Case(
        group,
        f"{noun}, {size}",
        "tls" if group == "tls" else "echo",
        (("connections", connections), ("request_bytes", request_bytes), *more.items()),
        metrics=tuple(UNITS[group]),
        only=SAME_READ_SIZE if group == "large" else None,
    )


def echo(connections: int, request_bytes: int) -> Case:
    """*connections* with one request outstanding on each."""
    return _served("echo", connections, request_bytes)


LARGE = _served("large", 10, 102_400)
TLS = _served("tls", 100, 1_024)
ACCEPT = _served("accept", 100, 64, requests_each=1)


def chosen(
    groups: Iterable[str], connections: Iterable[int], request_bytes: Iterable[int], quick: bool
) -> Iterator[Case]:
    """The cases of *groups*, in the table's order; *quick* leaves out those with many fibers."""
    connections, request_bytes = list(connections), list(request_bytes)
    for group in (group for group in GROUPS if group in set(groups)):
        match group:
            case "switch":
                yield from map(switch, ALL_FIBERS[:2] if quick else ALL_FIBERS)
                yield from (switch(2, depth) for depth in DEPTHS[1:])
            case "spawn":
                yield SPAWN
            case "sleep":
                yield from (SLEEP, LATENESS) if quick else (SLEEP, LATENESS, SLEEPERS)
            case "memory":
                yield from map(memory, (10_000,) if quick else (10_000, 100_000, 1_000_000))
            case "channel":
                yield from (HANDED_OVER, BUFFERED)
            case "timeout":
                yield TIMEOUT
            case "lock":
                yield LOCK
            case "echo":
                yield from (echo(count, size) for size in request_bytes for count in connections)
            case "large":
                yield LARGE
            case "tls":
                yield TLS
            case "accept":
                yield ACCEPT
