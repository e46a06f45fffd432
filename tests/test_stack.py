"""The memory of stacks, stack.c, and what happens when one runs out, overflow.c.

No greenio is needed: tests/native/stack_probe.c makes an extension of the two files alone. Guards, pools and handlers
are one to a process, and much of this ends in SIGSEGV, so each test is a script in an interpreter of its own; it finds
the extension as `probe`, and what PRELUDE defines. Assertions about what it found are in the script, those about its
end here.
"""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
GREENIO = HERE.parent / "greenio"

PRELUDE = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path.insert(0, os.path.dirname(__file__))
import stack_probe as probe

K, M, PAGE = 1024, 1024 * 1024, 4096
SIZE = 256 * K
SIZE_CLASS = 2
HOT_PAGE = 3 * K  # at most so much of the C stack is in the hot page; the rest of the stack is SIZE

def mappings():
    # [(start, end, resident bytes)]: pages that were only read are not resident, they are the kernel's zero page
    found = []
    with open("/proc/self/smaps") as lines:
        for line in lines:
            words = line.split()
            if words[0] == "Rss:":
                found[-1] = (*found[-1], int(words[1]) * K)
            elif not words[0].endswith(":"):
                found.append(tuple(int(end, 16) for end in words[0].split("-")))
    return found

def resident(stack):
    # of the slab that the slot is in, bytes
    limit, size_class = probe.block(stack)["limit"], probe.block(stack)["size_class"]
    slot_bytes = stats(size_class)["slot_bytes"]
    start = end = limit - probe.GUARD_BYTES
    while probe.locate(start - 1) is not None:
        start -= slot_bytes
    while probe.locate(end) is not None:
        end += slot_bytes
    return sum(rss for first, last, rss in mappings() if last > start and first < end)

def is_zero(address, count):
    return probe.peek(address, count) == bytes(count)

def stats(size_class=SIZE_CLASS):
    return probe.stats(size_class)

def check_sums():
    for i in range(17):
        s = stats(i)
        assert sum(s["guards"]) == s["in_use"] + s["pooled"] + s["cold"], s
        assert s["reserved_bytes"] % s["slot_bytes"] == 0, s
        assert s["reserved_bytes"] >= sum(s["guards"]) * s["slot_bytes"], s
        assert s["in_use_peak"] >= s["in_use"] and s["acquired_total"] >= s["reused_total"], s
        assert (s["slabs"] == 0) == (s["reserved_bytes"] == 0), s
    assert len(probe.in_use()) == sum(stats(i)["in_use"] for i in range(17))
"""

MADVISE, MPROTECT, CANARY = range(3)
REPORT = "greenio: C stack overflow: "
SIZE_TEXT = "(262144 bytes usable; see stack_size= of run and spawn, and on_big_stack)"
FATAL = "Fatal Python error: Segmentation fault"


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load("greenio_tests_native_build", HERE / "native" / "build.py")


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stack")
    sources = [HERE / "native" / "stack_probe.c", GREENIO / "stack.c", GREENIO / "overflow.c"]
    try:
        # A checking siglongjmp would object to leaving a fiber's stack; a hang while describing ends after a second.
        build.build_extension(
            "stack_probe", sources, [GREENIO], workdir, flags=["-U_FORTIFY_SOURCE", "-DGREENIO_DESCRIBE_SECONDS=1"]
        )
    except build.ToolMissing as missing:
        pytest.skip(str(missing))
    return workdir


def _command(workdir, script):
    path = workdir / "script.py"  # a file, so that tracebacks quote it
    path.write_text(PRELUDE + script)
    return [sys.executable, "-I", "-S", str(path)]


@pytest.fixture
def run(workdir):
    """Run a script in a child: run(script, ends=...) checks how it ended, and returns what it wrote to stderr."""

    def run(script, *, ends=0, timeout=60):
        child = subprocess.run(
            _command(workdir, script),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert child.returncode == ends, f"ended with {child.returncode}\n{child.stdout}{child.stderr}"
        return child.stderr

    return run


@pytest.fixture(scope="session")
def has_guard_madvise(workdir):
    command = _command(workdir, "probe.init(1, -1); sys.exit(probe.guard_kind())")
    return subprocess.run(command, timeout=60, check=False).returncode == MADVISE


@pytest.fixture(params=[MADVISE, MPROTECT, CANARY], ids=["madvise", "mprotect", "canary"])
def kind(request, has_guard_madvise):
    if request.param == MADVISE and not has_guard_madvise:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
    return request.param


@pytest.fixture(params=[MADVISE, MPROTECT], ids=["madvise", "mprotect"])
def faulting_kind(request, has_guard_madvise):
    if request.param == MADVISE and not has_guard_madvise:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
    return request.param


def died(run, script):
    return run(script, ends=-signal.SIGSEGV)


# ---- slots -----------------------------------------------------------------------------------------------------------


def test_sizes_are_rounded_to_powers_of_two(run):
    run("""
for asked, got in [(0, 64 * K), (1, 64 * K), (64 * K, 64 * K), (64 * K + 1, 128 * K), (200_000, SIZE), (SIZE, SIZE),
                   (M + 1, 2 * M), (1 << 32, 1 << 32), ((1 << 32) + 1, 0), (1 << 63, 0), ((1 << 64) - 1, 0)]:
    assert probe.round(asked) == got, (asked, probe.round(asked))
for asked in (0, 65 * K, SIZE, 8 * M, 1 << 32):
    stack = probe.acquire(asked)
    b = probe.block(stack)
    assert stats(b["size_class"])["stack_bytes"] == probe.round(asked)
    assert b["base"] - b["limit"] >= probe.round(asked)
try:
    probe.acquire((1 << 32) + 1)
except OSError as error:
    import errno
    assert error.errno == errno.EINVAL
else:
    raise AssertionError("too large a stack")
assert probe.stats(17) is None
check_sums()
""")


def test_slot_layout(run, kind):
    run(f"""
probe.init(1, {kind})
for size in (64 * K, SIZE, M):
    stacks = [probe.acquire(size) for _ in range(40)]
    slot_bytes = stats(probe.block(stacks[0])["size_class"])["slot_bytes"]
    for stack in stacks:
        b = probe.block(stack)
        slot = b["limit"] - probe.GUARD_BYTES
        hot_page = stack & -PAGE
        assert b["base"] == stack and stack % 64 == 0
        assert slot % PAGE == 0 and hot_page - b["limit"] == size
        assert 2048 <= stack - hot_page <= 3 * K  # the C stack's part of the hot page
        assert b["data"] == stack + b["block_bytes"] and b["data"] % 16 == 0
        assert hot_page + PAGE - b["data"] >= 1000  # and that of the first Python frames
        assert b["data_bytes"] >= 16 * K and b["data"] + b["data_bytes"] == slot + slot_bytes
        assert b["guard_kind"] == {kind} and not b["yellow_open"] and b["taken"] == (0, 0)
        assert b["thread_state"] == b["owner"] == 0
        assert is_zero(b["data"], b["data_bytes"]) and is_zero(b["limit"], stack - b["limit"])
        places = [(0, probe.RED), (probe.GUARD_HALF_BYTES - 1, probe.RED), (probe.GUARD_HALF_BYTES, probe.YELLOW),
                  (probe.GUARD_BYTES - 1, probe.YELLOW),
                  (probe.GUARD_BYTES, probe.STACK), (stack - slot - 1, probe.STACK),
                  (stack - slot, probe.DATA), (slot_bytes - 1, probe.DATA)]
        for offset, part in places:
            assert probe.find(slot + offset) == stack
            assert probe.part(stack, slot + offset) == part
            assert probe.locate(slot + offset) == (stack, part, size)
    assert len({{probe.block(s)["limit"] for s in stacks}}) == 40
check_sums()
""")


def test_bases_are_coloured(run):
    run("""
stacks = [probe.acquire(SIZE) for _ in range(64)]
offsets = [stack % PAGE for stack in stacks]
assert len(set(offsets[:16])) == 16 and offsets[:16] * 4 == offsets
assert {b - a for a, b in zip(offsets[:15], offsets[1:])} == {64}
""")


def test_the_hot_page_is_divided_as_was_asked_and_once(run):
    run("""
import errno
def refused(*arguments):
    try:
        probe.init(*arguments)
    except OSError as error:
        return error.errno == errno.EINVAL
for layout in ((1700, 1), (1728, 0), (4032, 1), (2048, 64)):
    assert refused(1, -1, *layout), layout
probe.init(1, -1, 1728, 1)
offsets = {probe.acquire(SIZE) % PAGE for _ in range(20)}
assert offsets == {1728}
probe.init(1, -1, 1728, 1)
assert refused(1, -1, 2048, 16) and refused(1, -1, 1728, 2)
assert probe.acquire(SIZE) % PAGE == 1728
""")


def test_addresses_outside_are_not_found(run):
    run("""
stacks = [probe.acquire(SIZE) for _ in range(3)]
lowest = probe.block(stacks[0])["limit"] - probe.GUARD_BYTES
end = lowest + stats()["reserved_bytes"]
for address in (0, 1, lowest - 1, end, id(stacks), (1 << 64) - 1):
    assert probe.find(address) == 0 and probe.locate(address) is None
# Never used, so without a block: the place is known all the same.
assert probe.find(end - 1) == 0 and probe.locate(end - 1) == (0, probe.DATA, SIZE)
assert probe.locate(end - stats()["slot_bytes"]) == (0, probe.RED, SIZE)
""")


# ---- guards ----------------------------------------------------------------------------------------------------------


def test_guards_stop_every_access(run, kind):
    run(f"""
probe.init(0, {kind})
below, stack = probe.acquire(SIZE), probe.acquire(SIZE)
b = probe.block(stack)
limit = b["limit"]
stopped = 0 if {kind} == probe.CANARY else -signal.SIGSEGV
for address in (limit - 1, limit - 64 * K, limit - 64 * K - 1, limit - 128 * K):
    assert probe.write_status(address) == stopped
    assert probe.is_readable(address) == (stopped == 0)
for address in (limit, stack - 1, b["data"] + b["data_bytes"] - 1, limit - 128 * K - 1):
    assert probe.write_status(address) == 0
guards = [0, 0, 0]
guards[{kind}] = 2
assert stats()["guards"] == tuple(guards)
assert probe.guard_kind() == {kind} and not probe.has_yellow()
""")


def test_guards_survive_giving_back_and_reuse(run, faulting_kind):
    run(f"""
probe.init(1, {faulting_kind})
stack = probe.acquire(SIZE)
limit = probe.block(stack)["limit"]
for _ in range(3):
    probe.run_deep(stack, 200 * K)
    probe.release(stack)
    assert probe.write_status(limit - 1) == probe.write_status(limit - 128 * K) == -signal.SIGSEGV
    assert probe.acquire(SIZE) == stack
    probe.discard(stack)
    assert probe.write_status(limit - 1) == probe.write_status(limit - 128 * K) == -signal.SIGSEGV
    assert probe.acquire(SIZE) == stack
assert sum(stats()["guards"]) == 1
check_sums()
""")


def test_a_kind_that_cannot_be_had_is_refused(run):
    run("""
import errno
for bad in (-2, 3):
    try:
        probe.init(1, bad)
    except OSError as error:
        assert error.errno == errno.EINVAL
    else:
        raise AssertionError(bad)
""")


# madvise(…, 102, …) gets EINVAL from here on, as from a kernel before 6.13.
OLDER_KERNEL = """
import ctypes, struct
def pretend_an_older_kernel():
    def op(code, yes, no, value):
        return struct.pack("<HBBI", code, yes, no, value)
    program = b"".join([
        op(0x20, 0, 0, 0),            # load the number of the system call
        op(0x15, 3, 0, 440),          # process_madvise?
        op(0x15, 0, 3, 28),           # madvise?
        op(0x20, 0, 0, 16 + 2 * 8),   # load the low half of its third argument
        op(0x15, 0, 1, 102),          # MADV_GUARD_INSTALL?
        op(0x06, 0, 0, 0x00050000 | 22),  # then EINVAL
        op(0x06, 0, 0, 0x7FFF0000),   # else go ahead
    ])
    code = ctypes.create_string_buffer(program)
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
    buffer = ctypes.create_string_buffer(header)
    assert libc.prctl(22, 2, ctypes.addressof(buffer), 0, 0) == 0, "PR_SET_SECCOMP"
"""


def test_without_madvise_guards_mprotect_is_taken(run):
    run(
        OLDER_KERNEL
        + """
pretend_an_older_kernel()
probe.init(1, -1)
assert probe.guard_kind() == probe.MPROTECT and probe.has_yellow()
try:
    probe.init(1, probe.MADVISE)
except OSError as error:
    assert error.errno == 22
else:
    raise AssertionError
stack = probe.acquire(SIZE)
assert probe.block(stack)["guard_kind"] == probe.MPROTECT
"""
    )


def test_a_guard_that_is_refused_later_gets_the_next_kind(run, has_guard_madvise):
    if not has_guard_madvise:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
    run(
        OLDER_KERNEL
        + """
probe.init(1, -1)
first = probe.acquire(SIZE)
pretend_an_older_kernel()
second = probe.acquire(SIZE)
assert stats()["guards"] == (1, 1, 0)
for stack in (first, second):
    assert probe.write_status(probe.block(stack)["limit"] - 1) == -signal.SIGSEGV
"""
    )


@pytest.mark.slow
def test_mprotect_leaves_mappings_for_others_and_then_lays_canaries(run):
    run(
        """
most = int(open("/proc/sys/vm/max_map_count").read()) // 100 * 40
if most > 100_000:
    sys.exit(0)
probe.init(1, probe.MPROTECT)
stacks = [probe.acquire(64 * K) for _ in range(most)]
assert stats(0)["guards"] == (0, most, 0) and probe.guard_kind() == probe.CANARY and not probe.has_yellow()
stacks += [probe.acquire(64 * K) for _ in range(100)]
assert stats(0)["guards"] == (0, most, 100)
check_sums()
for stack in stacks:
    probe.discard(stack)
check_sums()
assert stats(0)["slabs"] == 1 and probe.guard_kind() == probe.MPROTECT
"""
    )


def test_canary_notices_and_costs_no_memory(run):
    run("""
probe.init(1, probe.CANARY)
stacks = [probe.acquire(SIZE) for _ in range(50)]
assert all(probe.canary_intact(s) for s in stacks) and resident(stacks[0]) == 50 * PAGE
assert not probe.has_yellow()
try:
    probe.open_yellow(stacks[0])
except OSError:
    pass
else:
    raise AssertionError("a yellow zone without a guard")
probe.run_deep(stacks[7], SIZE - 8 * K)
assert probe.canary_intact(stacks[7])
probe.run_deep(stacks[7], SIZE + 16 * K)
assert [s for s in stacks if not probe.canary_intact(s)] == [stacks[7]]
probe.discard(stacks[7])
assert probe.acquire(SIZE) == stacks[7] and probe.canary_intact(stacks[7])
""")


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_shallow_stack_is_one_page(run, kind):
    run(f"""
probe.init(1, {kind})
count = 127  # 1 + 2 + 4 + ... + 64: the batches in which guards and hot pages are made, and none begun
stacks = [probe.acquire(SIZE) for _ in range(count)]
for stack in stacks:
    probe.run_deep(stack, 1000)
    probe.fill(probe.block(stack)["data"], 1000, 1)
assert resident(stacks[0]) == count * PAGE
for stack in stacks:
    probe.release(stack)
assert resident(stacks[0]) == count * PAGE and stats()["given_back_total"] == 0
more = probe.acquire(SIZE), *(probe.acquire(SIZE) for _ in range(count))
assert resident(stacks[0]) <= (count + 64) * PAGE  # at most one batch ahead
""")


def test_slabs_have_no_huge_pages(run):
    run("""
stack = probe.acquire(SIZE)
inside = False
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        start, end = (int(word, 16) for word in words[0].split("-"))
        inside = start <= stack < end
    elif inside and words[0] == "VmFlags:":
        assert "nh" in words or not os.path.exists("/sys/kernel/mm/transparent_hugepage"), words
        break
else:
    raise AssertionError("no such mapping")
""")


def test_deep_use_gives_pages_back(run, kind):
    run(f"""
probe.init(1, {kind})
stack = probe.acquire(SIZE)
b = probe.block(stack)
probe.set_thread_state(stack, 77)
probe.fill(b["data"], 100, 7)
probe.run_deep(stack, 20 * K)
probe.release(stack)
assert probe.look(1) == 0
assert stats()["given_back_total"] == 0 and resident(stack) > 20 * K  # ordinary use stays warm
assert probe.acquire(SIZE) == stack
probe.run_deep(stack, 200 * K)
assert resident(stack) > 200 * K
probe.release(stack)
assert stats()["given_back_total"] == 1 and resident(stack) == PAGE
assert probe.acquire(SIZE) == stack
assert probe.block(stack)["thread_state"] == 77 and probe.peek(b["data"], 100) == bytes([7] * 100)

probe.fill(b["data"], b["data_bytes"], 7)  # deep in Python frames
assert resident(stack) == 5 * PAGE
probe.release(stack)
assert stats()["given_back_total"] == 2 and resident(stack) == PAGE

assert probe.acquire(SIZE) == stack
probe.fill(b["limit"] + 8 * K, SIZE // 2, 7)  # far down, with a large buffer in between
probe.release(stack)
assert stats()["given_back_total"] == 3 and resident(stack) == PAGE
check_sums()
""")


def test_the_first_look_at_a_slot_is_taken_later(run, kind):
    run(f"""
probe.init(1, {kind})
stacks = [probe.acquire(SIZE) for _ in range(5)]
untouched = resident(stacks[0])
for stack in stacks:
    probe.run_deep(stack, 200 * K)
    probe.release(stack)
used = resident(stacks[0]) - untouched
assert stats()["given_back_total"] == 0 and used > 5 * 190 * K
deep = used // 5
assert probe.look(2) == 3
assert resident(stacks[0]) == untouched + 3 * deep
again = probe.acquire(SIZE)
assert again == stacks[-1] and probe.look(0) < 3  # whoever stands on one is not looked at
probe.look(99)
assert resident(again) == untouched + deep and probe.look(0) == 0
probe.release(again)
assert probe.look(0) == 1 and probe.look(1) == 0
assert resident(again) == untouched and stats()["given_back_total"] == 5
for each in [probe.acquire(SIZE) for _ in stacks]:
    probe.run_deep(each, 200 * K)
    probe.release(each)
    assert probe.look(0) == 0 and resident(each) == untouched  # from then on at once
large = probe.acquire(4 * M)
empty = resident(large)
probe.fill(probe.block(large)["limit"], 3 * M, 7)
probe.release(large)
assert probe.look(0) == 0 and resident(large) < empty + 100 * K  # a large one, the first time too
for each in [probe.acquire(SIZE) for _ in range(20)]:
    probe.release(each)
assert probe.look(0) == 15
while (stack := probe.pool_take(0)) > 0:
    probe.discard(stack)
assert probe.look(0) == 0
check_sums()
""")


def test_discard_gives_all_back_and_the_slot_is_as_new(run, kind):
    run(f"""
probe.init(1, {kind})
stacks = [probe.acquire(SIZE) for _ in range(4)]
stack = stacks[2]
b = probe.block(stack)
probe.set_thread_state(stack, 77)
probe.set_owner(stack, 78)
probe.run_deep(stack, 200 * K)
probe.fill(b["data"], b["data_bytes"], 7)
probe.set_thread_state(stack, 0)
probe.discard(stack)
assert probe.find(stack) == 0
probe.give_back()
assert resident(stacks[0]) == 3 * PAGE
assert probe.find(stack) == 0 and probe.locate(stack) == (0, probe.DATA, SIZE)
assert stack not in probe.in_use()
assert stats()["cold"] == 1 and stats()["in_use"] == 3
check_sums()
assert probe.acquire(SIZE) == stack
assert probe.block(stack) == dict(b, owner=0, thread_state=0)
assert probe.find(stack) == stack and is_zero(b["data"], b["data_bytes"])
assert stats()["cold"] == 0 and stats()["reused_total"] == 0
check_sums()
""")


# ---- pools -----------------------------------------------------------------------------------------------------------


def test_pool_is_last_in_first_out_and_keeps_thread_states(run):
    run("""
stacks = [probe.acquire(SIZE) for _ in range(5)]
other = probe.acquire(M)
for i, stack in enumerate(stacks):
    probe.set_thread_state(stack, 100 + i)
    probe.set_owner(stack, 200 + i)
    probe.release(stack)
probe.release(other)
assert probe.in_use() == []
assert all(probe.find(stack) == stack for stack in stacks)
again = [probe.acquire(SIZE) for _ in range(5)]
assert again == stacks[::-1]
for i, stack in enumerate(stacks):
    b = probe.block(stack)
    assert b["thread_state"] == 100 + i and b["owner"] == 0
assert probe.acquire(SIZE) not in [other, *stacks] and probe.acquire(M) == other
s = stats()
assert s["acquired_total"] == 11 and s["reused_total"] == 5 and s["in_use_peak"] == 6 and s["pooled"] == 0
check_sums()
""")


def test_high_water(run):
    run("""
assert stats()["high_water"] == 1024
assert probe.set_high_water(3) == 3 and stats()["high_water"] == 3
stacks = [probe.acquire(SIZE) for _ in range(6)]
other = probe.acquire(M)
for stack in stacks:
    if probe.pool_has_room(stack):
        probe.release(stack)
    else:
        probe.discard(stack)
assert stats()["pooled"] == 3 and stats()["cold"] == 3
assert probe.pool_has_room(other)  # each class has its own
probe.release(other)
assert probe.pool_take(4) == 0
taken = [probe.pool_take(1) for _ in range(4)]
assert taken[3] == 0 and taken[0] == other and set(taken[1:3]) < set(stacks[:3])
assert sorted(probe.in_use()) == sorted(taken[:3])
for stack in taken[:3]:
    probe.discard(stack)
check_sums()
assert probe.pool_take(1) == 0 and probe.pool_take(0) == stacks[0] and probe.pool_take(0) == 0
assert stats()["in_use_peak"] == 6
probe.set_high_water(0)
assert not probe.pool_has_room(stacks[0])
""")


def test_a_surplus_stays_until_it_was_not_needed_for_a_second(run):
    run("""
SECOND = 1_000_000_000
NEVER = 2**63 - 1
assert probe.set_high_water(2, 3) == 2
stacks = [probe.acquire(SIZE) for _ in range(8)]
large = [probe.acquire(M) for _ in range(3)]
for stack in stacks + large:
    if probe.pool_has_room(stack):
        probe.release(stack)
    else:
        probe.discard(stack)
assert stats()["pooled"] == 5 and stats()["cold"] == 3
assert stats(4)["pooled"] == 2  # large stacks may hold much memory: no surplus of them
now = 1000 * SECOND
assert probe.take_surplus(now) == -(now + SECOND)  # a moment ago all were in use
probe.release(probe.acquire(SIZE))
assert probe.take_surplus(now + SECOND - 1) == -(now + SECOND)
now += SECOND
taken = [probe.take_surplus(now), probe.take_surplus(now)]
assert set(taken) < set(stacks) and stats()["pooled"] == 3  # the third was needed
assert probe.take_surplus(now) == -(now + SECOND)
for stack in taken:
    probe.discard(stack)
now += SECOND
last = probe.take_surplus(now)
assert last in stacks and probe.take_surplus(now) == -(now + SECOND)
probe.discard(last)
assert stats()["pooled"] == 2 and probe.take_surplus(now + 9 * SECOND) == -(now + 10 * SECOND)
check_sums()

# All of it at once; and none is kept when none is wanted.
stacks = [probe.acquire(SIZE) for _ in range(4)]
for stack in stacks:
    probe.release(stack)
assert {probe.take_surplus(NEVER), probe.take_surplus(NEVER)} < set(stacks) and probe.take_surplus(NEVER) < 0
assert not probe.set_high_water(0) and not probe.pool_has_room(stacks[0])
""")


def test_in_use_is_newest_slab_first_and_can_stop(run):
    run("""
stacks = [probe.acquire(SIZE) for _ in range(3)]
late = probe.acquire(M)
assert probe.in_use() == [late, *stacks]
assert probe.in_use(2) == [late, stacks[0]]
""")


def test_cold_slabs_are_unmapped_but_for_one(run, kind):
    run(f"""
probe.init(1, {kind})
import random
stacks = [probe.acquire(64 * K) for _ in range(4000)]
full = stats(0)
assert full["slabs"] >= 4 and full["reserved_bytes"] < 1.5 * M * K
random.Random(1).shuffle(stacks)
for stack in stacks[:-1]:
    probe.discard(stack)
check_sums()
probe.give_back()
assert stats(0)["slabs"] == 2  # the last one's, and one in reserve
probe.discard(stacks[-1])
check_sums()
s = stats(0)
assert s["slabs"] == 1 and s["in_use"] == 0 and s["cold"] == sum(s["guards"]) > 0
unmapped = [stack for stack in stacks if probe.locate(stack) is None]
assert len(unmapped) == 4000 - s["cold"]
assert not any(probe.is_readable(stack) for stack in unmapped[::100])

# Up and down by less than a slab: nothing is mapped or unmapped.
for _ in range(20):
    some = [probe.acquire(64 * K) for _ in range(100)]
    assert stats(0)["slabs"] == 1
    for stack in some:
        probe.discard(stack)
    assert stats(0)["reserved_bytes"] == s["reserved_bytes"]
again = [probe.acquire(64 * K) for _ in range(4000)]
assert len(set(again)) == 4000 and all(probe.find(stack) == stack for stack in again)
check_sums()
""")


def test_random_life_keeps_the_books(run, kind):
    run(f"""
probe.init(1, {kind})
import random
rng = random.Random(7)
probe.set_high_water(40)
live, expected = [], {{}}
for step in range(6000):
    if rng.random() < (0.7 if step % 2000 < 1000 else 0.3) or not live:
        stack = probe.acquire(rng.choice([64 * K, 128 * K, 8 * M]))
        assert stack not in expected
        if probe.block(stack)["thread_state"] == 0:
            probe.set_thread_state(stack, stack + 1)
        assert probe.block(stack)["thread_state"] == stack + 1
        expected[stack] = probe.block(stack)
        live.append(stack)
    else:
        stack = live.pop(rng.randrange(len(live)))
        assert probe.block(stack) == expected.pop(stack)
        if probe.pool_has_room(stack):
            probe.release(stack)
        else:
            probe.set_thread_state(stack, 0)
            probe.discard(stack)
    if step % 500 == 0:
        check_sums()
assert sorted(probe.in_use()) == sorted(live)
check_sums()
""")


@pytest.mark.slow
def test_a_hundred_thousand_stacks(run, has_guard_madvise):
    if not has_guard_madvise:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
    run("""
stacks = [probe.acquire(SIZE) for _ in range(100_000)]
assert len(mappings()) < 1000, len(mappings())
assert resident(stacks[0]) > 0
s = stats()
assert s["in_use"] == 100_000 and s["guards"] == (100_000, 0, 0)
assert s["reserved_bytes"] < 1.1 * 100_000 * s["slot_bytes"]
assert all(probe.find(stack - 100) == stack for stack in stacks)
for stack in stacks[::10_000]:
    assert probe.write_status(probe.block(stack)["limit"] - 1) == -signal.SIGSEGV
check_sums()
for stack in stacks:
    probe.release(stack) if probe.pool_has_room(stack) else probe.discard(stack)
check_sums()
assert stats()["pooled"] == 100_000
while (stack := probe.take_surplus(2**63 - 1)) > 0:
    probe.discard(stack)
check_sums()
assert stats()["pooled"] == 1024 and stats()["slabs"] < 10
while stack := probe.pool_take(0):
    probe.discard(stack)
assert stats()["slabs"] == 1
""")


@pytest.mark.slow
def test_thousands_of_slabs_are_found(run):
    run("""
size = 512 * M  # one slot a slab
stacks = [probe.acquire(size) for _ in range(3000)]
size_class = probe.block(stacks[0])["size_class"]
assert stats(size_class)["slabs"] == 3000
assert all(probe.find(stack) == stack for stack in stacks)
for stack in stacks[::2]:
    probe.discard(stack)
assert stats(size_class)["slabs"] <= 1501
kept = [probe.acquire(size) for _ in range(700)] + stacks[1::2]
assert len(set(kept)) == 2200 and all(probe.find(stack) == stack for stack in kept)
check_sums()
""")


def test_scarce_address_space(run):
    run("""
import errno
used = int(open("/proc/self/statm").read().split()[0]) * PAGE
resource.setrlimit(resource.RLIMIT_AS, (used + 40 * M, resource.RLIM_INFINITY))
stacks = []
try:
    while True:
        stacks.append(probe.acquire(SIZE))
except OSError as error:
    assert error.errno == errno.ENOMEM
assert 40 < len(stacks) < 110, len(stacks)
assert all(probe.find(stack) == stack for stack in stacks)
for stack in stacks:
    probe.discard(stack)
check_sums()
assert probe.acquire(SIZE) in stacks
""")


# ---- the yellow half -------------------------------------------------------------------------------------------------


def test_yellow_opens_and_closes(run, faulting_kind):
    run(f"""
probe.init(1, {faulting_kind})
assert probe.has_yellow()
below, stack = probe.acquire(SIZE), probe.acquire(SIZE)
limit = probe.block(stack)["limit"]
for _ in range(5):
    before = resident(stack)
    probe.open_yellow(stack)
    probe.open_yellow(stack)
    assert probe.yellow_open_count() == 1 and probe.block(stack)["yellow_open"]
    assert is_zero(limit - 64 * K, 64 * K)
    probe.fill(limit - 64 * K, 64 * K, 7)
    assert probe.write_status(limit - 64 * K - 1) == -signal.SIGSEGV
    assert resident(stack) == before + 64 * K
    probe.close_yellow(stack)
    probe.close_yellow(stack)
    assert probe.yellow_open_count() == 0 and not probe.block(stack)["yellow_open"]
    assert probe.write_status(limit - 1) == probe.write_status(limit - 64 * K) == -signal.SIGSEGV
    assert resident(stack) == before
# A release and a discard close it, too.
for end in (probe.release, probe.discard):
    probe.open_yellow(stack)
    probe.fill(limit - 64 * K, 64 * K, 7)
    end(stack)
    assert probe.yellow_open_count() == 0 and probe.write_status(limit - 1) == -signal.SIGSEGV
    assert probe.acquire(SIZE) == stack and not probe.block(stack)["yellow_open"]
probe.init(0, {faulting_kind})
assert not probe.has_yellow()
try:
    probe.open_yellow(stack)
except OSError:
    pass
else:
    raise AssertionError("all of it is red")
""")


def test_yellow_opens_page_by_page(run, faulting_kind):
    run(f"""
probe.init(1, {faulting_kind})
stack = probe.acquire(SIZE)
limit = probe.block(stack)["limit"]
for page in range(1, 17):
    probe.open_yellow(stack, limit - page * PAGE + 100)
    assert probe.write_status(limit - page * PAGE) == 0
    assert probe.write_status(limit - page * PAGE - 1) == -signal.SIGSEGV
    probe.fill(limit - page * PAGE, PAGE, page)
    probe.open_yellow(stack, limit - 1)  # what is open stays open
    assert probe.block(stack)["yellow_open"] == page and probe.yellow_open_count() == 1
assert all(probe.peek(limit - page * PAGE, 1) == bytes([page]) for page in range(1, 17))
probe.close_yellow(stack)
assert probe.write_status(limit - 1) == -signal.SIGSEGV and probe.yellow_open_count() == 0
""")


@pytest.mark.parametrize("take_result", [0, 1], ids=["taken", "put off"])
def test_each_page_of_yellow_takes_the_recursion_again(run, faulting_kind, take_result):
    # The error was caught, and the fiber came down again before it was told to recover; or it could not be made to raise yet.
    run(f"""
probe.init(1, {faulting_kind})
probe.install(take_result={take_result})
probe.prepare_thread()
stack = probe.acquire(SIZE)
opened = [0]
for i in range(1, 5):
    deeper = stack - probe.block(stack)["limit"] + opened[-1] * PAGE + 100
    probe.run_deep(stack, deeper)
    assert probe.takes() == i and probe.yellow_open_count() == 1
    opened.append(probe.block(stack)["yellow_open"])
assert opened == sorted(set(opened)), opened
""")


def test_an_overflow_opens_yellow_and_goes_on(run, faulting_kind):
    run(f"""
probe.init(1, {faulting_kind})
probe.install()
probe.prepare_thread()
stacks = [probe.acquire(SIZE) for _ in range(3)]
stack = stacks[1]
limit = probe.block(stack)["limit"]
for stack_around in (stacks[0], stacks[2]):
    b = probe.block(stack_around)
    probe.fill(b["limit"], stack_around - b["limit"], 0xC3)
    probe.fill(b["data"], b["data_bytes"], 0xC3)
for i in range(1, 6):
    frames = probe.run_deep(stack, 10 * M)
    assert 700 < frames < 1400 and probe.takes() == i
    assert probe.yellow_open_count() == 1 and probe.block(stack)["taken"] == (1234, 0)
    assert probe.recover(stack, limit - 100) == 0 and probe.recover(stack, limit + 4 * K) == 0
    assert probe.recover(stacks[0], limit + 100 * K) == 0
    assert probe.yellow_open_count() == 1
    assert probe.recover(stack, limit + 100 * K) == 1
    assert probe.yellow_open_count() == 0 and probe.recover(stack, limit + 100 * K) == 0
    assert probe.write_status(limit - 1) == -signal.SIGSEGV
for stack_around in (stacks[0], stacks[2]):
    b = probe.block(stack_around)
    assert set(probe.peek(b["limit"], stack_around - b["limit"])) == {{0xC3}}
    assert set(probe.peek(b["data"], b["data_bytes"])) == {{0xC3}}
    assert b["taken"] == (0, 0)
# In several at once, on one thread.
for stack in stacks:
    probe.run_deep(stack, 10 * M)
assert probe.yellow_open_count() == 3
""")


def test_an_overflow_on_another_thread_goes_on(run, faulting_kind):
    run(f"""
import threading
probe.init(1, {faulting_kind})
probe.install()
def body():
    probe.prepare_thread()
    frames.append(probe.run_deep(probe.acquire(SIZE), 10 * M))
    probe.forget_thread()
frames = []
for _ in range(3):
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
assert len(frames) == 3 and min(frames) > 700 and probe.takes() == 3
""")


def test_a_signal_without_room_for_its_handler_opens_yellow(run, faulting_kind):
    run(f"""
probe.init(1, {faulting_kind})
probe.install()
probe.prepare_thread()
probe.count_signal(signal.SIGUSR2)
stack = probe.acquire(SIZE)
b = probe.block(stack)
probe.run_deep(stack, stack - b["limit"] - 64 * K, signal.SIGUSR2)
assert probe.handled()[0] == 1 and probe.takes() == 0
probe.run_deep(stack, stack - b["limit"] - 1000, signal.SIGUSR2)
assert probe.takes() == 1 and probe.yellow_open_count() == 1
""")


# ---- the end ---------------------------------------------------------------------------------------------------------

OVERFLOW = """
probe.prepare_thread()
stack = probe.acquire(SIZE)
probe.set_owner(stack, 0xABCDE)
probe.run_deep(stack, 10 * M)
print("still alive")
"""


def check_report(stderr, what="a fiber hit the guard of its stack", *, size=SIZE_TEXT, owner="0xabcde"):
    assert f"{REPORT}{what} {size}\ndescribed: owner {owner}\ndescribed to the end\n" in stderr, stderr
    assert stderr.count(REPORT) == 1


@pytest.mark.parametrize("yellow", [0, 1], ids=["all red", "yellow that cannot raise"])
def test_a_red_overflow_is_reported_and_ends_the_process(run, faulting_kind, yellow):
    stderr = died(run, f"probe.init({yellow}, {faulting_kind}); probe.install(take_result=-1)" + OVERFLOW)
    check_report(stderr)


def test_red_below_yellow_is_reported(run, faulting_kind):
    script = f"""
probe.init(1, {faulting_kind})
probe.install()
probe.prepare_thread()
stack = probe.acquire(SIZE)
probe.set_owner(stack, 0xABCDE)
probe.run_jump(stack, SIZE + 32 * K)
assert probe.takes() == 1
probe.run_jump(stack, SIZE + 96 * K)
"""
    check_report(died(run, script))


def test_a_jump_into_the_guard_below_is_reported_and_opens_nothing(run, faulting_kind):
    script = f"""
probe.init(1, {faulting_kind})
probe.install()
probe.prepare_thread()
below, stack = probe.acquire(SIZE), probe.acquire(SIZE)
probe.set_owner(stack, 0xABCDE)
if {{unused}}:
    probe.discard(below)
probe.run_jump(stack, stats()["slot_bytes"] + SIZE + 32 * K)
"""
    stderr = died(run, script.replace("{unused}", "False"))
    check_report(stderr, "a fiber jumped over the guard of its stack and hit another fiber's guard")
    stderr = died(run, script.replace("{unused}", "True"))
    check_report(stderr, "a fiber jumped over the guard of its stack and hit the guard of an unused stack")


def test_a_guard_touched_from_outside_is_reported(run, faulting_kind):
    script = f"""
probe.init(1, {faulting_kind})
probe.install()
stack = probe.acquire(SIZE)
probe.set_owner(stack, 0xABCDE)
probe.fault(probe.block(stack)["limit"] - 1)
"""
    check_report(died(run, script), "the guard of a fiber's stack was touched by code that stands on no fiber's stack")


def test_neighbours_are_intact_after_a_red_overflow(run, faulting_kind):
    # The handler behind ours jumps back to safety, so that the process lives to look.
    stderr = run(f"""
probe.init(1, {faulting_kind})
probe.set_handler("longjmp")
probe.install(take_result=-1)
probe.prepare_thread()
stacks = [probe.acquire(SIZE) for _ in range(3)]
for stack in (stacks[0], stacks[2]):
    b = probe.block(stack)
    probe.fill(b["limit"], stack - b["limit"], 0xC3)
    probe.fill(b["data"], b["data_bytes"], 0xC3)
blocks = [probe.block(stack) for stack in stacks]
for i in range(1, 4):
    probe.run_deep(stacks[1], 10 * M)
    assert probe.handled()[0] == i and probe.yellow_open_count() == 0
    for stack in (stacks[0], stacks[2]):
        b = probe.block(stack)
        assert b == blocks[stacks.index(stack)]
        assert set(probe.peek(b["limit"], stack - b["limit"])) == {{0xC3}}
        assert set(probe.peek(b["data"], b["data_bytes"])) == {{0xC3}}
""")
    assert stderr.count(REPORT) == 3


def test_a_signal_without_room_for_its_handler_is_reported_when_all_is_red(run, faulting_kind):
    script = f"""
probe.init(0, {faulting_kind})
probe.install()
probe.prepare_thread()
probe.count_signal(signal.SIGUSR2)
stack = probe.acquire(SIZE)
probe.run_deep(stack, stack - probe.block(stack)["limit"] - 1000, signal.SIGUSR2)
"""
    assert "no room on a fiber's stack for a signal handler" in died(run, script)


def test_a_fault_while_describing_ends_the_process(run):
    stderr = died(run, "probe.init(0); probe.install(describe=probe.DESCRIBE_FAULT)" + OVERFLOW)
    assert stderr.count(REPORT) == 1 and stderr.endswith("described: owner 0xabcde\n")


@pytest.mark.slow
def test_a_hang_while_describing_ends_the_process(run):
    stderr = died(run, "probe.init(0); probe.install(describe=probe.DESCRIBE_HANG)" + OVERFLOW)
    assert stderr.count(REPORT) == 1 and stderr.endswith("described: owner 0xabcde\n")


def test_damage_without_a_fault_is_reported(run):
    script = """
probe.init(1, probe.CANARY)
{install}
stack = probe.acquire(SIZE)
probe.set_owner(stack, 0xABCDE)
probe.run_deep(stack, SIZE + 16 * K)
assert not probe.canary_intact(stack)
probe.report_and_die(stack, "the canary is dead")
"""
    check_report(died(run, script.replace("{install}", "probe.install()")), "the canary is dead")
    for install in ("probe.set_handler('ignore'); probe.install()", "probe.set_handler('plain'); probe.install()"):
        check_report(died(run, script.replace("{install}", install)), "the canary is dead")
    stderr = died(run, script.replace("{install}", "import faulthandler; faulthandler.enable(); probe.install()"))
    check_report(stderr, "the canary is dead")
    assert stderr.count(FATAL) == 1


# ---- manners: others' handlers, others' faults -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "is_reported", "is_dumped"),
    [
        ("faulthandler.enable(); probe.install()", True, True),
        ("faulthandler.enable(); probe.install(); probe.prepare_thread(); probe.install()", True, True),
        ("probe.install(); faulthandler.enable(); probe.install()", True, True),
        ("probe.install(); probe.prepare_thread(); faulthandler.enable(); probe.install()", True, True),
        ("probe.install(); faulthandler.enable()", False, True),
        ("probe.install(); faulthandler.enable(); faulthandler.disable()", True, False),
        ("probe.install(); faulthandler.enable(); probe.install(); faulthandler.disable()", True, False),
        ("faulthandler.enable(); probe.install(); faulthandler.disable()", False, False),
        ("faulthandler.enable(); probe.install(); faulthandler.disable(); probe.install()", True, False),
        (
            "for _ in range(50): faulthandler.enable(); probe.install(); faulthandler.disable(); probe.install()",
            True,
            False,
        ),
        (
            "for _ in range(50): probe.install(); faulthandler.enable(); probe.install(); faulthandler.enable()",
            True,
            True,
        ),
        (
            "faulthandler.enable(); probe.install(); probe.set_handler('reraise'); probe.install(); "
            "faulthandler.disable(); faulthandler.enable(); probe.install()",
            True,
            True,
        ),
    ],
)
def test_faulthandler(run, setup, is_reported, is_dumped):
    for fault, is_overflow in ((OVERFLOW, True), ("\nprobe.prepare_thread(); probe.fault(0)", False)):
        stderr = died(run, "import faulthandler; probe.init(0)\n" + setup + fault)
        assert stderr.count(REPORT) == (is_reported and is_overflow), stderr
        assert stderr.count(FATAL) == is_dumped, stderr


def test_faulthandler_in_front_does_not_cost_the_yellow_half(run):
    run("""
import faulthandler
probe.init(1)
faulthandler.enable()
probe.install()
probe.prepare_thread()
stack = probe.acquire(SIZE)
for _ in range(3):
    probe.run_deep(stack, 10 * M)
    assert probe.recover(stack, stack) == 1
assert probe.takes() == 3
""")


@pytest.mark.parametrize("fault", ["ctypes.string_at(0)", "probe.fault(0)", "probe.fault(1 << 63)", "probe.raise_()"])
def test_other_faults_are_not_ours(run, fault):
    fault = fault.replace("raise_()", "__dict__['raise']()")
    for setup in ("", "faulthandler.enable()\n"):
        script = f"import ctypes, faulthandler\n{setup}probe.install(); probe.prepare_thread()\n{fault}"
        stderr = died(run, script)
        assert REPORT not in stderr and stderr.count(FATAL) == bool(setup)


def test_a_signal_that_was_sent_is_passed_on(run):
    died(run, "probe.install(); os.kill(os.getpid(), signal.SIGSEGV)")
    run("""
seen = []
signal.signal(signal.SIGSEGV, lambda *_: seen.append(1))
probe.install()
for _ in range(10):
    os.kill(os.getpid(), signal.SIGSEGV)
    signal.raise_signal(signal.SIGSEGV)
assert len(seen) == 20
""")
    run("""
signal.signal(signal.SIGSEGV, signal.SIG_IGN)
probe.install()
os.kill(os.getpid(), signal.SIGSEGV)
signal.raise_signal(signal.SIGSEGV)
""")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("flags", ["0", "probe.SA_NODEFER"])
def test_a_handler_that_repairs_is_called_with_its_flags(run, order, flags):
    steps = [f'probe.set_handler("repair", {flags})', "probe.install()"]
    if order == "after":
        steps.insert(0, "probe.install()")
    run(
        "\n".join(["", *steps])
        + f"""
probe.prepare_thread()
ours = probe.handler()
for i in range(1, 2001):
    probe.fault_repairable()
    # SIGUSR1 is in its mask; SIGSEGV is blocked unless it asked for SA_NODEFER.
    assert probe.handled() == (i, 2 if {flags} else 3, 1), probe.handled()
assert probe.handler() == ours
"""
    )


def test_a_handler_that_jumps_out_is_called_each_time(run):
    run("""
probe.init(0)
probe.set_handler("longjmp")
probe.install()
probe.prepare_thread()
ours = probe.handler()
for i in range(1, 2001):
    probe.fault_longjmp(i)
    assert probe.handled()[0] == i and probe.handler() == ours
""")


def test_a_handler_that_does_nothing_is_not_called_for_ever(run):
    assert died(run, "probe.set_handler('plain'); probe.install(); probe.fault(0)") == ""
    assert died(run, "probe.install(); probe.set_handler('plain'); probe.install(); probe.fault(0)") == ""
    check_report(died(run, "probe.init(0); probe.set_handler('plain'); probe.install()" + OVERFLOW))


def test_a_handler_that_wants_to_be_reset_is_called_once(run):
    run("""
probe.set_handler("plain", probe.SA_RESETHAND)
probe.install()
probe.__dict__["raise"]()
assert probe.handled()[0] == 1
""")
    died(
        run,
        """
probe.set_handler("plain", probe.SA_RESETHAND)
probe.install()
probe.__dict__["raise"]()
probe.__dict__["raise"]()
""",
    )


@pytest.mark.parametrize(
    "setup",
    [
        "probe.set_handler('reraise'); probe.install()",
        "probe.install(); probe.set_handler('reraise'); probe.install()",
        "probe.install(); probe.set_handler('reraise', probe.SA_NODEFER); probe.install()",
    ],
)
def test_a_handler_that_raises_again_comes_to_an_end(run, setup):
    for end in ("probe.fault(0)", "probe.__dict__['raise']()"):
        assert "handler_reraise was here\n" in died(run, f"{setup}; {end}")
    stderr = died(run, f"probe.init(0); {setup}" + OVERFLOW)
    check_report(stderr)
    assert "handler_reraise was here\n" in stderr


def test_a_fault_cannot_be_ignored(run):
    assert died(run, "probe.set_handler('ignore'); probe.install(); probe.fault(0)") == ""
    assert died(run, "probe.set_handler('ignore'); probe.install(); probe.fault(1 << 63)") == ""
    check_report(died(run, "probe.init(0); probe.set_handler('ignore'); probe.install()" + OVERFLOW))


def test_the_newest_wish_counts(run):
    run("""
probe.set_handler("plain")
probe.install()
ours = probe.handler()
probe.set_handler("ignore")
probe.install()
assert probe.handler() == ours
probe.__dict__["raise"]()
assert probe.handled()[0] == 0
for _ in range(50):
    probe.set_handler("plain")
    probe.install()
probe.__dict__["raise"]()
assert probe.handled()[0] == 1
""")
    died(
        run,
        "probe.set_handler('plain'); probe.install(); probe.set_handler('default'); probe.install(); probe.fault(0)",
    )


def test_errno_is_kept(run):
    run("""
probe.set_handler("plain")
probe.install()
assert probe.__dict__["raise"]() == 0 and probe.handled()[0] == 1
""")


# ---- alternate stacks ------------------------------------------------------------------------------------------------


def test_alternate_stacks_come_and_go_with_their_threads(run):
    run("""
import threading
def body():
    assert probe.alternate_stack() is None
    probe.forget_thread()
    probe.prepare_thread()
    address, size = probe.alternate_stack()
    assert size >= 64 * K and probe.write_status(address) == 0 and probe.write_status(address - 1) == -signal.SIGSEGV
    probe.prepare_thread()
    assert probe.alternate_stack() == (address, size)
    probe.forget_thread()
    assert probe.alternate_stack() is None and not probe.is_readable(address)
    passed.append(1)
passed = []
for _ in range(5):
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
assert len(passed) == 5
""")


def test_faulthandlers_alternate_stack_is_set_aside_and_put_back(run):
    run("""
import faulthandler
faulthandler.enable()
theirs = probe.alternate_stack()
probe.prepare_thread()
if theirs[1] < 32 * K:
    assert probe.alternate_stack() != theirs and probe.alternate_stack()[1] >= 64 * K
probe.forget_thread()
assert probe.alternate_stack() == theirs

# Enabled while ours is in use: theirs is on top, and is replaced once more.
probe.prepare_thread()
probe.forget_thread()
assert probe.alternate_stack() == theirs
""")
    run("""
import faulthandler
probe.prepare_thread()
ours = probe.alternate_stack()
faulthandler.enable()
theirs = probe.alternate_stack()
if theirs != ours:
    probe.forget_thread()  # must not free what they will put back
    assert probe.alternate_stack() == theirs and probe.is_readable(ours[0])
    if theirs[1] < 32 * K:
        probe.prepare_thread()
        assert probe.alternate_stack() == ours
probe.forget_thread()
""")
