"""python -m greenio [options] script.py args ...: an unchanged program, run as fibers.

Everything is patched (greenio.monkey) and the program runs as `__main__` in the main fiber, as `python script.py args ...` would run
it: sys.argv, sys.path, the attributes of `__main__`, exit status, tracebacks, warnings, the interpreter's own options. `-m module`,
`-c command`, a folder or zip file with a __main__.py, and `-` or nothing for the standard input are there too.

The program must not see that it was called from here. So it runs with nothing on the interpreter's chain of frames, and its
`__main__` is a new module. runpy.run_path was not taken: it leaves frames in tracebacks, and what it runs cannot be pickled.
"""

import sys

# The current folder, which -m put there: `python script.py` would not import from it, and neither must what is patched.
if not sys.flags.safe_path:
    del sys.path[0]

import argparse
import os
import types
from collections.abc import Callable
from typing import Any

USAGE = """python -m greenio [run] [options] script.py [argument ...]
       python -m greenio [run] [options] -m module [argument ...]
       python -m greenio [run] [options] -c command [argument ...]
       python -m greenio [run] [options] [-] [argument ...]"""
EPILOG = """\
The interpreter's own options go before -m: python -X dev -W error -m greenio script.py. A script that is named as a command, run,
is run by `run run`."""
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


class Program:
    """What is to be run: one of the forms that `python` has, and the arguments behind it.

    Attributes:
        kind: "script", "module", "command" or "stdin".
        what: the script's path, the module's name, the command's text; "-" or "" for the standard input.
    """

    def __init__(self, kind: str, what: str, arguments: list[str]) -> None:
        self.kind = kind
        self.what = what
        self.arguments = arguments


# --- the command line ------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The options; what they are options of is split off before."""
    import greenio
    from greenio._run import DEFAULT_SWITCH_INTERVAL, STALL_THREADS

    parser = argparse.ArgumentParser(
        prog="python -m greenio",
        usage=USAGE,
        description="Run an unchanged program as fibers.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--stack-size", type=parse_bytes, metavar="BYTES", help="C stack of each fiber, with K or M: 64K (default 256K)"
    )
    add(
        "--dump-signal",
        type=parse_signal,
        metavar="SIGNAL",
        help="a signal, USR1, that writes what all fibers wait for",
    )
    add(
        "--virtual-clock",
        action="store_true",
        help="a clock that jumps to the next deadline once all fibers are parked",
    )
    add("--seed", type=int, metavar="N", help="an order of the fibers made from this number, the same each time")
    add(
        "--stall",
        choices=["off", "warn", "handoff"],
        default="warn",
        help="what is done when a fiber keeps the others from running: warn (default), a log record; "
        "handoff, another OS thread runs the others",
    )
    add("--stall-after", type=float, metavar="SECONDS", help="how long that may last (default 0.1; handoff: 0.01)")
    add(
        "--stall-threads",
        type=int,
        metavar="N",
        default=STALL_THREADS,
        help="handoff: how many fibers may be stuck at once; beyond that the others wait (default %(default)s)",
    )
    add(
        "--slice",
        type=parse_seconds,
        metavar="SECONDS",
        help="how long a fiber may compute until it is switched out for the others, 0.01 say (default: as long as it likes)",
    )
    add(
        "--switch-interval",
        type=parse_seconds,
        metavar="SECONDS",
        default=DEFAULT_SWITCH_INTERVAL,
        help="how long an OS thread that computes keeps the GIL from the fibers (default %(default)s; None: as it is set)",
    )
    add("--patch", type=parse_names, metavar="LIST", help="patch these modules only: socket,select")
    add("--no-patch", type=parse_names, metavar="LIST", help="patch all but these modules; all: none")
    add("--version", action="version", version=f"greenio {greenio_version()} ({greenio.__name__}), {sys.version}")
    return parser


def parse_bytes(text: str) -> int:
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    try:
        size = int(text.removesuffix(text[-1]) if unit else text) * UNITS[unit]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 65536, 64K or 1M") from None
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be > 0 bytes")
    return size


def parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, such as 0.01") from None
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} must be > 0 seconds")
    return seconds


def parse_signal(text: str) -> int:
    import signal

    known = {each.name.removeprefix("SIG"): int(each) for each in signal.Signals}
    number = int(text) if text.isdecimal() else known.get(text.upper().removeprefix("SIG"))
    if number is None or number not in signal.valid_signals():
        raise argparse.ArgumentTypeError(f"{text!r} is no signal, such as USR1 or SIGUSR1")
    return number


def parse_names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name]


def greenio_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("greenio-fibers")
    except metadata.PackageNotFoundError:
        return "of a checkout"


def split_arguments(arguments: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], Program]:
    """The options, and the program with all that follows it."""
    with_value = {name for action in parser._actions if action.nargs != 0 for name in action.option_strings}
    index = 0
    while index < len(arguments):
        each = arguments[index]
        if each == "--":
            index += 1
            break
        if each == "-" or not each.startswith("-") or each[:2] in ("-m", "-c"):
            break
        # With its value, unless that is missing, which argparse says.
        index += 2 if each in with_value else 1
    options, rest = arguments[:index], arguments[index:]
    if options and options[-1] == "--":
        options.pop()
    if not rest:
        return options, Program("stdin", "", [])
    first, *rest = rest
    for flag, kind in (("-m", "module"), ("-c", "command")):
        if first.startswith(flag):
            if first == flag and not rest:
                parser.error(f"argument expected for the {flag} option")
            what = first[2:] or rest.pop(0)
            return options, Program(kind, what, rest)
    return options, Program("stdin" if first == "-" else "script", first, rest)


# --- the program, as the interpreter would run it --------------------------------------------------------------------


def new_main() -> dict[str, Any]:
    """Make `__main__` a module as fresh as the interpreter's own; its names."""
    import builtins
    from importlib.machinery import BuiltinImporter

    old = vars(sys.modules["__main__"])
    main = types.ModuleType("__main__")
    names = vars(main)
    names["__loader__"] = BuiltinImporter
    if "__annotations__" in old:  # until CPython 3.13 it has them from the beginning
        names["__annotations__"] = {}
    names["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return names


def prepare(program: Program) -> Callable[[], object]:
    """Set up sys.argv, sys.path and `__main__`; what runs it."""
    from greenio._outermost import call_outermost, run_stdin

    names = new_main()
    first = program.what
    if program.kind == "module":
        # As the interpreter does it: its frames are in such a program's tracebacks.
        import runpy

        sys.argv = ["-m", *program.arguments]
        prepend_path(os.getcwd())
        return lambda: call_outermost(runpy._run_module_as_main, program.what)  # type: ignore[attr-defined]
    if program.kind == "script":
        from pkgutil import get_importer

        sys.argv = [first, *program.arguments]
        if get_importer(first) is not None:
            import runpy

            sys.path.insert(0, os.path.join(os.getcwd(), first))
            return lambda: call_outermost(runpy._run_module_as_main, "__main__", False)  # type: ignore[attr-defined]
        return prepare_script(first, names)
    if program.kind == "command":
        sys.argv = ["-c", *program.arguments]
        prepend_path("")
        return prepare_command(program.what, names)
    sys.argv = [first, *program.arguments]
    prepend_path("")
    name_file(names, "<stdin>")
    return lambda: run_stdin(names)


def prepend_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def name_file(names: dict[str, Any], path: str) -> None:
    names["__file__"] = path
    if "__cached__" in globals():  # until CPython 3.14
        names["__cached__"] = None


def prepare_script(script: str, names: dict[str, Any]) -> Callable[[], object]:
    from importlib.machinery import SourceFileLoader, SourcelessFileLoader

    from greenio._outermost import call_outermost, run_file

    path = os.path.join(os.getcwd(), script)
    try:
        fd = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        print(f"{sys.orig_argv[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    prepend_path(os.path.dirname(os.path.realpath(script)))
    name_file(names, path)
    if is_compiled(script, fd):
        names["__loader__"] = SourcelessFileLoader("__main__", path)
        os.close(fd)
        code = names["__loader__"].get_code("__main__")
        return lambda: call_outermost(exec, code, names)
    names["__loader__"] = SourceFileLoader("__main__", path)
    return lambda: run_file(fd, path, names)


def is_compiled(script: str, fd: int) -> bool:
    import stat
    from importlib.util import MAGIC_NUMBER

    if script.endswith(".pyc"):
        return True
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False  # what was read from it would be gone
    return os.pread(fd, 4, 0) == MAGIC_NUMBER


def prepare_command(text: str, names: dict[str, Any]) -> Callable[[], object]:
    from greenio._outermost import COMMAND_IS_DEDENTED, call_outermost

    if COMMAND_IS_DEDENTED:
        import textwrap

        text = textwrap.dedent(text)
    text += "\n"

    def run() -> None:
        code = call_outermost(compile, text, "<string>", "exec", 0, True)
        remember_lines(code, text)
        call_outermost(exec, code, names)

    return run


def remember_lines(code: types.CodeType, text: str) -> None:
    """From CPython 3.13 on, a command's tracebacks show its lines."""
    import linecache

    register = getattr(linecache, "_register_code", None)
    if register is not None:
        by_code = hasattr(linecache, "_interactive_cache")  # 3.13 has them by the name of the file
        register(code if by_code else "<string>", text, "<string>")


def run_program(run: Callable[[], object], names: dict[str, Any], named: bool) -> None:
    """Run it to its end, and report what leaves it as the interpreter does."""
    from greenio._outermost import FILE_GOES_FIRST, print_outermost

    def forget_file() -> None:
        if named:
            names.pop("__file__", None)
            names.pop("__cached__", None)

    raised: BaseException | None = None
    try:
        run()
    except BaseException as error:
        raised = without_our_frames(error)
    note_status(raised)
    if FILE_GOES_FIRST:
        forget_file()
    goes_on = bool(sys.flags.inspect or (not sys.flags.ignore_environment and os.environ.get("PYTHONINSPECT")))
    if isinstance(raised, SystemExit) and not sys.flags.inspect:
        raise raised
    if raised is not None:
        if not sys.flags.dev_mode:
            leave_out_stand_ins(raised)
        print_outermost(raised)
    forget_file()  # an interactive session and atexit's functions run without it
    if isinstance(raised, KeyboardInterrupt):
        raised = None
        note_interrupt()
    elif raised is not None and not goes_on:
        raised = None
        raise SystemExit(1)


def note_status(raised: BaseException | None) -> None:
    """For an exit that has to do without the interpreter's end."""
    from greenio import _run

    if isinstance(raised, SystemExit):
        _run.exit_status = raised.code & 0xFF if isinstance(raised.code, int) else int(raised.code is not None)
    else:
        _run.exit_status = 0 if raised is None else 130 if isinstance(raised, KeyboardInterrupt) else 1


def without_our_frames(error: BaseException) -> BaseException:
    ours = {__file__, prepare.__code__.co_filename}
    traceback = error.__traceback__
    while traceback is not None and (
        traceback.tb_frame.f_code.co_filename in ours
        or traceback.tb_frame.f_code.co_filename.endswith("_outermost.pyx")
    ):
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def leave_out_stand_ins(error: BaseException) -> None:
    """End tracebacks where the program calls what blocks in the standard library: there that has no frames, and ours has.

    Not for errors of greenio's own. Python's development mode (-X dev) shows all of them.
    """
    from greenio import GreenioError

    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen or isinstance(each, GreenioError):
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        last = None  # the innermost entry that is not ours
        traceback = each.__traceback__
        while traceback is not None:
            if not is_stand_in(traceback.tb_frame.f_code.co_filename):
                last = traceback
            traceback = traceback.tb_next
        if last is not None:
            last.tb_next = None


def is_stand_in(file: str) -> bool:
    return file.startswith((os.path.join(os.path.dirname(__file__), ""), "greenio/"))


def note_interrupt() -> None:
    """Let the interpreter die of SIGINT in the end, as it does after an unhandled KeyboardInterrupt: exec of text notes it."""
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        pass


# --- commands --------------------------------------------------------------------------------------------------------


def patch(parser: argparse.ArgumentParser, only: list[str] | None, without: list[str] | None) -> None:
    from greenio import monkey

    if only is not None and without is not None:
        parser.error("--patch and --no-patch exclude each other")
    option = "--patch" if only is not None else "--no-patch"
    try:
        if only is not None and "all" not in only:
            monkey.patch_only(only)
        elif without is None or "all" not in without:
            monkey.patch_all(**dict.fromkeys(without or (), False))
    except TypeError as error:
        parser.error(f"argument {option}: {error}")


def run_command(arguments: list[str]) -> None:
    """python -m greenio run ..."""
    import greenio
    from greenio.testing import RandomSchedule, VirtualClock

    parser = make_parser()
    options, program = split_arguments(arguments, parser)
    chosen = parser.parse_args(options)
    try:
        greenio.enter_run(
            stack_size=chosen.stack_size,
            clock=VirtualClock() if chosen.virtual_clock else None,
            schedule=None if chosen.seed is None else RandomSchedule(chosen.seed),
            dump_signal=chosen.dump_signal,
            stall=chosen.stall,
            stall_after=chosen.stall_after,
            stall_threads=chosen.stall_threads,
            slice=chosen.slice,
            switch_interval=chosen.switch_interval,
        )
    except (RuntimeError, OSError) as error:
        parser.error(f"argument --dump-signal: {error}")  # what else could be in the way was refused above
    except ValueError as error:
        parser.error(str(error))
    patch(parser, chosen.patch, chosen.no_patch)
    if program.kind == "stdin" and not program.what and sys.stdin is not None and sys.stdin.isatty():
        begin_interactive()
        return
    run = prepare(program)
    names = vars(sys.modules["__main__"])
    run_program(run, names, "__file__" in names)


def begin_interactive() -> None:
    """Let the interpreter begin its interactive session when we have returned, as `python` alone does."""
    new_main()
    prepend_path("")
    sys.argv = [""]
    if not sys.flags.inspect:
        os.environ["PYTHONINSPECT"] = "1"
        hook = getattr(sys, "__interactivehook__", None)

        def begin() -> None:
            os.environ.pop("PYTHONINSPECT", None)  # it is for this process
            if hook is not None:
                sys.__interactivehook__ = hook
                hook()

        sys.__interactivehook__ = begin
    if not sys.flags.quiet:
        print(f"Python {sys.version} on {sys.platform}, greenio", file=sys.stderr)


COMMANDS: dict[str, Callable[[list[str]], None]] = {"run": run_command}


def main() -> None:
    arguments = sys.argv[1:]
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        command(arguments[1:])
    else:
        run_command(arguments)


if __name__ == "__main__":
    main()
