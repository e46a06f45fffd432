"""What the interpreter keeps for a thread, pystate/: one test or more for each thing that a CPython version wants done.

The headings are the rows of the versions' files in greenio/pystate/. All of this holds on every version; where only
some need anything done for it, the heading names them. Scripts in tests/crash/ are for what ends or endangers a process.
"""

import ctypes
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from child import CRASH, SECONDS, check_script, environment, run_script
from native.build import ToolMissing, build_extension

import greenio
from greenio import debug, run, spawn, yield_now

HERE = Path(__file__).resolve().parent
DEFAULT_STACK = 256 * 1024


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    try:
        made = build_extension(
            "pystate_probe", [HERE / "native" / "pystate_probe.c"], [], tmp_path_factory.mktemp("pystate_probe")
        )
    except ToolMissing as missing:
        pytest.skip(str(missing))
    spec = importlib.util.spec_from_file_location("pystate_probe", made)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_threads(function: Callable[[int], object], count: int) -> None:
    """Run function(0), function(1), … on OS threads of their own, all at once; raise what one of them raised."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            function(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# --- each fiber has a state of its own -------------------------------------------------------------------------------


def test_each_fiber_has_a_thread_state_of_its_own(probe: ModuleType) -> None:
    def look() -> tuple[int, int]:
        first = probe.state()
        yield_now()
        second = probe.state()
        assert first == second
        return first["address"], first["ident"]

    def main() -> None:
        mine = probe.state()
        fibers = [spawn(look) for _ in range(10)]
        found = [fiber.result() for fiber in fibers]
        assert len({address for address, _ in found} | {mine["address"]}) == 11
        assert len({ident for _, ident in found} | {mine["ident"]}) == 11
        assert probe.state() == mine

    before = probe.state()
    run(main)
    assert probe.state() == before


def test_pooled_states_go_from_one_os_threads_fibers_to_anothers(probe: ModuleType) -> None:
    addresses: list[int] = []

    def look() -> None:
        state = probe.state()
        assert state["gilstate_is_current"]
        addresses.append(state["address"])
        hashlib.sha256(bytes(100_000)).digest()  # lets go of the GIL
        yield_now()
        assert probe.state() == state

    def main() -> None:
        for fiber in [spawn(look) for _ in range(3)]:
            fiber.result()

    run(main)
    for _ in range(3):
        on_threads(lambda _: run(main), 1)
    assert len(set(addresses)) == 3
    run(main)


def test_state_of_an_ended_fiber_is_as_new_to_the_next(probe: ModuleType) -> None:
    local = threading.local()

    def look() -> dict[str, object]:
        state: dict[str, object] = probe.state()
        local.value = state
        return state

    def main() -> None:
        first = spawn(look).result()
        second = spawn(look)
        assert second.result() == first
        yield_now()
        assert spawn(look).result() == first
        assert not first["locals"]
        assert first["gilstate_counter"] == 1

    run(main)


# --- the GIL-state API, from C code that let go of the GIL (3.11) ----------------------------------------------------


def test_gilstate_api_finds_the_running_fibers_state_after_every_switch(probe: ModuleType) -> None:
    def work() -> None:
        for _ in range(5):
            assert probe.state()["gilstate_is_current"]
            yield_now()

    def main() -> None:
        for fiber in [spawn(work) for _ in range(4)]:
            assert probe.state()["gilstate_is_current"]
            fiber.result()

    run(main)
    assert probe.state()["gilstate_is_current"]


def test_gilstate_ensure_in_a_fiber_with_switches_inside(probe: ModuleType) -> None:
    variable = threading.local()

    def work(number: int) -> int:
        variable.number = number

        def called(depth: int = 3) -> int:
            for _ in range(3):
                yield_now()
                assert variable.number == number
            if depth:
                right, inner = probe.ensure(lambda: called(depth - 1))
                assert right
                assert inner == depth - 1
            return depth

        right, result = probe.ensure(called)
        assert right
        assert probe.state()["gilstate_counter"] == 1
        return result  # type: ignore[no-any-return]

    def main() -> None:
        fibers = [spawn(work, number) for number in range(4)]
        assert probe.ensure(lambda: [fiber.result() for fiber in fibers]) == (True, [3] * 4)

    run(main)


def test_ctypes_callback_from_a_call_without_the_gil_switches() -> None:
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    qsort = ctypes.CDLL(None).qsort  # CDLL lets go of the GIL, the callback takes it by PyGILState_Ensure
    qsort.restype = None

    def work() -> int:
        calls = 0

        def compare(one: int, other: int) -> int:
            nonlocal calls
            calls += 1
            yield_now()
            return 0

        qsort((ctypes.c_int * 8)(), 8, 4, callback(compare))
        return calls

    def main() -> None:
        fibers = [spawn(work) for _ in range(4)]
        counts = {fiber.result() for fiber in fibers}
        assert len(counts) == 1
        assert counts.pop() >= 7

    run(main)


def test_foreign_os_threads_run_python_while_fibers_switch(probe: ModuleType) -> None:
    def nested_run() -> int:
        return run(lambda: sum(fiber.result() for fiber in [spawn(lambda: 2) for _ in range(3)]))

    def work() -> None:
        for _ in range(3):
            assert probe.foreign(threading.get_ident)[0]
            yield_now()
            assert probe.foreign(nested_run) == (True, 6)
            assert probe.state()["gilstate_is_current"]

    def main() -> None:
        for fiber in [spawn(work) for _ in range(3)]:
            fiber.result()

    run(main)


def test_runs_on_several_os_threads_interleave_at_gil_releases(probe: ModuleType) -> None:
    local = threading.local()

    def work(name: tuple[int, int]) -> None:
        local.name = name
        for _ in range(20):
            try:
                raise KeyError(name)
            except KeyError as error:
                hashlib.sha256(bytes(50_000)).digest()
                yield_now()
                assert sys.exc_info()[1] is error  # noqa: PT017
            assert local.name == name
            assert probe.state()["gilstate_is_current"]

    def main(number: int) -> None:
        for fiber in [spawn(work, (number, one)) for one in range(4)]:
            fiber.result()

    on_threads(lambda number: run(main, number), 4)


# --- the GIL at a switch (3.12+): a shorter switch interval while a run lasts ----------------------------------------

SHORT = 0.00005 if sys.version_info >= (3, 12) else None


@pytest.fixture
def default_interval() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield sys.getswitchinterval()
    sys.setswitchinterval(before)


def test_switch_interval_is_short_while_a_run_lasts_and_put_back(default_interval: float) -> None:
    assert run(sys.getswitchinterval) == pytest.approx(SHORT or default_interval)
    assert sys.getswitchinterval() == default_interval
    assert run(sys.getswitchinterval, switch_interval=0.001) == pytest.approx(0.001)
    assert sys.getswitchinterval() == default_interval
    with pytest.raises(ZeroDivisionError):
        run(divmod, 1, 0)
    assert sys.getswitchinterval() == default_interval


def test_switch_interval_is_never_made_longer_and_none_leaves_it(default_interval: float) -> None:
    assert run(sys.getswitchinterval, switch_interval=1) == default_interval
    assert run(sys.getswitchinterval, switch_interval=None) == default_interval
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="switch_interval"):
            run(print, switch_interval=wrong)
    assert sys.getswitchinterval() == default_interval


def test_switch_interval_that_somebody_else_sets_meanwhile_stays(default_interval: float) -> None:
    def main() -> None:
        sys.setswitchinterval(0.02)
        thread = threading.Thread(target=lambda: seen.append(run(sys.getswitchinterval, switch_interval=0.001)))
        thread.start()
        thread.join()
        seen.append(sys.getswitchinterval())

    seen: list[float] = []
    run(main, switch_interval=0.002)
    # A run that begins then starts from there, and its end brings back that value, shortened for those that run on.
    assert seen == [pytest.approx(0.001), pytest.approx(0.002)]
    assert sys.getswitchinterval() == pytest.approx(0.02)
    sys.setswitchinterval(default_interval)
    run(sys.setswitchinterval, 0.007, switch_interval=0.002)
    assert sys.getswitchinterval() == pytest.approx(0.007)


def test_switch_interval_of_runs_on_several_os_threads_is_the_shortest_until_the_last_ends(
    default_interval: float,
) -> None:
    wanted = (0.003, 0.001, 0.002)
    all_run = threading.Barrier(len(wanted) + 1)
    seen: list[float] = []
    ends = [threading.Event() for _ in wanted]

    def main(number: int) -> None:
        all_run.wait()
        ends[number].wait()

    threads = [
        threading.Thread(target=run, args=(main, number), kwargs={"switch_interval": interval})
        for number, interval in enumerate(wanted)
    ]
    for thread in threads:
        thread.start()
    all_run.wait()
    for number in (1, 0, 2):
        seen.append(sys.getswitchinterval())
        ends[number].set()
        threads[number].join()
    assert seen == [pytest.approx(0.001), pytest.approx(0.002), pytest.approx(0.002)]
    assert sys.getswitchinterval() == default_interval


@pytest.mark.slow
def test_fibers_go_on_switching_beside_an_os_thread_that_computes(default_interval: float) -> None:
    counted = [0]

    def compute() -> None:
        for _ in range(200):
            for _ in range(20_000):
                pass
            counted[0] += 1

    def work(thread: threading.Thread) -> None:
        while thread.is_alive():
            yield_now()

    def main() -> int:
        thread = threading.Thread(target=compute)
        thread.start()
        fibers = [spawn(work, thread) for _ in range(2)]
        for fiber in fibers:
            fiber.result()
        return greenio.current_scheduler().switch_count

    switches = run(main)
    assert counted == [200], "and the thread gets its turns, too"
    assert switches > 200


# --- signals reach the fiber that runs (3.13+) -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fiber", "catches", "main_fiber", "switching", "parked", "after_run", "in_thread"])
def test_ctrl_c_interrupts_what_runs(case: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", str(CRASH / "ctrl_c.py"), case],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=SECONDS)
    finally:
        child.kill()
        child.communicate()
    assert rest == "interrupted\n", errors
    assert child.returncode == 0, errors


def test_signal_handler_runs_in_the_fiber_that_computes() -> None:
    handled: list[greenio.Fiber] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(greenio.current_fiber()))
    kill = ctypes.CDLL(None).kill  # os.kill would look for signals by itself

    def work() -> greenio.Fiber:
        me = greenio.current_fiber()
        kill(os.getpid(), signal.SIGUSR1)
        while not handled:  # the monitor brings the signal here
            pass
        return me

    def main() -> None:
        parked = spawn(greenio.sleep, 1000)
        fiber = spawn(work)
        assert fiber.result() is fiber
        assert handled == [fiber]
        parked.cancel()

    try:
        run(main)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signal_that_came_before_a_switch_is_handled_after_it_and_once() -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))

    def kill_and_yield() -> None:
        ctypes.CDLL(None).kill(os.getpid(), signal.SIGUSR1)
        yield_now()

    def work() -> None:
        for _ in range(20):
            yield_now()

    def main() -> None:
        fibers = [spawn(kill_and_yield), spawn(work), spawn(work)]
        for fiber in fibers:
            fiber.result()
        assert handled == [1]

    try:
        run(main)
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- asynchronous exceptions: by ident -------------------------------------------------------------------------------


def raise_in(ident: int | None, error: type[BaseException] | None) -> int:
    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    function.argtypes = [ctypes.c_ulong, ctypes.py_object]
    return function(ident, error)  # type: ignore[no-any-return]


def test_asynchronous_exception_reaches_the_fiber_with_that_ident() -> None:
    def work() -> str:
        yield_now()
        for _ in range(1000):
            pass
        return "undisturbed"

    def main() -> None:
        fibers = [spawn(work) for _ in range(5)]
        yield_now()
        assert raise_in(fibers[2].ident, KeyError) == 1
        assert raise_in(12345, KeyError) == 0
        for number, fiber in enumerate(fibers):
            if number == 2:
                assert isinstance(fiber.exception(), KeyError)
            else:
                assert fiber.result() == "undisturbed"

    run(main)


@pytest.mark.parametrize("pause", [False, True])
def test_asynchronous_exception_for_an_ended_fiber_does_not_reach_the_next(pause: bool) -> None:
    def main() -> None:
        idents: list[int | None] = []
        first = spawn(lambda: idents.append(greenio.current_fiber().ident))
        later = None if pause else spawn(sum, range(1000))
        first.join()
        yield_now()
        raise_in(idents[0], KeyError)
        for fiber in [later] if later is not None else [spawn(sum, range(1000)) for _ in range(3)]:
            assert fiber.result() == 499500

    run(main)


# --- C recursion: counted (3.12, 3.13), checked against the stack (3.14+), or by the recursion limit (3.11) ----------


@pytest.mark.skipif(not (3, 12) <= sys.version_info < (3, 14), reason="units are counted in CPython 3.12 and 3.13")
def test_units_of_c_recursion_come_from_the_stacks_size(probe: ModuleType) -> None:
    def units(size: int | None) -> int:
        return int(spawn(lambda: probe.state()["c_recursion"], stack_size=size).result())

    def main() -> None:
        own = probe.state()["c_recursion"]
        for size in (64 * 1024, 128 * 1024, DEFAULT_STACK, None):
            expected = (size or DEFAULT_STACK) // 512
            # The control block is up to 3 KiB further up; debug builds give an OS thread 500 units, and a fiber no more.
            assert min(expected, own) - 10 <= units(size) <= expected + 8
        assert units(64 * 1024 * 1024) <= own + 100, "no more than an OS thread has"
        before = probe.state()["c_recursion"]
        assert greenio.on_big_stack(lambda: probe.state()["c_recursion"]) <= own + 100
        assert probe.state()["c_recursion"] == before

    run(main)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["", "1"])
@pytest.mark.parametrize("stack_bytes", [128 * 1024, DEFAULT_STACK, 1024 * 1024])
def test_recursion_through_c_in_a_fiber_raises_recursion_error(stack_bytes: int, hidden: str) -> None:
    if hidden and sys.version_info < (3, 14):
        pytest.skip("stack protection is CPython 3.14's")
    check_script("recursion.py", "fiber", str(stack_bytes), GREENIO_HIDE_STACK_PROTECTION=hidden)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["", "1"])
def test_depth_of_recursion_through_c_follows_the_stacks_size(hidden: str) -> None:
    if hidden and sys.version_info < (3, 14):
        pytest.skip("stack protection is CPython 3.14's")
    check_script("recursion.py", "depths", GREENIO_HIDE_STACK_PROTECTION=hidden)


# --- idents: unique, and addresses that can be read (3.14+) ----------------------------------------------------------


def can_read(address: int, count: int) -> bool:
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        try:
            return len(os.pread(memory.fileno(), count, address)) == count
        except OSError:
            return False


def test_idents_are_unique_and_addresses_that_can_be_read(probe: ModuleType) -> None:
    def main() -> None:
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        fibers = [spawn(yield_now, stack_size=size) for size in (None, 128 * 1024, 1024 * 1024) for _ in range(30)]
        yield_now()
        idents = [fiber.ident for fiber in fibers]
        assert None not in idents
        assert len(set(probe.idents())) == len(probe.idents())
        assert set(idents) <= set(probe.idents())
        assert not set(idents) & {thread.ident for thread in threading.enumerate()}
        assert all(can_read(ident or 0, 0x400) for ident in idents), "pthread_getname_np reads there"
        stop.set()
        for thread in threads:
            thread.join()

    run(main)


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, 500])
def test_faulthandler_dumps_all_fibers(count: int) -> None:
    check_script("tools.py", "faulthandler_dump", str(count))


# --- the data stack: its first chunk in the slot, enough of it readable (3.14+) --------------------------------------


def test_sixteen_kilobytes_can_be_read_from_the_data_stacks_chunk(probe: ModuleType) -> None:
    def main() -> None:
        for size in (128 * 1024, None, 1024 * 1024):
            fibers = [spawn(probe.state, stack_size=size) for _ in range(70)]  # more than a slab has
            for fiber in fibers:
                state = fiber.result()
                assert state["chunk_bytes"] >= 16 * 1024
                assert can_read(state["chunk"], 16 * 1024)

    run(main)


def functions_seen(unwound: object) -> list[str]:
    """The function names anywhere in what the unwinder returns; its shape differs between versions."""
    name = getattr(unwound, "funcname", None)
    if isinstance(name, str):
        return [name]
    if isinstance(unwound, list | tuple):
        return [found for part in unwound for found in functions_seen(part)]
    return []


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython 3.14 and later look into other processes")
def test_other_processes_see_every_fiber(tmp_path: Path) -> None:
    remote = pytest.importorskip("_remote_debugging")
    with subprocess.Popen(
        [sys.executable, str(CRASH / "tools.py"), "inspected"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            assert child.stdout.readline().startswith("ready")
            try:
                unwound = remote.RemoteUnwinder(child.pid, all_threads=True).get_stack_trace()
            except PermissionError as error:
                pytest.skip(f"not permitted here: {error}")
            assert functions_seen(unwound).count("inner_function_of_a_parked_fiber") == 20

            script = tmp_path / "script.py"
            script.write_text("import greenio.debug; print(len(greenio.debug.fibers()), 'fibers', flush=True)\n")
            sys.remote_exec(child.pid, str(script))  # type: ignore[attr-defined]
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.read().splitlines() == ["21 fibers", "ok"]
        finally:
            child.kill()


# --- fork: the ident (3.13+ debug builds), and a child that has one thread state -------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "in_fiber",
        "in_main",
        "in_big_stack",
        "in_big_stack_of_main",
        "without_run",
        "again_in_the_child",
        "signal_in_the_child",
        "exit_of_the_child",
    ],
)
def test_forked_child_goes_on_with_the_forking_fiber_alone(case: str) -> None:
    done = run_script("fork.py", case, PYTHONMALLOC="debug", PYTHONWARNINGS="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == {"ok"}


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_debugger_stops_in_a_fiber_while_another_one_exists() -> None:
    commands = ["p doubled", "n", "p doubled", "n", "n", "p tripled", "w", "c"]
    if sys.version_info >= (3, 13):
        commands.insert(1, "n")  # it stops at breakpoint() itself
    output = check_script("tools.py", "debugger", stdin="\n".join(commands) + "\n")
    answers = [line.removeprefix("(Pdb) ") for line in output.splitlines()]
    assert [answer for answer in answers if answer.isdigit()] == ["14", "15", "21"]
    assert "result 36" in output
    assert "in other" not in output
    assert "other()" not in output


@pytest.mark.slow
@pytest.mark.parametrize("core", ["ctrace", "sysmon", "pytrace"])
def test_coverage_counts_what_fibers_run(core: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("sys.monitoring is CPython 3.12's")
    check_script("tools.py", "coverage_of_fibers", core, cwd=tmp_path)


def test_monitoring_switched_on_while_fibers_are_parked_counts_them_all() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("sys.monitoring is CPython 3.12's")
    monitoring = sys.monitoring
    started: list[str] = []

    def counted() -> None:
        pass

    def work() -> None:
        yield_now()
        counted()

    def main() -> None:
        fibers = [spawn(work) for _ in range(5)]
        yield_now()
        monitoring.use_tool_id(4, "test")
        monitoring.register_callback(4, monitoring.events.PY_START, lambda code, _: started.append(code.co_name))
        monitoring.set_events(4, monitoring.events.PY_START)
        try:
            for fiber in fibers:
                fiber.result()
        finally:
            monitoring.set_events(4, 0)
            monitoring.free_tool_id(4)

    run(main)
    assert started.count("counted") == 5


# --- drop ------------------------------------------------------------------------------------------------------------


def test_states_are_freed_with_the_pool(probe: ModuleType) -> None:
    def main() -> None:
        for fiber in [spawn(yield_now) for _ in range(50)]:
            fiber.join()

    debug.set_stack_pool(0)
    before = len(probe.idents())
    run(main)
    assert len(probe.idents()) == before
    debug.set_stack_pool(1024)
    run(main)
    assert len(probe.idents()) == before + 50
    debug.set_stack_pool(10)
    assert len(probe.idents()) == before + 10
    debug.set_stack_pool(1024)
