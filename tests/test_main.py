"""python -m greenio: what a program sees, prints and ends with, byte by byte as under plain python."""

import os
import pty
import py_compile
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest
from child import ROOT, environment

pytestmark = pytest.mark.slow  # each starts interpreters, with greenio and without

SECONDS = 60


def run_python(folder: Path, *arguments: str, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(PYTHONFAULTHANDLER="", PYTHONDONTWRITEBYTECODE="1", PYTHONHASHSEED="0", **changes),
        input=stdin.encode(),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def both(
    folder: Path,
    *arguments: str,
    flags: tuple[str, ...] = (),
    stdin: str = "",
    options: tuple[str, ...] = (),
    **changes: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run `python flags arguments` and the same under greenio; they must do the same. What plain python did."""
    plain = run_python(folder, *flags, *arguments, stdin=stdin, **changes)
    # On a machine that is busy with others a program may well stand still for a while; it would be told.
    ours = run_python(folder, *flags, "-m", "greenio", "--stall=off", *options, *arguments, stdin=stdin, **changes)
    assert said(ours) == said(plain)
    assert ours.returncode == plain.returncode
    return plain


def said(done: subprocess.CompletedProcess[bytes]) -> tuple[str, str]:
    """Its two outputs, without objects' addresses."""
    out, err = (re.sub(r"\bat 0x[0-9a-f]+", "at ...", each.decode()) for each in (done.stdout, done.stderr))
    return out, err


def write(folder: Path, source: str, name: str = "program.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    return name


# Prints what a program can see of how it was started.
SELF = """\
    import sys
    def shown(value):
        return repr(value).partition(" at 0x")[0]
    main = sys.modules["__main__"]
    assert vars(main) is globals()
    print([(name, shown(value)) for name, value in vars(main).items() if name not in ("sys", "shown", "main")])
    print(sys.argv, sys.path[:2], sys.flags, sys._getframe().f_back, __name__)
    class Own: pass
    import pickle
    print(type(pickle.loads(pickle.dumps(Own()))) is Own, Own.__module__)
"""


@pytest.mark.parametrize(
    "path",
    [
        "program.py",
        "./program.py",
        "below/program.py",
        "below/../program.py",
        "link.py",
        "other",
        "{folder}/program.py",
    ],
)
def test_script_sees_what_it_would_see(tmp_path: Path, path: str) -> None:
    for name in ("program.py", "below/program.py", "elsewhere/real.py", "other"):
        write(tmp_path, '"""Its docstring."""\n' + dedent(SELF), name)
    (tmp_path / "link.py").symlink_to("elsewhere/real.py")
    done = both(tmp_path, path.format(folder=tmp_path), "first", "--second", "-m", "-c")
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments", [["-m", "inside.module", "-x"], ["-minside"], ["folder", "a"], ["archive.zip", "a"]]
)
def test_module_package_folder_and_zip_file(tmp_path: Path, arguments: list[str]) -> None:
    for name in ("inside/__main__.py", "inside/module.py", "folder/__main__.py"):
        write(tmp_path, SELF, name)
    write(tmp_path, "print('initialized', __name__)", "inside/__init__.py")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", dedent(SELF) + "\n1/0\n")
    both(tmp_path, *arguments)


@pytest.mark.parametrize("arguments", [["-c", SELF.replace("    ", "", 1)], ["-"], ["-", "a", "-b"], []])
def test_command_and_standard_input(tmp_path: Path, arguments: list[str]) -> None:
    text = dedent(SELF)
    done = both(tmp_path, *[text if each.startswith("import") else each for each in arguments], stdin=text)
    assert done.returncode == 0


def test_command_that_is_indented_or_fails(tmp_path: Path) -> None:
    both(tmp_path, "-c", "  print(1)\n  print(2)")
    both(tmp_path, "-c", "def fail():\n    1 / 0\nfail()")
    both(tmp_path, "-cprint(3")


def test_compiled_file(tmp_path: Path) -> None:
    write(tmp_path, dedent(SELF) + "1 / 0\n")
    py_compile.compile(str(tmp_path / "program.py"), str(tmp_path / "compiled.pyc"))
    both(tmp_path, "compiled.pyc", "a")


EXITS = {
    "none": "raise SystemExit",
    "zero": "raise SystemExit(0)",
    "status": "raise SystemExit(3)",
    "beyond": "raise SystemExit(259)",
    "negative": "raise SystemExit(-1)",
    "text": "raise SystemExit('cannot go on')",
    "object": "raise SystemExit(['a', 1])",
    "tuple": "raise SystemExit((3, 4))",
    "subclass": "class End(SystemExit): pass\nraise End(4)",
    "from another": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise SystemExit(5) from e",
    "at once": "import os, sys\nprint('a', flush=True)\nos._exit(6)",
    "interrupt": "raise KeyboardInterrupt",
    "interrupt with text": "def f():\n    raise KeyboardInterrupt('text')\nf()",
    "SIGINT": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass",
    "SIGTERM": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhile True: pass",
    "handled": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('here'))\nos.kill(os.getpid(), signal.SIGUSR1)\n",
    "abort": "import os\nos.abort()",
    "failed atexit": "import atexit\n@atexit.register\ndef f(): 1 / 0\nraise SystemExit(7)",
}


@pytest.mark.parametrize("name", EXITS)
def test_ends_as_it_would_end(tmp_path: Path, name: str) -> None:
    both(tmp_path, write(tmp_path, EXITS[name]))


def test_interrupt_kills_by_the_signal_in_every_form(tmp_path: Path) -> None:
    write(tmp_path, "raise KeyboardInterrupt", "module.py")
    assert both(tmp_path, "-m", "module").returncode == -signal.SIGINT
    assert both(tmp_path, "-c", "raise KeyboardInterrupt").returncode == -signal.SIGINT
    assert both(tmp_path, "-", stdin="raise KeyboardInterrupt").returncode == -signal.SIGINT


FAILURES = {
    "plain": "def f():\n    1 / 0\nf()",
    "chained": "def f():\n    try:\n        1 / 0\n    except ArithmeticError as e:\n        raise KeyError(1) from e\nf()",
    "in context": "try:\n    {}[1]\nexcept KeyError:\n    1 / 0",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "with notes": "e = ValueError(1)\ne.add_note('a note')\nraise e",
    "syntax": "a = 1\nb = = 2\n",
    "indentation": "if True:\nprint(1)",
    "name": "import sys\nsys.flush_all",
    "recursion": "def f(n): return f(n + 1)\nf(0)",
    "recursion limit": "import sys\nsys.setrecursionlimit(60)\ndef f(n): return f(n + 1)\nf(0)",
    "imported": "import helper",
    "hook": "import sys\ndef hook(*a):\n    print(a[:2], a[2].tb_frame.f_back, sys.exc_info(), __file__)\nsys.excepthook = hook\n1 / 0",
    "bad hook": "import sys\nsys.excepthook = lambda *_: 1 / 0\n{}[1]",
    "hook that exits": "import sys\nsys.excepthook = lambda *_: sys.exit(9)\n{}[1]",
    "no hook": "import sys\ndel sys.excepthook\n{}[1]",
    "own traceback": "import traceback\ntry:\n    1 / 0\nexcept ArithmeticError:\n    traceback.print_exc()\ntraceback.print_stack()",
    "unprintable": "class Bad(Exception):\n    def __str__(self): 1 / 0\nraise Bad",
    "last": "import atexit, sys\natexit.register(lambda: print(sys.last_value, '__file__' in globals()))\n1 / 0",
    "last at exit": "import atexit, sys\natexit.register(lambda: print(dir(sys).count('last_value'), '__file__' in globals()))\nexit()",
    "limit of frames": "import sys\nsys.tracebacklimit = 1\ndef f(): 1 / 0\nf()",
    "deleted": "class A:\n    def __del__(self): 1 / 0\na = A()\ndel a\nprint('on')",
    "at the end": "class A:\n    def __del__(self): print('deleted')\na = A()",
    "thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='T')\nt.start()\nt.join()",
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_reports_what_fails_as_it_would(tmp_path: Path, name: str) -> None:
    write(tmp_path, "def inner():\n    1 / 0\ninner()", "helper.py")
    both(tmp_path, write(tmp_path, FAILURES[name]))


def test_source_in_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe4'))\n")
    (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbfprint('marked')\n")
    (tmp_path / "wrong.py").write_bytes(b"print('\xff')\n")
    (tmp_path / "zero.py").write_bytes(b"print(1)\0\n")
    (tmp_path / "crlf.py").write_bytes(b"print('''a\r\nb'''.encode())\r\n")
    for name in ("latin", "marked", "wrong", "zero", "crlf"):
        both(tmp_path, f"{name}.py")


def test_what_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert both(tmp_path, "missing.py").returncode == 2
    assert both(tmp_path, "missing/program.py", "a").returncode == 2
    both(tmp_path, "empty")
    both(tmp_path, "-m", "missing_module")
    both(tmp_path, "-m", "missing.module")
    both(tmp_path, "-m", "xml")  # a package without __main__


WARNINGS = """\
    import warnings
    def f(): warnings.warn("two up", stacklevel=2)
    f()
    for level in (1, 2, 3, 9):
        warnings.warn(f"level {level}", stacklevel=level)
    warnings.warn("old", DeprecationWarning)
    assert 1 is 1
    open("/dev/null")
    print(__debug__)
"""


@pytest.mark.parametrize(
    "flags",
    [[], ["-W", "error"], ["-W", "ignore"], ["-X", "dev"], ["-O"], ["-OO", "-u"], ["-P"], ["-s", "-B"], ["-bb"]],
    ids=" ".join,
)
def test_the_interpreters_own_options(tmp_path: Path, flags: list[str]) -> None:
    source = dedent(SELF).replace("sys.flags, ", "") + dedent(WARNINGS)
    both(tmp_path, write(tmp_path, source, "below/program.py"), flags=tuple(flags))


def test_its_options_and_the_programs_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "import sys; print(sys.argv)")
    for arguments in (["--help"], ["--seed", "x"], ["run"], ["--"]):
        both(tmp_path, "program.py", *arguments)
    both(tmp_path, "-c", "import sys; print(sys.argv)", "--version", "-m", "x")
    both(tmp_path, "--", "program.py", "a")


def test_reads_the_standard_input(tmp_path: Path) -> None:
    source = "import sys\nprint(input('? '))\nprint(sys.stdin.readline(), list(sys.stdin))\ninput()"
    both(tmp_path, write(tmp_path, source), stdin="a\nb\nc\nd\n")


def test_the_order_of_its_end(tmp_path: Path) -> None:
    source = """\
        import atexit, sys, threading
        go = threading.Event()
        def late():
            go.wait()
            print("thread", flush=True)
        threading.Thread(target=late).start()
        atexit.register(print, "first registered")
        atexit.register(print, "last registered")
        class Left:
            def __del__(self): print("left")
        left = Left()
        print("main")
        go.set()
    """
    both(tmp_path, write(tmp_path, source))
    both(tmp_path, write(tmp_path, source + "        1 / 0\n"))


def test_goes_on_interactively(tmp_path: Path) -> None:
    session = "print(kept, '__file__' in globals(), __name__)\n1/0\nexit(4)\n"
    assert both(tmp_path, write(tmp_path, "kept = 3"), flags=("-i", "-q"), stdin=session).returncode == 4
    both(tmp_path, write(tmp_path, "kept = 3\nraise SystemExit(2)"), flags=("-i", "-q"), stdin=session)
    both(tmp_path, write(tmp_path, "kept = 3\n1 / 0"), flags=("-i", "-q"), stdin=session)
    both(tmp_path, write(tmp_path, "import os\nos.environ['PYTHONINSPECT'] = '1'\nkept = 3"), stdin=session)


def test_debugger_and_profiler_as_modules(tmp_path: Path) -> None:
    write(tmp_path, "def f():\n    return 1\nprint(f(), __name__, __file__)\n")
    both(tmp_path, "-m", "pdb", "program.py", stdin="b 2\nc\nw\np __name__\nc\nq\n")
    profiled = run_python(tmp_path, "-m", "greenio", "-m", "cProfile", "-s", "name", "program.py")
    assert profiled.returncode == 0
    assert b"program.py:1(f)" in profiled.stdout
    both(tmp_path, "-m", "timeit", "-n1", "-r1", "-q", "--help")


def test_processes_started_anew_find_the_script(tmp_path: Path) -> None:
    source = """\
        import multiprocessing
        class Own:
            def __init__(self, value): self.value = value
        def double(own): return Own(own.value * 2)
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print([each.value for each in pool.map(double, [Own(1), Own(2)])])
    """
    assert both(tmp_path, write(tmp_path, source)).stdout == b"[2, 4]\n"


def test_restarts_as_reloaders_do(tmp_path: Path) -> None:
    source = """\
        import os, sys
        import greenio
        print(greenio.can_park(), sys.argv, flush=True)
        if "AGAIN" not in os.environ:
            os.environ["AGAIN"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    """
    done = run_python(tmp_path, "-m", "greenio", "--stack-size", "512K", write(tmp_path, source), "a")
    assert done.stdout == b"True ['program.py', 'a']\n" * 2, done.stderr


# --- our own options -------------------------------------------------------------------------------------------------

STATE = """\
    import json, sys, time
    import greenio, greenio.monkey
    scheduler = greenio.current_scheduler()
    print(json.dumps({
        "stack": scheduler.stack_bytes, "seed": getattr(scheduler.schedule, "seed", None), "patched": greenio.monkey.patched_modules(),
        "clock": type(scheduler.clock).__name__, "main": greenio.current_fiber() is scheduler.main, "argv": sys.argv,
    }))
"""


def state(folder: Path, *options: str) -> dict[str, object]:
    import json

    done = run_python(folder, "-m", "greenio", *options, write(folder, STATE), "-x")
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    assert found["argv"] == ["program.py", "-x"]
    assert found["main"] is True
    return found


def test_stack_size_seed_and_clock(tmp_path: Path) -> None:
    found = state(tmp_path, "--stack-size", "1M", "--seed=17", "--virtual-clock")
    assert (found["stack"], found["seed"], found["clock"]) == (1 << 20, 17, "VirtualClock")
    assert state(tmp_path, "run", "--stack-size=128k")["stack"] == 128 << 10


def test_what_is_patched_can_be_chosen(tmp_path: Path) -> None:
    everything = state(tmp_path)["patched"]
    assert isinstance(everything, list)
    assert "time" in everything
    assert state(tmp_path, "--patch", "time")["patched"] == ["time"]
    assert state(tmp_path, "--no-patch", "time,ssl")["patched"] == [
        name for name in everything if name not in ("time", "ssl")
    ]
    assert state(tmp_path, "--no-patch", "all")["patched"] == []


def test_virtual_time_and_a_seeds_order(tmp_path: Path) -> None:
    source = """\
        import time, greenio
        order = []
        def note(number):
            time.sleep(3600)
            order.append(number)
        fibers = [greenio.spawn(note, number) for number in range(20)]
        for fiber in fibers: fiber.join()
        print(order)
    """
    program = write(tmp_path, source)
    runs = [
        run_python(tmp_path, "-m", "greenio", "--virtual-clock", "--seed", seed, program).stdout
        for seed in ("1", "1", "2")
    ]
    assert runs[0] == runs[1] != runs[2]
    assert sorted(eval(runs[0])) == list(range(20))


def test_dump_signal(tmp_path: Path) -> None:
    source = "import os, signal, time\nos.kill(os.getpid(), signal.SIGUSR2)\ntime.sleep(0.001)\n"
    done = run_python(tmp_path, "-m", "greenio", "--dump-signal", "SIGUSR2", write(tmp_path, source))
    assert done.returncode == 0
    assert b"program.py" in done.stderr


def test_commands_have_a_name_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "import sys\nprint('it ran', sys.argv)", "run")
    assert run_python(tmp_path, "-m", "greenio", "run", "run", "run").stdout == b"it ran ['run', 'run']\n"
    assert run_python(tmp_path, "-m", "greenio", "./run").stdout == b"it ran ['./run']\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stack-size", "12Q"], "'12Q' is no number of bytes"),
        (["--stack-size", "0"], "must be > 0 bytes"),
        (["--stack-size"], "expected one argument"),
        (["--dump-signal", "NONE"], "'NONE' is no signal"),
        (["--dump-signal", "KILL"], "argument --dump-signal: "),
        (["--seed", "many"], "invalid int value: 'many'"),
        (["--patch", "nothing"], "argument --patch: patch_only knows no nothing; it covers time,"),
        (["--no-patch", "time,nothing"], "argument --no-patch: patch_all knows no nothing; it covers time,"),
        (["--patch", "time", "--no-patch", "time"], "exclude each other"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["-m"], "argument expected for the -m option"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: list[str], says: str) -> None:
    program = [] if options == ["-m"] or options == ["--stack-size"] else [write(tmp_path, "print('ran')")]
    done = run_python(tmp_path, "-m", "greenio", *options, *program)
    assert done.returncode == 2
    assert done.stdout == b""
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_help_and_version() -> None:
    shown = run_python(ROOT, "-m", "greenio", "--help")
    assert shown.returncode == 0
    for option in ("--stack-size", "--dump-signal", "--virtual-clock", "--seed", "--patch", "--no-patch", "-m module"):
        assert option in shown.stdout.decode()
    assert run_python(ROOT, "-m", "greenio", "--version").stdout.startswith(b"greenio ")


def test_interactive_session_on_a_terminal(tmp_path: Path) -> None:
    # The REPL itself on a terminal, where print tells that it is a fiber.
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "greenio"],
        cwd=tmp_path,
        env=environment(TERM="dumb", PYTHON_BASIC_REPL="1", PYTHON_HISTORY=str(tmp_path / "history"), HOME=str(tmp_path)),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    os.write(
        master,
        b"import greenio, os; print('is', greenio.can_park(), os.environ.get('PYTHONINSPECT'), __name__)\nexit(5)\n",
    )
    said = b""
    try:
        while piece := os.read(master, 4096):
            said += piece
    except OSError:
        pass  # the terminal's other end is closed
    os.close(master)
    assert child.wait(SECONDS) == 5
    assert b"is True None __main__" in said, said
