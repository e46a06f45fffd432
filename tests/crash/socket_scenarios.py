"""What may hang or crash with sockets: each function here is run by tests/test_socket.py in a process of its own.

Usage: python socket_scenarios.py NAME. Prints "done" when all is well.
"""

import os
import random
import signal
import sys
import threading

import greenio
from greenio import socket, spawn
from greenio._scheduler import unpark_fiber
from greenio.testing import wait_all_parked


def wait_for(pid):
    # Blocks the OS thread: parent and child share their sockets, and the parent's fibers must not take what is the child's.
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"


def in_child(fn):
    """Run fn() in a forked child, which ends; wait for it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        finally:
            if status:
                import traceback

                traceback.print_exc()
            os._exit(status)
    return pid


def fork_registers_anew():
    def main():
        left, right = socket.socketpair()
        reader = spawn(left.recv, 1)
        wait_all_parked()

        def child():
            # The same sockets, registered in the parent: here they are registered anew when they are waited on.
            inner, outer = socket.socketpair()
            for one, other in ((left, right), (inner, outer), (left, right)):
                waiting = spawn(one.recv, 10)
                wait_all_parked()
                assert waiting.state == "parked"
                other.sendall(b"child")
                assert waiting.result() == b"child"
            for sock in (left, right, inner, outer):
                sock.close()

        wait_for(in_child(child))
        wait_all_parked()
        assert reader.state == "parked"
        right.sendall(b"p")
        assert reader.result() == b"p"
        for _ in range(3):
            reader = spawn(left.recv, 1)
            wait_all_parked()
            right.sendall(b"q")
            assert reader.result() == b"q"
        left.close()
        right.close()

    greenio.run(main)


def epoll_contents(fd):
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return sorted(line for line in info if line.startswith("tfd:"))


def fork_leaves_the_parents_poller_alone():
    def main():
        epoll = next(
            int(name)
            for name in os.listdir("/proc/self/fd")
            if name.isdigit() and "eventpoll" in os.readlink(f"/proc/self/fd/{name}")
        )
        pairs = [socket.socketpair() for _ in range(5)]
        readers = [spawn(left.recv, 1) for left, _ in pairs]
        wait_all_parked()
        before = epoll_contents(epoll)
        assert len(before) >= 5

        def child():
            for name in os.listdir("/proc/self/fd"):
                try:
                    assert (
                        int(name) != epoll
                        or "eventpoll" not in os.readlink(f"/proc/self/fd/{name}")
                        or (len(epoll_contents(epoll)) < 5)
                    )
                except FileNotFoundError:
                    pass
            left, right = socket.socketpair()
            waiting = spawn(left.recv, 1)
            wait_all_parked()
            right.sendall(b"x")
            waiting.result()
            for one, other in [*pairs, (left, right)]:
                one.close()
                other.close()

        wait_for(in_child(child))
        assert epoll_contents(epoll) == before
        for reader, (left, right) in zip(readers, pairs, strict=True):
            assert reader.state == "parked"
            right.sendall(b"x")
            assert reader.result() == b"x"
            left.close()
            right.close()

    greenio.run(main)


def fork_in_a_signal_handler_on_top_of_the_idle_loop():
    pids = []
    left, right = socket.socketpair()

    def handler(number, frame):
        pids.append(os.fork())
        if pids[0]:
            feeding = threading.Timer(0.1, os.write, (right.fileno(), b"c"))
            feeding.start()
            wait_for(pids[0])
            feeding.join()
            os.write(right.fileno(), b"1234")

    def main():
        # In front of main in the line, and behind it, on stacks of their own, which are gone in the child.
        front = [spawn(left.recv, 1) for _ in range(2)]
        wait_all_parked()
        spawned = [*front, spawn(wait_behind)]
        poke = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        poke.start()
        got = left.recv(1)
        if pids[0] == 0:
            assert got == b"c"
            for _ in range(20):
                waiting = [spawn(left.recv, 1) for _ in range(5)]
                wait_all_parked()
                right.sendall(b"abcde")
                assert b"".join(fiber.result() for fiber in waiting) == b"abcde"
            os._exit(0)
        assert got == b"3"
        assert [fiber.result() for fiber in spawned] == [b"1", b"2", b"4"]
        poke.join()

    def wait_behind():
        main_fiber = greenio.current_scheduler().main
        while not main_fiber.waits_for:
            greenio.yield_now()
        spawn(unpark_fiber, main_fiber, left)  # main parks again, as the last: it hosts the idle loop
        return left.recv(1)

    signal.signal(signal.SIGUSR1, handler)
    greenio.run(main)
    left.close()
    right.close()


def fork_with_many_waiters():
    def main():
        left, right = socket.socketpair()
        readers = [spawn(left.recv, 1) for _ in range(10)]
        wait_all_parked()

        def child():
            # The parent's waiters are gone, and the stacks they lay on may be used again.
            found = [spawn(left.recv, 1) for _ in range(10)]
            wait_all_parked()
            found[0].cancel()
            found[5].cancel()
            right.sendall(b"01234567")
            assert b"".join(f.result() for i, f in enumerate(found) if i not in (0, 5)) == b"01234567"

        for _ in range(3):
            wait_for(in_child(child))
        right.sendall(b"0123456789")
        assert b"".join(reader.result() for reader in readers) == b"0123456789"
        left.close()
        right.close()

    greenio.run(main)


def close_storm():
    """Fibers on two OS threads wait on, close, cancel and reuse descriptors, in an order that changes."""

    def storm(seed):
        chance = random.Random(seed)

        def main():
            for _ in range(300):
                once(chance)

        greenio.run(main)

    def once(chance):
        left, right = socket.socketpair()
        calls = [
            lambda: left.recv(1),
            lambda: left.recv(1, socket.MSG_WAITALL),
            lambda: left.sendall(b"x" * 600_000),
            lambda: right.recv(10),
            lambda: right.send(b"y" * 300_000),
        ]
        fibers = [spawn(chance.choice(calls)) for _ in range(chance.randrange(1, 8))]
        for _ in range(chance.randrange(4)):
            chance.choice([greenio.yield_now, wait_all_parked])()
        steps = [left.close, right.close, lambda: right.dup().close(), lambda: left.dup().close()]
        steps += [fiber.cancel for fiber in fibers]
        chance.shuffle(steps)
        for step in steps:
            try:
                step()
            except OSError:
                pass
            if chance.random() < 0.3:
                greenio.yield_now()
        left.close()
        right.close()
        for fiber in fibers:
            fiber.join()
            if not fiber.cancelled():
                assert isinstance(fiber.exception(), (OSError, type(None)))

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    storm(7)
    for thread in threads:
        thread.join()


def signals_while_waiting():
    """Python signal handlers run while fibers wait on sockets; nothing is lost."""
    count = [0]

    def handler(number, frame):
        count[0] += 1

    def main():
        left, right = socket.socketpair()
        size = 20_000_000

        def read():
            total = 0
            while total < size:
                total += len(left.recv(65536))
            return total

        reader = spawn(read)
        right.sendall(b"x" * size)
        assert reader.result() == size
        while count[0] < 5:
            greenio.sleep(0.001)
        left.close()
        right.close()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    greenio.run(main)
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
