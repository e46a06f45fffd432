"""Which of CPython's test modules are run, in groups, and where they are in an interpreter's library."""

from pathlib import Path

# A name stands for test.test_<name>; one that is a package, for each of its test modules.
GROUPS: dict[str, list[str]] = {
    "threads": [
        "threading",
        "thread",
        "threading_local",
        "threadsignals",
        "queue",
        "concurrent_futures",
        "sched",
        "time",
    ],
    "sockets": [
        "socket",
        "ssl",
        "select",
        "poll",
        "epoll",
        "selectors",
        "timeout",
        "socketserver",
        "asyncore",
        "asynchat",
    ],
    "protocols": [
        *["httplib", "httpservers", "urllib2_localnet", "ftplib", "smtplib", "poplib", "imaplib", "xmlrpc", "wsgiref"],
    ],
    "processes": [
        *["subprocess", "signal", "os", "fork1", "wait3", "wait4", "popen", "posix"],
        *["multiprocessing_fork", "multiprocessing_main_handling"],
    ],
    "interpreter": [
        *["context", "contextlib", "weakref", "gc", "generators", "coroutines", "exceptions", "traceback", "sys"],
        *["syslog", "logging"],
    ],
    "asyncio": ["asyncio"],
}
# Quick ones that between them wait in every way there is: what each interpreter runs in the gate.
CORE = [
    "thread",
    "threading_local",
    "queue",
    "sched",
    "select",
    "poll",
    "epoll",
    "selectors",
    "timeout",
    "fork1",
    "popen",
    "context",
]
# More than ten seconds each: the gate takes turns with them.
SLOW = [
    *[
        "threading",
        "concurrent_futures",
        "socket",
        "ssl",
        "subprocess",
        "signal",
        "os",
        "logging",
        "asyncio",
        "threadsignals",
    ],
    *[
        "multiprocessing_fork",
        "multiprocessing_main_handling",
        "httpservers",
        "gc",
        "sys",
        "time",
        "posix",
        "imaplib",
        "traceback",
    ],
]

ALL = [name for names in GROUPS.values() for name in names]


def chosen_names(wanted: list[str]) -> list[str]:
    """The names that groups and names stand for, each once, in the table's order; ValueError for one that is neither."""
    if not wanted:
        return list(ALL)
    names: set[str] = set()
    for each in wanted:
        each = each.removeprefix("test.").removeprefix("test_")
        top = each.partition(".")[0]
        if each in GROUPS:
            names.update(GROUPS[each])
        if each == "core":
            names.update(CORE)
        elif each == "slow":
            names.update(SLOW)
        elif each == "quick":
            names.update(set(ALL) - set(SLOW))
        elif each == "all":
            names.update(ALL)
        elif top in ALL:
            names.add(each)
        elif each not in GROUPS:
            groups = ", ".join([*GROUPS, "core", "quick", "slow", "all"])
            raise ValueError(f"no module or group is called {each}; groups: {groups}; modules: {', '.join(ALL)}")
    return sorted(names, key=lambda name: (ALL.index(name.partition(".")[0]), name))


def find_modules(library: Path, name: str) -> list[str]:
    """The test modules that *name* is in the interpreter whose test package is the folder *library*; none if it has none."""
    top, _, below = name.partition(".")
    folder = library / f"test_{top}"
    if below:
        return [f"test.test_{top}.{below}"]
    if folder.is_dir():
        return [f"test.test_{top}.{path.stem}" for path in sorted(folder.glob("test_*.py"))]
    return [f"test.test_{top}"] if folder.with_suffix(".py").exists() else []
