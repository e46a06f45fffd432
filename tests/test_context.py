"""The context switch, asm/: what survives it, what crosses it, how it looks to those who walk stacks.

No greenio is needed, only its assembly: fibers of plain C (tests/native/context_probe.c) run on it, and everything
they find in their registers is compared here. Each instruction of the switch is also stepped through, once by the
processor's trap flag with a walk as C++ exceptions do it, once by gdb.

GREENIO_CONTEXT_SOURCE names another assembly file to test; mutate_context.py uses it.
"""

import importlib.util
import itertools
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "native"
ASM = HERE.parent / "greenio" / "asm"
SOURCE = Path(os.environ.get("GREENIO_CONTEXT_SOURCE") or ASM / "x86_64_sysv.S")

CALLABLE = ("greenio_context_initialize", "greenio_context_resume")
SYMBOLS = (*CALLABLE, "greenio_context_trampoline", "greenio_context_terminate_abnormally")

FILL = struct.Struct("<IHxx8Q")  # struct registers in context_probe.h
REGISTERS = ("rbx", "rbp", "r12", "r13", "r14", "r15")
MXCSR_CONTROL = 0xFFC0  # bits 0 to 5 are sticky exception flags
INITIAL_MXCSR = 0x1F80
INITIAL_X87 = 0x037F

# A child that crashes on purpose leaves no core file behind.
NO_CORE = "ulimit -c 0; exec "


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load("greenio_tests_native_build", NATIVE / "build.py")


def tool(*names, package):
    try:
        return build.find_tool(*names, package=package)
    except build.ToolMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("context")


@pytest.fixture(scope="session")
def context_object(workdir):
    """The assembly, compiled alone."""
    try:
        return build.compile_object(SOURCE, [ASM], workdir)
    except build.ToolMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def probe_path(workdir):
    sources = [SOURCE, NATIVE / "context_probe.S", NATIVE / "context_probe.c", NATIVE / "context_throw.cpp"]
    try:
        return build.build_extension("context_probe", sources, [ASM, NATIVE], workdir)
    except build.ToolMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def probe(probe_path):
    return _load("context_probe", probe_path)


@pytest.fixture(scope="session")
def walk_program(workdir):
    sources = [SOURCE, NATIVE / "context_walk.c"]
    try:
        return build.build_program("context_walk", sources, [ASM], workdir, flags=["-O0", "-fno-omit-frame-pointer"])
    except build.ToolMissing as missing:
        pytest.skip(str(missing))


def run_child(*command):
    line = NO_CORE + shlex.join(map(str, command))
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)


# What survives a switch


def fill(*, mxcsr=INITIAL_MXCSR, x87=INITIAL_X87, number=0, scratch=0, rbx=None):
    """Control words, and a value in each register that no other register, side or round has."""
    values = [0x1111_0000_0000_0000 + number * 0x1_0000_0000 + index * 0x101 for index in range(1, 7)]
    if rbx is not None:
        values[0] = rbx
    return FILL.pack(mxcsr, x87, *values, scratch, 0)


def words(packed):
    """Each fill's or find's control words and registers, without the sticky flags and what only goes one way."""
    return [
        {"mxcsr": mxcsr & MXCSR_CONTROL, "x87": x87, **dict(zip(REGISTERS, rest[:6], strict=True))}
        for mxcsr, x87, *rest in FILL.iter_unpack(packed)
    ]


def exchange(probe, main, fiber):
    """Both sides fill, switch and look, round by round; all must find what they had."""
    main_found, fiber_found, *_ = probe.exchange(b"".join(main), b"".join(fiber), False)
    assert words(main_found) == words(b"".join(main))
    assert words(fiber_found) == words(b"".join(fiber))


def test_callee_saved_registers_survive(probe):
    numbers = itertools.count(1)
    exchange(probe, [fill(number=next(numbers)) for _ in range(50)], [fill(number=next(numbers)) for _ in range(50)])


def test_rounding_modes_and_x87_precision_survive(probe):
    rounding = (0x0000, 0x2000, 0x4000, 0x6000)
    precision = (0x0000, 0x0200, 0x0300)
    modes = [(INITIAL_MXCSR | r, 0x007F | p | r >> 3) for r in rounding for p in precision]
    pairs = list(itertools.product(modes, modes))
    exchange(
        probe,
        [fill(mxcsr=mxcsr, x87=x87, number=2 * i) for i, ((mxcsr, x87), _) in enumerate(pairs)],
        [fill(mxcsr=mxcsr, x87=x87, number=2 * i + 1) for i, (_, (mxcsr, x87)) in enumerate(pairs)],
    )


@pytest.mark.parametrize("bit", range(6, 16))
def test_each_mxcsr_control_bit_survives_alone(probe, bit):
    exchange(probe, [fill(number=1)], [fill(mxcsr=INITIAL_MXCSR ^ 1 << bit, number=2)])
    exchange(probe, [fill(mxcsr=INITIAL_MXCSR ^ 1 << bit, number=1)], [fill(number=2)])


@pytest.mark.parametrize("bit", [*range(6), *range(8, 13)])
def test_each_x87_control_bit_survives_alone(probe, bit):
    exchange(probe, [fill(number=1)], [fill(x87=INITIAL_X87 ^ 1 << bit, number=2)])
    exchange(probe, [fill(x87=INITIAL_X87 ^ 1 << bit, number=1)], [fill(number=2)])


def test_all_exceptions_unmasked_survives(probe):
    exchange(probe, [fill(mxcsr=0, x87=0x0340, number=1)] * 3, [fill(number=2)] * 3)
    exchange(probe, [fill(number=1)] * 3, [fill(mxcsr=0, x87=0x0340, number=2)] * 3)


@pytest.mark.parametrize("scratch", [0x1FBF, 0x5FBF, 0x0C7F, 0x5FBF ^ 0x1F80])
def test_control_words_survive_whatever_the_scratch_register_held(probe, scratch):
    main = fill(mxcsr=0x1F80, x87=0x037F, number=1, scratch=scratch)
    exchange(probe, [main] * 2, [fill(mxcsr=0x5F80, x87=0x0C7F, number=2, scratch=scratch ^ 0x4000)] * 2)


def test_x87_control_word_survives_where_the_mxcsr_difference_looks_like_it(probe):
    x87 = 0x0C7F
    exchange(probe, [fill(number=1)] * 2, [fill(mxcsr=INITIAL_MXCSR ^ x87, x87=x87, number=2)] * 2)


def test_control_words_are_compared_with_each_other_and_nothing_beside_them(probe):
    """Whatever else lies in either context looks like the other side's words: loaded they must be, all the same."""
    main_words, fiber_words = (0x1F80, 0x0C7F), (0x5F80, 0x037F)
    main = fill(mxcsr=main_words[0], x87=main_words[1], number=1, rbx=fiber_words[1] << 32 | fiber_words[0])
    fiber = fill(mxcsr=fiber_words[0], x87=fiber_words[1], number=2, rbx=main_words[1] << 32 | main_words[0])
    exchange(probe, [main] * 2, [fiber] * 2)
    # One side's MXCSR is the other's x87 control word.
    exchange(probe, [fill(x87=0x1F7F, number=1)] * 2, [fill(mxcsr=0x1F7F, number=2)] * 2)


# What a new context starts with


def test_an_entry_starts_with_the_initial_control_words(probe):
    for mxcsr, x87 in [(INITIAL_MXCSR, INITIAL_X87), (0xFFC0, 0x0C7F), (0x7F80, 0x027F), (0x0000, 0x0340)]:
        found = probe.first_entry(mxcsr, x87, 1)
        assert found["mxcsr"] & MXCSR_CONTROL == INITIAL_MXCSR
        assert found["x87_control_word"] == INITIAL_X87


def test_an_entry_starts_with_an_aligned_stack(probe):
    found = probe.first_entry(INITIAL_MXCSR, INITIAL_X87, 1)  # it makes an aligned store, too
    assert found["rsp"] % 16 == 8
    assert found["base"] - 80 <= found["rsp"] < found["base"]


def test_an_entry_starts_with_the_end_of_the_frame_pointers(probe):
    assert probe.first_entry(INITIAL_MXCSR, INITIAL_X87, 1)["rbp"] == 0


def test_an_entry_returns_to_terminate_abnormally(probe):
    found = probe.first_entry(INITIAL_MXCSR, INITIAL_X87, 1)
    assert found["return_address"] == probe.addresses()["greenio_context_terminate_abnormally"]


def test_a_new_context_is_what_the_header_says(probe):
    found, address = probe.first_entry(0x7F80, 0x027F, 1), probe.addresses()
    below, untouched = found["below"], b"\xa5"
    offset = found["context"] - (found["base"] - len(below))
    assert found["context"] % 16 == 0
    assert len(below) - offset <= 80
    assert below[:offset] == untouched * offset
    mxcsr, x87, _, rbx, rbp, *_, resume_address = struct.unpack_from("<IHH7Q", below, offset)
    assert (mxcsr, x87) == (INITIAL_MXCSR, INITIAL_X87)
    assert rbx == address["context_probe_first_entry"]
    assert rbp == address["greenio_context_terminate_abnormally"]
    assert resume_address == address["greenio_context_trampoline"]


# What crosses a switch


@pytest.mark.parametrize("data", [0, 1, 0x0123_4567_89AB_CDEF, 2**64 - 1])
def test_the_first_entry_gets_the_transfer_as_its_arguments(probe, data):
    found = probe.first_entry(INITIAL_MXCSR, INITIAL_X87, data)
    assert found["rsi"] == found["rdx"] == data
    assert found["rdi"] == found["rax"] != 0
    assert not found["base"] - 65536 <= found["rdi"] < found["base"], "main's context is not on the fiber's stack"
    assert found["back_data"] == data
    assert found["base"] - 65536 <= found["back_context"] < found["base"]


@pytest.mark.parametrize("fibers", [1, 2, 7])
def test_transfers_name_who_resumed_and_carry_its_data(probe, fibers):
    laps, data = 9, 0x0123_4567_89AB
    expected = []
    for _ in range(laps):
        for receiver in [*range(fibers), None]:
            sender = fibers if receiver == 0 else fibers - 1 if receiver is None else receiver - 1
            expected.append((sender, data))
            if receiver is not None:
                data = (data * 3 + receiver) % 2**64
    assert probe.transfers(fibers, laps, 0x0123_4567_89AB) == expected


# How it ends


def test_an_entry_that_returns_dies_of_sigill_there_and_then(walk_program):
    done = run_child(walk_program, "return")
    assert done.stdout.splitlines() == ["in terminate_abnormally", "rsp at base", "one frame", "walk ends at base"]
    assert done.returncode == -signal.SIGILL
    assert done.stderr == ""


# Who walks stacks


@pytest.mark.parametrize("depth", [0, 1, 20])
def test_walkers_end_at_the_base_of_a_running_fiber(probe, depth):
    base = probe.addresses()["greenio_context_terminate_abnormally"]
    unwound, ended, traced = probe.walk(depth)
    assert ended
    for ips in (unwound, traced):
        assert len(ips) == depth + 3  # depth + 1 levels, the entry, the base
        assert ips[-1] == base
        assert base not in ips[:-1]


def test_cpp_exceptions_are_caught_in_fibers_between_switches(probe):
    assert probe.throw_and_catch(10, 20) is None


def test_an_uncaught_cpp_exception_terminates(probe_path):
    done = run_child(
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(probe_path.parent)!r})\n"
        "import context_probe; context_probe.throw_uncaught()",
    )
    assert done.returncode == -signal.SIGABRT
    assert "nobody catches me" in done.stderr


@pytest.fixture(scope="session")
def extents(context_object):
    """{symbol: (offset in .text, bytes)}, of the assembly alone."""
    return {
        name: (symbol["value"], symbol["size"])
        for name, symbol in symbols_of(context_object).items()
        if symbol["type"] == "FUNC"
    }


def test_walks_are_right_from_each_instruction(probe, extents):
    """Step through it all: at each instruction, the rules lead to the caller on this stack, and to its registers."""
    rounds = 3
    # Control words that differ in one round and not in the next: each branch is taken once, and once not.
    main = [fill(mxcsr=INITIAL_MXCSR | 0x2000 * (i % 2), x87=0x027F, number=2 * i) for i in range(rounds)]
    fiber = [fill(mxcsr=INITIAL_MXCSR, x87=0x027F | 0x0100 * (i % 2), number=2 * i + 1) for i in range(rounds)]
    main_found, fiber_found, steps, limit, base = probe.exchange(b"".join(main), b"".join(fiber), True)
    assert words(main_found) == words(b"".join(main)), "stepping changed something"
    assert words(fiber_found) == words(b"".join(fiber)), "stepping changed something"

    address = probe.addresses()
    load_bias = address["greenio_context_resume"] - extents["greenio_context_resume"][0]
    seen = {name: set() for name in SYMBOLS}
    resumes = {"main": 0, "fiber": 0}  # how often each side has entered resume: tells which fill it has
    started = False
    for pc, sp, ips, caller_registers, caller_sp, outermost_cfa in steps:
        name = next((n for n, (at, size) in extents.items() if 0 <= pc - load_bias - at < size), None)
        if name is None:
            continue
        offset = pc - address[name]
        seen[name].add(offset)
        side = "fiber" if limit <= sp <= base else "main"
        where = f"at {name}+{offset:#x} on the side of {side}"
        assert ips[0] == pc, where

        if side == "fiber":
            assert outermost_cfa == base, where
        if name == "greenio_context_initialize":
            assert ips[1] == address["context_probe_initialize_return"], where
        elif name == "greenio_context_trampoline":
            started = True
            assert len(ips) == 1, where
        elif name == "greenio_context_resume":
            if offset == 0:
                resumes[side] += 1
            if side == "fiber" and not started:
                assert ips[1:] == (address["greenio_context_trampoline"],), where
                assert caller_sp == base, where
                continue
            assert ips[1] == address["context_probe_resume_return"], where
            expected = words((main, fiber)[side == "fiber"][resumes[side] - 1])[0]
            assert dict(zip(REGISTERS, caller_registers, strict=True)) == {r: expected[r] for r in REGISTERS}, where
            if side == "fiber":
                # resume, the probe, two nested functions and the entry, the base
                assert len(ips) == 6, where
                assert ips[-1] == address["greenio_context_terminate_abnormally"], where
    assert started
    assert len(seen["greenio_context_initialize"]) >= 8
    assert len(seen["greenio_context_trampoline"]) >= 3
    assert len(seen["greenio_context_resume"]) >= 30


# What is in the files


def readelf(*arguments):
    path = tool("readelf", package="binutils")
    done = subprocess.run([path, "-W", *arguments], capture_output=True, text=True, check=True, timeout=30)
    assert "corrupt" not in done.stdout.lower(), done.stdout
    assert done.stderr == ""
    return done.stdout


def symbols_of(path):
    """{name: {value, size, type, bind, visibility, section}}"""
    found = {}
    for line in readelf("-s", path).splitlines():
        columns = line.split()
        if len(columns) == 8 and columns[0].rstrip(":").isdigit():
            _, value, size, kind, bind, visibility, section, name = columns
            found[name] = {
                "value": int(value, 16),
                "size": int(size, 0),
                "type": kind,
                "bind": bind,
                "visibility": visibility,
                "section": section,
            }
    return found


def section_of(path, name):
    """Its bytes, and the flags and the alignment that readelf shows."""
    columns = re.search(rf"\] {re.escape(name)}\s+(.*)", readelf("-S", path)).group(1).split()
    _, _, offset, size, _, *flags, _, _, alignment = columns
    start = int(offset, 16)
    return path.read_bytes()[start : start + int(size, 16)], "".join(flags), int(alignment)


def test_symbols_are_hidden_functions(context_object, probe_path):
    found = symbols_of(context_object)
    for name in SYMBOLS:
        assert (found[name]["type"], found[name]["bind"], found[name]["visibility"]) == ("FUNC", "GLOBAL", "HIDDEN")
    assert {name for name, symbol in found.items() if symbol["bind"] == "GLOBAL"} == set(SYMBOLS)
    assert "greenio" not in readelf("--dyn-syms", probe_path)


def test_symbols_span_their_routines(context_object, extents):
    text, *_ = section_of(context_object, ".text")
    last_bytes = {
        "greenio_context_initialize": b"\xc3",  # ret
        "greenio_context_resume": b"\xc3",
        "greenio_context_trampoline": b"\xff\xe3\x90",  # jmp rbx, nop
        "greenio_context_terminate_abnormally": b"\x0f\x0b",  # ud2
        "greenio_context_base": b"\x90",
    }
    assert extents.keys() == last_bytes.keys()
    ends = set()
    for name, expected in last_bytes.items():
        at, size = extents[name]
        assert size > 0
        assert text[at : at + size].endswith(expected), name
        ends.add(at + size)
    # What an unwinder looks up, the byte before a return address, belongs to the fiber's base by name.
    assert extents["greenio_context_trampoline"][0] in ends
    assert extents["greenio_context_terminate_abnormally"][0] in ends


def test_callable_routines_start_with_a_branch_target(context_object, extents):
    text, *_ = section_of(context_object, ".text")
    for name in CALLABLE:
        at = extents[name][0]
        assert text[at : at + 4] == b"\xf3\x0f\x1e\xfa", f"{name} has no endbr64"


def test_no_indirect_branch_escapes_tracking(context_object):
    objdump = tool("objdump", package="binutils")
    done = subprocess.run([objdump, "-d", context_object], capture_output=True, text=True, check=True, timeout=30)
    assert "notrack" not in done.stdout


def test_the_note_claims_branch_tracking_and_no_shadow_stack(workdir, context_object):
    # Linked alone: in a shared object the note says what all parts have in common, the compiler's own included.
    alone = workdir / "alone.so"
    command = [build.compiler_for([]), "-nostdlib", "-shared", context_object, "-o", alone]
    subprocess.run(command, check=True, timeout=30)
    for path in (context_object, alone):
        properties = re.findall(r"Properties: (.*)", readelf("-n", path))
        assert len(properties) == 1
        assert properties[0].startswith("x86 feature: IBT")
        assert "SHSTK" not in properties[0]
    # As the loader demands.
    assert re.search(r"GNU_PROPERTY .* R   0x8$", readelf("-l", alone), re.MULTILINE)
    note, flags, alignment = section_of(context_object, ".note.gnu.property")
    assert (flags, alignment) == ("A", 8)
    # The sizes of name and properties, NT_GNU_PROPERTY_TYPE_0; GNU_PROPERTY_X86_FEATURE_1_AND, its size, IBT, padding
    assert struct.unpack_from("<III4sIIII", note) == (4, 16, 5, b"GNU\0", 0xC0000002, 4, 1, 0)


def test_no_stack_is_made_executable(context_object, probe_path, walk_program):
    assert section_of(context_object, ".note.GNU-stack") == (b"", "", 1)
    for path in (probe_path, walk_program):
        flags = re.search(r"GNU_STACK(?:\s+0x\w+){5}\s+(\S+)", readelf("-l", path)).group(1)
        assert flags == "RW", path.name


# gdb

FRAME = re.compile(r"^#\d+\s+(?:0x[0-9a-f]+ in )?(\S+) \(", re.MULTILINE)

PARK = """
set $c = looked_at
set $new_rbx = $c->rbx
set $new_rbp = $c->rbp
set $new_r12 = $c->r12
set $new_r13 = $c->r13
set $new_r14 = $c->r14
set $new_r15 = $c->r15
set $new_pc = $c->resume_address
set $new_sp = (unsigned long)$c + 0x40
set $rbx = $new_rbx
set $rbp = $new_rbp
set $r12 = $new_r12
set $r13 = $new_r13
set $r14 = $new_r14
set $r15 = $new_r15
set $rsp = $new_sp
set $pc = $new_pc
"""


def gdb(workdir, program, mode, script):
    """Run gdb's *script* on the program; what it prints, in parts that begin with ==, and all of it."""
    path = tool("gdb", package="gdb")
    file = workdir / "script.gdb"
    file.write_text(f"set pagination off\nset width 0\nset confirm off\n{script}\nkill\n")
    command = [path, "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-x", file, "--args", program, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace: Operation not permitted" in done.stderr:
        pytest.skip("gdb may not trace here (ptrace: Operation not permitted)")
    return done.stdout.split("==")[1:], done.stdout + done.stderr


def frames(text):
    return FRAME.findall(text)


FIBER_FRAMES = ["inner", "outer", "entry", "greenio_context_trampoline"]


@pytest.mark.slow
def test_gdb_backtraces_end_at_the_base(workdir, walk_program):
    stops = ("fiber_is_unstarted", "fiber_is_parked", "fiber_is_running", "fiber_is_parked_again")
    script = "\n".join(f"break {name}" for name in stops) + "\nrun\n"
    parked = f"echo ==\\n\n{PARK}bt\n"
    # Looking at a stopped context changes the registers: each look is the last of its own run.
    parts, output = gdb(
        workdir,
        walk_program,
        "switch",
        f"{script}{parked}run\ncontinue\n{parked}run\ncontinue\ncontinue\necho ==\\n\nbt\ncontinue\n{parked}",
    )
    assert len(parts) == 4, output
    unstarted, parked_once, running, parked_again = (frames(part.partition("Breakpoint")[0]) for part in parts)
    assert unstarted == ["greenio_context_trampoline"], output
    assert parked_once == FIBER_FRAMES, output
    assert running == ["fiber_is_running", *FIBER_FRAMES], output
    assert parked_again == FIBER_FRAMES, output


@pytest.mark.slow
def test_gdb_backtraces_are_right_at_each_instruction(workdir, walk_program, extents):
    bounds = [(name, size) for name, (_, size) in extents.items() if name in SYMBOLS]
    inside = " || ".join(f"($pc >= (long)&{name} && $pc < (long)&{name} + {size})" for name, size in bounds)
    _, output = gdb(
        workdir,
        walk_program,
        "switch",
        "break *(long)&greenio_context_initialize\nrun\ndelete\n"
        "set $left = 2000\n"
        "while $left > 0 && $pc != (long)&fiber_is_parked_again\n"
        "set $left = $left - 1\n"
        f"if {inside}\n"
        'printf "==%d\\n", $rsp >= (long)&stack && $rsp <= (long)&stack + sizeof(stack)\n'
        "bt\n"
        "end\n"
        "stepi\n"
        "end\n",
    )
    main, started, count = ["switches", "main"], False, 0
    for part in output.split("==")[1:]:
        on_fiber, found = part.startswith("1"), frames(part)
        count += 1
        match found[:1]:
            case ["greenio_context_initialize"]:
                expected = main
            case ["greenio_context_trampoline"]:
                expected, started = [], True
            case ["greenio_context_resume"]:
                expected = main if not on_fiber else FIBER_FRAMES if started else ["greenio_context_base"]
            case _:
                pytest.fail(f"no frame of the switch: {part}")
        assert found[1:] == expected, part
    assert started, output
    assert 100 < count < 2000, output


@pytest.mark.slow
def test_gdb_backtrace_of_an_entry_that_returned(workdir, walk_program):
    parts, output = gdb(workdir, walk_program, "return", "run\necho ==\\n\nbt\n")
    assert "SIGILL" in output
    assert [frames(part) for part in parts] == [["greenio_context_terminate_abnormally"]], output
