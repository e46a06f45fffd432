"""Tools that know threads show fibers: each fiber's own stack, whether it runs or is parked. Real tools, on child processes.

What needs no other process (sys._current_frames, trace and profile functions, coverage, pdb) is tested where those belong.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1"}
SEGMENTATION_FAULT = "Fatal Python error: Segmentation fault"

# How many fibers park three calls deep comes as an argument; what the rest do follows.
PRELUDE = """
import faulthandler, os, resource, signal, sys, time
import greenio
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def parked_leaf(name):
    greenio.sleep(1000)

def parked_middle(name):
    parked_leaf(name)

def parked_top(name):
    parked_middle(name)

def computing_leaf():
    print("ready", flush=True)
    while True:
        pass

def computing_top():
    computing_leaf()

def blocking_leaf():
    print("ready", flush=True)
    time.sleep(1000)

def idle():
    print("ready", flush=True)

def spawn_parked(count):
    for number in range(count):
        greenio.spawn(parked_top, number, name=f"parked-{number}")
    greenio.yield_now()
"""

MAIN = """
def main():
    spawn_parked(COUNT)
    greenio.spawn(FUNCTION, name="the other").join()
    greenio.sleep(1000)

if __name__ == "__main__":
    greenio.run(main)
"""


@pytest.fixture
def program(tmp_path):
    """A context: program(count, function) runs *count* parked fibers and one more, and gives the process when that one is there."""

    @contextlib.contextmanager
    def program(count, function, *, before=""):
        path = tmp_path / "program.py"
        path.write_text(PRELUDE + before + MAIN.replace("COUNT", str(count)).replace("FUNCTION", function))
        with subprocess.Popen(
            [sys.executable, str(path)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                first = process.stdout.readline()
                assert first == "ready\n", process.stderr.read()
                yield process
            finally:
                process.kill()

    return program


def ended(tmp_path, script, *, options=()):
    path = tmp_path / "program.py"
    path.write_text(PRELUDE + script)
    return subprocess.run(
        [sys.executable, *options, str(path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


def tool(*command, timeout=60):
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def find(name, hint):
    found = shutil.which(name) or shutil.which(name, path=os.path.dirname(sys.executable))
    if found is None:
        pytest.skip(f"{name} is missing ({hint})")
    return found


def read_until(file, pattern, seconds=20):
    """What a process writes to *file* until *pattern* is in it."""
    text = ""
    until = time.monotonic() + seconds
    while not re.search(pattern, text):
        ready, _, _ = select.select([file], [], [], max(0, until - time.monotonic()))
        assert ready, f"{pattern!r} did not come: {text}"
        more = os.read(file.fileno(), 1 << 16).decode()
        assert more, text
        text += more
    return text


# ---- py-spy ----------------------------------------------------------------------------------------------------------


def py_spy(process, *command):
    spy = find("py-spy", "pip install py-spy")
    status, out, err = tool(spy, *command, "--pid", process.pid)
    if status != 0:
        if "ermission" in err or "not permitted" in err:
            pytest.skip(f"ptrace is not permitted: {err.strip()}")
        if "nsupported" in err or "ailed to find python version" in err or "ebug build" in err:
            pytest.skip(f"py-spy does not know this interpreter: {err.strip()}")
    assert status == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("function", ["computing_top", "blocking_leaf", "idle"])
def test_py_spy_dump_shows_every_fiber(program, function):
    if hasattr(sys, "gettotalrefcount"):
        pytest.skip("py-spy reads release builds only")
    with program(5, function) as process:
        text = py_spy(process, "dump")
    parked = re.findall(
        r"    parked_leaf \(.*program\.py:\d+\)\n    parked_middle \(.*\)\n    parked_top \(.*\)\n", text
    )
    assert len(parked) == 5, text
    assert re.search(r"    main \(.*\)\n(.*\n)*    run \(.*_run\.py:\d+\)\n    <module>", text), text
    if function != "idle":
        assert function in text


# ---- faulthandler ----------------------------------------------------------------------------------------------------

# As faulthandler writes a stack, newest call first.
PARKED = re.compile(r"in parked_leaf\n.* in parked_middle\n.* in parked_top\n")


def threads(text):
    return len(re.findall(r"^(Current thread|Thread) 0x[0-9a-f]+", text, re.MULTILINE))


@pytest.mark.parametrize("where", ["in the main fiber", "in another", "between runs"])
def test_faulthandler_dumps_every_fiber(tmp_path, where):
    script = """
def dump():
    faulthandler.dump_traceback(all_threads=True)

def main(where):
    spawn_parked(5)
    if where == "in another":
        greenio.spawn(dump).join()
    else:
        dump()
"""
    if where == "between runs":
        script += "greenio.run(spawn_parked, 5)\ndump()\n"
    else:
        script += f"greenio.run(main, {where!r})\n"
    done = ended(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert len(PARKED.findall(done.stderr)) == (0 if where == "between runs" else 5), done.stderr
    assert "in dump\n" in done.stderr
    if where != "between runs":
        assert threads(done.stderr) >= 6, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("function", ["computing_top", "blocking_leaf", "idle"])
def test_faulthandler_dumps_after_a_timeout(program, when, function):
    set_up = "faulthandler.dump_traceback_later(0.3)\n"
    before = (
        set_up
        if when == "before"
        else f"""
def set_up_and_go(function={function}):
    {set_up}
    function()
"""
    )
    with program(5, function if when == "before" else "set_up_and_go", before=before) as process:
        text = read_until(process.stderr, r"Timeout(?s:.*)in <module>\n")
        assert len(PARKED.findall(text)) == 5, text
        assert process.poll() is None  # it lives on


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("function", ["computing_top", "blocking_leaf", "idle"])
def test_faulthandler_dumps_at_a_signal(program, when, function):
    set_up = "faulthandler.register(signal.SIGUSR1, all_threads=True)\n"
    before = (
        set_up
        if when == "before"
        else f"""
def set_up_and_go(function={function}):
    {set_up}
    function()
"""
    )
    with program(5, function if when == "before" else "set_up_and_go", before=before) as process:
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)
            text = read_until(process.stderr, r"in <module>\n")
            assert len(PARKED.findall(text)) == 5, text
        assert process.poll() is None


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("number", ["SIGABRT", "SIGSEGV", "SIGFPE"])
def test_faulthandler_dumps_every_fiber_at_the_end(tmp_path, when, number):
    script = f"""
def dying():
    if {when!r} == "during":
        faulthandler.enable(all_threads=True)
    signal.raise_signal(signal.{number})

def main():
    spawn_parked(5)
    greenio.spawn(dying).join()

if {when!r} == "before":
    faulthandler.enable(all_threads=True)
greenio.run(main)
"""
    done = ended(tmp_path, script)
    assert done.returncode == -getattr(signal, number), done.stderr
    assert done.stderr.count("Fatal Python error") == 1 and "greenio:" not in done.stderr, done.stderr
    assert "in dying\n" in done.stderr
    assert len(PARKED.findall(done.stderr)) == 5, done.stderr


# ---- remote debugging, CPython 3.14 and later ------------------------------------------------------------------------

remote = pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython 3.14 brought remote debugging")

UNWIND = """
import sys, _remote_debugging
unwinder = _remote_debugging.RemoteUnwinder(int(sys.argv[1]), all_threads=True)
for attempt in range(50):
    try:
        found = unwinder.get_stack_trace()
    except (RuntimeError, OSError) as error:  # it was running meanwhile
        problem = error
        continue
    break
else:
    raise problem
threads = []
for part in found:
    threads.extend(part.threads if hasattr(part, "threads") else [part])  # one a thread on 3.14, an interpreter on 3.15
for thread in threads:
    print(*(frame.funcname for frame in thread.frame_info))
"""


def python_tool(*arguments):
    status, out, err = tool(sys.executable, *arguments)
    if status != 0 and ("PermissionError" in err or "ermission denied" in err or "not permitted" in err):
        pytest.skip(f"reading another process is not permitted: {err.strip().splitlines()[-1]}")
    assert status == 0, err
    return out


@remote
@pytest.mark.slow
@pytest.mark.parametrize("function", ["blocking_leaf", "idle"])
@pytest.mark.parametrize("count", [3, 1000])
def test_the_remote_unwinder_sees_every_fiber(program, count, function):
    with program(count, function) as process:
        stacks = python_tool("-c", UNWIND, process.pid).splitlines()
    assert sum(stack.startswith("parked_leaf parked_middle parked_top") for stack in stacks) == count, stacks[:5]
    assert any(stack.startswith("main") for stack in stacks)
    if function != "idle":
        assert any(stack.startswith(function) for stack in stacks)


@remote
@pytest.mark.slow
def test_the_remote_unwinder_is_not_troubled_by_finished_fibers(program):
    before = """
def come_and_go():
    import greenio.debug
    for kept in (100, 3, 0, 100):
        for fiber in [greenio.spawn(parked_leaf, 0) for _ in range(20)]:
            fiber.cancel()
            fiber.join()
        greenio.debug.set_stack_pool(kept)
    for _ in range(20):
        greenio.spawn(len, "").join()
    blocking_leaf()
"""
    with program(2, "come_and_go", before=before) as process:
        stacks = python_tool("-c", UNWIND, process.pid).splitlines()
    assert sum(stack.startswith("parked_leaf parked_middle parked_top") for stack in stacks) == 2, stacks
    assert any(stack.startswith("blocking_leaf come_and_go") for stack in stacks), stacks


@remote
@pytest.mark.slow
def test_asyncio_ps_sees_the_tasks_of_an_event_loop_in_a_fiber(program):
    before = """
import asyncio

async def sleeper():
    await asyncio.sleep(1000)

async def main_task():
    task = asyncio.create_task(sleeper(), name="the-sleeper")
    print("ready", flush=True)
    await task

def event_loop():
    asyncio.run(main_task())
"""
    if sys.version_info < (3, 15):
        before += "\nspawn_parked = lambda count: event_loop()\n"  # 3.14 looks at the main thread state's tasks only
    with program(3, "event_loop", before=before) as process:
        deadline = time.monotonic() + 20
        while "the-sleeper" not in (text := python_tool("-m", "asyncio", "ps", process.pid)):
            assert time.monotonic() < deadline, text  # "ready" comes before the loop waits


@remote
@pytest.mark.slow
@pytest.mark.parametrize("function", ["ticking", "yielding", "yielding_in_turns"])
def test_remote_exec_runs_though_main_is_parked(program, tmp_path, function):
    before = """
def ticking():
    idle()
    while True:
        greenio.sleep(0.01)

def yielding():
    idle()
    while True:
        greenio.yield_now()

def yielding_in_turns():
    greenio.spawn(yielding)
    while True:
        greenio.yield_now()
"""
    script = tmp_path / "sent.py"
    script.write_text('import greenio\nprint("sent to", greenio.current_fiber().state, flush=True)\n')
    with program(3, function, before=before) as process:
        for _ in range(3):
            python_tool("-c", f"import sys; sys.remote_exec({process.pid}, {str(script)!r})")
            assert read_until(process.stdout, r"\n").startswith("sent to "), process.stderr.read()
        assert process.poll() is None


# ---- gdb -------------------------------------------------------------------------------------------------------------

# Make the registers those that a parked fiber will have. Its saved context is described in asm/.
GO_TO_PARKED = """
set $context = (char *)((struct __pyx_obj_7greenio_7_switch_BaseFiber *) ADDRESS)->core.context
set $rbx = *(long *)($context + 0x08)
set $rbp = *(long *)($context + 0x10)
set $r12 = *(long *)($context + 0x18)
set $r13 = *(long *)($context + 0x20)
set $r14 = *(long *)($context + 0x28)
set $r15 = *(long *)($context + 0x30)
set $rip = *(long *)($context + 0x38)
set $rsp = $context + 0x40
"""


def gdb(process, *commands):
    program = find("gdb", "apt-get install gdb")
    words = [word for command in ["set pagination off", *commands, "kill"] for word in ("-ex", command)]
    _, out, err = tool(program, "-q", "-nx", "-batch", "-p", process.pid, *words)
    if "not permitted" in err:
        pytest.skip(f"ptrace is not permitted: {err.strip().splitlines()[0]}")
    return out, err


def check_ends_at_base(out, err):
    frames = re.findall(r"^#(\d+) .*?([\w.]+) \(", out, re.MULTILINE)
    names = [name for _, name in frames]
    assert names, out + err
    assert "__pyx_f_7greenio_7_switch_fiber_entry" in names, out + err
    below = names[names.index("__pyx_f_7greenio_7_switch_fiber_entry") + 1 :]
    assert below in (["greenio_context_base"], ["greenio_context_trampoline"]), out + err
    assert "corrupt" not in out + err and "previous frame" not in out + err, out + err
    return names


@pytest.mark.slow
def test_gdb_walks_a_running_fiber_to_its_base(program):
    with program(2, "blocking_leaf") as process:
        out, err = gdb(process, "backtrace")
    names = check_ends_at_base(out, err)
    assert "__pyx_f_7greenio_7_switch_run_function" in names


@pytest.mark.slow
def test_gdb_walks_a_parked_fiber_to_its_base(program):
    before = """
def tell():
    print("ready", flush=True)
    print([id(fiber) for fiber in __import__("greenio.debug").debug.fibers() if fiber.name == "parked-1"][0], flush=True)
    time.sleep(1000)
"""
    with program(2, "tell", before=before) as process:
        address = process.stdout.readline().strip()
        out, err = gdb(process, *GO_TO_PARKED.replace("ADDRESS", address).strip().splitlines(), "backtrace")
    if "No struct type" in err:
        pytest.skip("built without debug information")
    names = check_ends_at_base(out, err)
    assert any("sleep" in name for name in names), out


# ---- valgrind --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_callgrind_counts_a_program_with_fibers(tmp_path):
    valgrind = find("valgrind", "apt-get install valgrind")
    (tmp_path / "program.py").write_text("""
import greenio

def one(number):
    greenio.yield_now()
    return sorted(range(number), key=lambda item: -item)[0]

def main():
    fibers = [greenio.spawn(one, number + 1) for number in range(20)]
    assert [fiber.result() for fiber in fibers] == list(range(20))
    print("done")

greenio.run(main)
""")
    out = tmp_path / "callgrind.out"
    ran = subprocess.run(
        [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable, "-S", tmp_path / "program.py"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    if "unhandled instruction" in ran.stderr:
        pytest.skip("valgrind does not know this processor's instructions")
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
    assert "greenio_context_resume" in out.read_text(errors="replace")
