"""pollers/: one set of tests for every poller, with pipes, sockets and OS threads; and the table of descriptors."""

import importlib
import os
import pkgutil
import socket
import threading
import time
import weakref

import pytest
from child import run_child

import greenio
from greenio import pollers
from greenio.pollers import DefaultPoller, Entry, Poller
from greenio.pollers.poller import FAILED, HANG_UP, PEER_CLOSED, READABLE, URGENT, WRITABLE

MILLISECOND = 1_000_000  # in nanoseconds


def poller_classes():
    for module in pkgutil.iter_modules(pollers.__path__):
        for value in vars(importlib.import_module(f"greenio.pollers.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Poller) and value is not Poller:
                yield value


class Recorder(Entry):
    """Keeps what it is told."""

    def __init__(self, fd):
        self.flags = []

    def ready(self, flags):
        self.flags.append(flags)
        return 0

    def take(self):
        flags, self.flags = self.flags, []
        return flags


@pytest.fixture(params=sorted(set(poller_classes()), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def poller(request):
    poller = request.param()
    yield poller
    poller.close()


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


@pytest.fixture
def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


def test_there_is_a_default_and_it_is_tested_here():
    assert DefaultPoller in set(poller_classes())


# --- readiness -------------------------------------------------------------------------------------------------------


def test_what_is_ready_already_is_told_at_the_first_wait(poller, pair):
    one, other = pair
    other.send(b"x")
    entry = Recorder(one.fileno())
    poller.add(entry)
    assert poller.wait(0) == 1
    assert entry.take() == [READABLE | WRITABLE]


def test_each_change_is_told_once(poller, pair):
    one, other = pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    poller.wait(0)
    assert entry.take() == [WRITABLE]
    assert poller.wait(0) == 0
    other.send(b"x")
    poller.wait(0)
    assert entry.take()[0] & READABLE
    assert poller.wait(0) == 0
    other.send(b"y")  # an edge, though nothing was read
    poller.wait(0)
    assert entry.take()[0] & READABLE


def test_room_for_writing_is_told_when_it_comes_back(poller, pair):
    one, other = pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    poller.wait(0)
    entry.take()
    with pytest.raises(BlockingIOError):
        while True:
            one.send(bytes(65536))
    assert poller.wait(0) == 0
    with pytest.raises(BlockingIOError):
        while True:
            other.recv(65536)
    poller.wait(0)
    assert entry.take()[0] & WRITABLE


def test_a_peer_that_shuts_down_writing_is_told(poller, tcp_pair):
    one, other = tcp_pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    poller.wait(0)
    entry.take()
    other.shutdown(socket.SHUT_WR)
    poller.wait(1000 * MILLISECOND)
    (flags,) = entry.take()
    assert flags & PEER_CLOSED
    assert flags & READABLE
    assert not flags & HANG_UP


def test_a_hang_up_is_told(poller, pair):
    one, other = pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    poller.wait(0)
    entry.take()
    other.close()
    poller.wait(1000 * MILLISECOND)
    assert entry.take()[0] & (HANG_UP | PEER_CLOSED)


def test_an_error_is_told(poller):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()
        with socket.socket() as connecting:
            connecting.setblocking(False)
            connecting.connect_ex(address)
            entry = Recorder(connecting.fileno())
            poller.add(entry)
            poller.wait(1000 * MILLISECOND)
            assert entry.take()[-1] & FAILED
            poller.remove(entry)


def test_urgent_data_is_told(poller, tcp_pair):
    one, other = tcp_pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    poller.wait(0)
    entry.take()
    other.send(b"!", socket.MSG_OOB)
    poller.wait(1000 * MILLISECOND)
    assert entry.take()[0] & URGENT


def test_pipes_are_watched(poller):
    reader, writer = os.pipe()
    try:
        entry = Recorder(reader)
        poller.add(entry)
        assert poller.wait(0) == 0
        os.write(writer, b"x")
        assert poller.wait(0) == 1
        assert entry.take() == [READABLE]
        poller.remove(entry)
    finally:
        os.close(reader)
        os.close(writer)


def test_more_descriptors_than_one_call_reports_are_all_told(poller):
    pipes = [os.pipe() for _ in range(400)]
    try:
        entries = [Recorder(reader) for reader, _ in pipes]
        for entry in entries:
            poller.add(entry)
        for _, writer in pipes:
            os.write(writer, b"x")
        for _ in range(400):
            if poller.wait(0) == 0:
                break
        assert [entry.take() for entry in entries] == [[READABLE]] * 400
        assert poller.registered == 400
        for entry in entries:
            poller.remove(entry)
        assert poller.registered == 0
    finally:
        for pipe in pipes:
            for fd in pipe:
                os.close(fd)


# --- adding and removing ---------------------------------------------------------------------------------------------


def test_a_removed_entry_hears_nothing_more(poller, pair):
    one, other = pair
    entry = Recorder(one.fileno())
    poller.add(entry)
    assert poller.entry(one.fileno()) is entry
    poller.remove(entry)
    assert poller.entry(one.fileno()) is None
    assert entry.fd == -1
    other.send(b"x")
    poller.wait(0)
    assert entry.take() == []
    poller.remove(entry)  # again: does nothing
    assert poller.registered == 0


def test_a_descriptor_is_registered_once(poller, pair):
    one, _ = pair
    first = Recorder(one.fileno())
    poller.add(first)
    with pytest.raises(ValueError, match="is registered already"):
        poller.add(Recorder(one.fileno()))
    assert poller.entry(one.fileno()) is first
    assert poller.registered == 1


def test_a_removed_entry_is_not_added_again(poller, pair):
    entry = Recorder(pair[0].fileno())
    poller.add(entry)
    poller.remove(entry)
    with pytest.raises(ValueError, match="was removed"):
        poller.add(entry)
    assert poller.registered == 0


def test_an_entry_lives_as_long_as_it_is_registered(poller, pair):
    one, other = pair
    entry = Recorder(one.fileno())
    handle = weakref.ref(entry)
    poller.add(entry)
    del entry
    other.send(b"x")
    poller.wait(0)
    assert handle().flags == [READABLE | WRITABLE]
    poller.remove(handle())
    assert handle() is None
    poller.add(Recorder(one.fileno()))
    poller.close()


def test_a_closed_descriptor_is_refused_and_nothing_has_changed(poller):
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    entry = Recorder(reader)
    with pytest.raises(OSError):
        poller.add(entry)
    assert poller.entry(reader) is None
    assert poller.registered == 0


def test_a_file_that_is_always_ready_is_refused(poller, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(PermissionError):
            poller.add(Recorder(file.fileno()))
        assert poller.registered == 0


@pytest.mark.parametrize(
    ("fd", "error"), [(-1, ValueError), (1 << 40, OverflowError), ("1", TypeError), (None, TypeError)]
)
def test_what_is_no_descriptor_is_refused(fd, error):
    with pytest.raises(error):
        Recorder(fd)


def test_an_entry_whose_descriptor_was_closed_behind_our_back_can_be_removed(poller):
    reader, writer = os.pipe()
    entry = Recorder(reader)
    poller.add(entry)
    os.close(reader)
    os.close(writer)
    poller.remove(entry)
    assert poller.registered == 0


def test_an_event_meant_for_an_earlier_life_of_the_number_is_dropped(poller):
    # A duplicate keeps the first file open in the kernel's list, under the number that the second one has by now.
    reader, writer = os.pipe()
    duplicate = os.dup(reader)
    first = Recorder(reader)
    poller.add(first)
    os.close(reader)
    poller.remove(first)
    other_reader, other_writer = os.pipe()
    if other_reader != reader:
        os.dup2(other_reader, reader)
        os.close(other_reader)
    try:
        second = Recorder(reader)
        poller.add(second)
        os.write(writer, b"for the first")
        for _ in range(3):
            poller.wait(0)
        assert first.take() == []
        assert second.take() == []
        os.write(other_writer, b"for the second")
        poller.wait(0)
        assert second.take() == [READABLE]
        poller.remove(second)
    finally:
        for fd in (reader, writer, duplicate, other_writer):
            os.close(fd)


def test_what_an_entry_raises_comes_out_of_the_wait(poller, pair):
    class Failing(Entry):
        def ready(self, flags):
            raise LookupError("from the entry")

    one, _ = pair
    entry = Failing(one.fileno())
    poller.add(entry)
    with pytest.raises(LookupError, match="from the entry"):
        poller.wait(0)
    poller.remove(entry)


def test_an_entry_may_remove_itself_and_others_while_it_is_told(poller, pair):
    one, other = pair

    class Remover(Recorder):
        def ready(self, flags):
            self.flags.append(flags)
            for entry in entries:
                poller.remove(entry)
            return 0

    entries = [Remover(one.fileno()), Remover(other.fileno())]
    for entry in entries:
        poller.add(entry)
    poller.wait(0)
    assert sorted(len(entry.take()) for entry in entries) == [0, 1]


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_ns", [0, 1, 20_000, 3 * MILLISECOND])
def test_a_wait_ends_after_its_timeout_and_not_before(poller, timeout_ns):
    start = time.monotonic_ns()
    assert poller.wait(timeout_ns) == 0
    passed = time.monotonic_ns() - start
    assert timeout_ns <= passed < timeout_ns + 5000 * MILLISECOND


def test_wake_ends_the_next_wait(poller):
    poller.wake()
    start = time.monotonic()
    poller.wait(20_000 * MILLISECOND)
    assert time.monotonic() - start < 10


def test_wake_from_another_os_thread_ends_a_wait_for_ever(poller):
    def wake_again_and_again():
        while not over.is_set():
            poller.wake()
            time.sleep(0.001)

    over = threading.Event()
    thread = threading.Thread(target=wake_again_and_again)
    thread.start()
    poller.wait(-1)
    over.set()
    thread.join()


def test_any_number_of_wakes_is_one(poller):
    for _ in range(1000):
        poller.wake()
    poller.wait(0)
    start = time.monotonic()
    poller.wait(MILLISECOND)
    assert time.monotonic() - start >= 0.001


def test_eight_bytes_to_the_wake_descriptor_wake_too(poller):
    if poller.wake_fd >= 0:
        os.write(poller.wake_fd, (1).to_bytes(8, "little"))
        poller.wait(20_000 * MILLISECOND)


def test_a_closed_poller_may_be_woken_and_closed_again(poller):
    poller.close()
    poller.wake()
    poller.close()
    assert poller.wake_fd == -1


def test_close_leaves_no_descriptor_and_forgets_the_entries(poller, pair):
    entry = Recorder(pair[0].fileno())
    poller.add(entry)
    poller.close()
    assert entry.fd == -1
    assert poller.registered == 0


def test_in_a_forked_child_the_poller_starts_anew_and_the_parents_is_not_touched():
    for cls in set(poller_classes()):
        run_child(
            f"""
            import os
            from {cls.__module__} import {cls.__name__} as Poller
            from greenio.pollers import Entry
            class Recorder(Entry):
                def __init__(self, fd):
                    self.flags = []
                def ready(self, flags):
                    self.flags.append(flags)
                    return 0
            poller = Poller()
            reader, writer = os.pipe()
            mine = Recorder(reader)
            poller.add(mine)
            pid = os.fork()
            if pid == 0:
                poller.after_fork()
                assert poller.registered == 0 and mine.fd == -1
                entry = Recorder(reader)
                poller.add(entry)
                os.write(writer, b"x")
                assert poller.wait(0) == 1 and len(entry.flags) == 1
                poller.remove(entry)
                os.read(reader, 1)
                poller.wake()
                poller.wait(-1)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            mine.flags.clear()
            poller.wait(0)
            mine.flags.clear()
            os.write(writer, b"y")
            assert poller.wait(0) == 1 and len(mine.flags) == 1
            """
        )


def test_a_run_uses_the_poller_that_it_is_given(poller):
    class Noted(type(poller)):
        waits = 0

        def wait(self, timeout_ns):
            Noted.waits += 1
            return super().wait(timeout_ns)

    greenio.run(greenio.sleep, 0.001, poller=Noted())
    assert Noted.waits > 0


def test_who_becomes_ready_by_an_event_ends_no_wait(poller):
    # It is over by then; each wake-up would be a system call, and another event in the next look.
    class Noted(type(poller)):
        wakes = 0

        def wake(self):
            Noted.wakes += 1
            return super().wake()

    def main():
        ours, theirs = socket.socketpair()
        with greenio.socket.socket(fileno=ours.detach()) as stream, theirs:
            thread = threading.Thread(target=lambda: [theirs.send(theirs.recv(1)) for _ in range(50)])
            thread.start()
            for _ in range(50):
                stream.send(b"x")
                assert stream.recv(1) == b"x"
            thread.join()
            return Noted.wakes

    assert greenio.run(main, poller=Noted()) == 0


def test_the_base_class_has_the_table_and_no_kernel():
    base = Poller()
    entry = Recorder(5)
    base.add(entry)
    assert base.entry(5) is entry
    assert base.registered == 1
    with pytest.raises(NotImplementedError):
        base.wait(0)
    base.remove(entry)
    assert base.wake_fd == -1
    base.wake()
    base.close()
