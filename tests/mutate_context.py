"""Break the context switch line by line and see that test_context.py notices each time.

    python tests/mutate_context.py                 all mutants, about three minutes on two cores
    python tests/mutate_context.py --list          what would be tried
    python tests/mutate_context.py --only 12 40    some of them, by number
    python tests/mutate_context.py --part 2/3      every third of them, from the second on; 1/3, 2/3 and 3/3 are all

A mutant is the assembly with one line deleted, or with one detail of it wrong: another offset, register, constant,
condition or unwind rule. Each is built into the probes of tests/native and tested in a process of its own; at least
one test must fail, crash or hang. What the assembler refuses needs no test. What no test could tell from the original
stands in EQUIVALENT, with the reason.

Exit status: 0 if every mutant dies, 1 if one survives, 2 if the tests do not even pass on the original, or skip some.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import importlib.util
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "greenio" / "asm" / "x86_64_sysv.S"
TIME_LIMIT_S = 30  # for one mutant; the tests take about 3 s when none fails, more on a busy machine

# (line, what it becomes or None for deleted): why nothing can tell the two apart.
EQUIVALENT: dict[tuple[str, str | None], str] = {
    (".text", None): "the section an assembler starts in",
    (".p2align 4", None): "a hint for speed: routines start on a cache line of their own",
    ("jz .Lsame_mxcsr", None): "a shortcut: loads an equal MXCSR",
    ("test ecx, 0xFFFFFFC0", None): "a shortcut: also loads MXCSR where only its sticky flags differ",
    ("je .Lsame_x87_control_word", None): "a shortcut: loads an equal x87 control word",
    ("mov dword ptr [rax + 0x04], 0x037F", "mov word ptr [rax + 0x04], 0x037F"): "nobody reads the padding",
}

REGISTER_MIXUPS = {
    "rbx": "rbp", "rbp": "rbx", "ebp": "ebx", "r12": "r13", "r13": "r12", "r14": "r15", "r15": "r14",
    "rax": "rdx", "rdx": "rax", "rdi": "rsi", "rsi": "rdi", "rip": "rbx",
}  # fmt: skip

CONSTANTS = {
    "0x1F80": ["0x1F00", "0x5F80", "0x1FC0", "0x9F80"],
    "0x037F": ["0x027F", "0x0F7F", "0x037E"],
    "0xFFFFFFC0": [f"{0xFFFFFFC0 & ~(1 << bit):#010X}".replace("X", "x") for bit in range(6, 16)],
}

# Details of whole lines: what matches becomes each of these.
DETAILS = [
    (r"^jz\b", ["jnz", "jmp"]),
    (r"^je\b", ["jne", "jmp"]),
    (r"^stmxcsr\b", ["ldmxcsr"]),
    (r"^ldmxcsr\b", ["stmxcsr"]),
    (r"^fnstcw\b", ["fldcw"]),
    (r"^fldcw\b", ["fnstcw"]),
    (r"^push\b", ["pop"]),
    (r"^sub\b", ["add"]),
    (r"^add\b", ["sub"]),
    (r"^jmp rbx", ["jmp rbp", "call rbx"]),
    (r"^ret$", ["ret 8"]),
    (r"\bdword ptr\b", ["word ptr"]),
    (r"^\.hidden\b", [".protected"]),
    (r"@function$", ["@object"]),
    (r"^(\.size .*)$", [r"\1 - 1", r"\1 + 1"]),
    (r"^\.cfi_undefined rip$", [".cfi_same_value rip"]),
    (r"greenio_context_trampoline\]", ["greenio_context_base]", "greenio_context_terminate_abnormally]"]),
    (r"greenio_context_terminate_abnormally\]", ["greenio_context_trampoline]"]),
    (r"^\.section \.note\.GNU-stack.*", ['.section .note.GNU-stack, "x", @progbits']),
    (r'^(\.section \.note\.gnu\.property), "a"', [r'\1, ""']),
    (r"^\.long 1$", [".long 0", ".long 2", ".long 3"]),
    (r"^\.long 4$", [".long 8", ".long 0"]),
    (r"^\.long 5$", [".long 1"]),
    (r"^\.long 16$", [".long 12", ".long 24"]),
    (r"^\.long 0xC0000002$", [".long 0xC0008002"]),
    (r"^\.asciz .*", ['.asciz "GNV"']),
]


@dataclasses.dataclass
class Mutant:
    number: int
    line_number: int  # from 1
    line: str
    becomes: str | None  # None: deleted
    equivalent: str | None  # the reason, if no test can tell

    def __str__(self):
        what = "deleted" if self.becomes is None else f"-> {self.becomes}"
        return f"#{self.number} line {self.line_number}: {self.line}  {what}"


def code_lines(text):
    """(number, code without comments and repeated blanks) of each line that has code."""
    bare = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment.group().count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(bare.split("\n"), 1):
        if code := " ".join(line.split()):
            yield number, code


def variants(code):
    """The line deleted, and with one detail wrong."""
    yield None
    for pattern, replacements in DETAILS:
        for replacement in replacements:
            yield re.sub(pattern, replacement, code, count=1)
    for constant, others in CONSTANTS.items():
        for other in others:
            yield code.replace(constant, other)
    if code.startswith("."):
        if match := re.fullmatch(r"(\.cfi_\w+ (?:\w+, )?)(-?\w+)", code):
            head, value = match.groups()
            if re.fullmatch(r"-?(0x)?\d+", value):
                for step in (-8, 8):
                    yield f"{head}{int(value, 0) + step}"
    else:
        if match := re.search(r"([+-]) (0x\w\w)\]", code):
            value = int(match[2], 0)
            for other in (value - 8, value + 8, value ^ 4):
                if other >= 0:
                    yield code.replace(match[0], f"{match[1]} {other:#04x}]")
        if match := re.search(r", (0x38)$", code):
            for other in ("0x30", "0x40"):
                yield code.replace(match[1], other)
    if not code.startswith((".globl", ".hidden", ".type", ".size")):
        for register, other in REGISTER_MIXUPS.items():
            for match in re.finditer(rf"\b{register}\b", code):
                yield code[: match.start()] + other + code[match.end() :]


def mutants(text):
    made = []
    for line_number, code in code_lines(text):
        seen = {code}
        for becomes in variants(code):
            if becomes not in seen:
                seen.add(becomes)
                reason = EQUIVALENT.get((code, becomes))
                made.append(Mutant(len(made) + 1, line_number, code, becomes, reason))
    return made


def mutated(text, mutant):
    lines = text.split("\n")
    # A comment that begins or ends on this line stays whole: only the code goes.
    line = lines[mutant.line_number - 1]
    comment = line[line.index("/*") :] if "/*" in line else ""
    lines[mutant.line_number - 1] = f"{mutant.becomes or ''} {comment}"
    return "\n".join(lines)


def run_tests(source, folder, cache):
    """(exit status or None for a timeout, output) of the tests on this assembly."""
    environment = {
        **os.environ,
        "GREENIO_CONTEXT_SOURCE": str(source),
        "GREENIO_OBJECT_CACHE": str(cache),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # starts faster; the tests need none
    }
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "--noconftest", "-p", "no:cacheprovider"),
        *(f"--basetemp={folder / 'tmp'}", str(HERE / "test_context.py")),
    ]
    # A session of its own: whatever the tests started goes with them.
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=HERE.parent,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        return None, output
    return child.returncode, output


def fate(mutant, text, cache):
    """What became of a mutant: "refused", "survived", or the name of what noticed."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        source = folder / SOURCE.name
        source.write_text(mutated(text, mutant))
        try:
            build.compile_object(source, [SOURCE.parent], folder)
        except build.BuildFailed:
            return "refused"
        status, output = run_tests(source, folder, cache)
    if status is None:
        return "hung"
    if status < 0:
        return f"crashed: {signal.Signals(-status).name}"
    if status == 0:
        return "survived"
    if status != 1:
        raise RuntimeError(f"pytest did not run (exit status {status}) for {mutant}:\n{output}")
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE)
    return failed[1] if failed else "failed"


def load_build():
    spec = importlib.util.spec_from_file_location("greenio_tests_native_build", HERE / "native" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def part(text):
    """(K, N) of "K/N"."""
    first, step = map(int, text.split("/"))
    if not 1 <= first <= step:
        raise ValueError(text)
    return first, step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    parser.add_argument("--only", nargs="+", type=int, metavar="NUMBER", help="these mutants only")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="K/N", help="every Nth of them, from the Kth on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time (default: one a core)")
    parser.add_argument("--verbose", action="store_true", help="say for each mutant what noticed it")
    options = parser.parse_args()

    text = SOURCE.read_text()
    made = mutants(text)
    stale = set(EQUIVALENT) - {(mutant.line, mutant.becomes) for mutant in made}
    if stale:
        print(f"EQUIVALENT names what is no mutant any more: {sorted(map(str, stale))}")
        return 2
    if options.list:
        for mutant in made:
            print(mutant, f"   ({mutant.equivalent})" if mutant.equivalent else "")
        return 0

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutate-context-") as name:
        cache = Path(name)
        status, output = run_tests(SOURCE, cache, cache)
        if status != 0 or "skipped" in output:
            print(f"the original must pass every test, and skip none:\n{output}")
            return 2

        tried = [m for m in made if not m.equivalent and (not options.only or m.number in options.only)]
        first, step = options.part
        tried = tried[first - 1 :: step]
        fates = collections.Counter()
        survivors = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, end in zip(tried, pool.map(lambda m: fate(m, text, cache), tried), strict=True):
                fates[end] += 1
                if end == "survived":
                    survivors.append(mutant)
                    print(f"SURVIVED {mutant}", flush=True)
                elif options.verbose:
                    print(f"{mutant}   [{end}]", flush=True)

    for end, count in fates.most_common():
        print(f"{count:5} {end}")
    equivalent = sum(1 for mutant in made if mutant.equivalent)
    refused = fates["refused"]
    print(
        f"{len(tried)} mutants: {len(tried) - refused - len(survivors)} noticed by the tests, {refused} refused by the "
        f"assembler, {len(survivors)} survived; {equivalent} equivalent ones not tried; "
        f"{time.monotonic() - began:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
