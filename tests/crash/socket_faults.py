"""Sockets whose system calls fail or do less than asked: run by tests/test_socket_faults.py under tests/native/faults.c.

Usage: python socket_faults.py NAME SEED. Prints how often each fault of GREENIO_FAULTS happened, then "ok".
"""

import array
import errno
import os
import random
import sys
import tempfile

import faults

import greenio
from greenio import socket, spawn

LOCALHOST = "127.0.0.1"


def pairs(chance, count):
    """Connected pairs of streams, TCP and Unix by turns; made before faults begin."""
    with socket.create_server((LOCALHOST, 0)) as listener:
        for index in range(count):
            if index % 2:
                yield socket.socketpair()
            else:
                client = socket.socket()
                client.connect(listener.getsockname())
                yield client, listener.accept()[0]


def receive_exactly(sock, size, chance):
    parts = []
    while size:
        way = chance.randrange(3)
        most = chance.randint(1, size)
        if way == 0:
            part = sock.recv(most)
        elif way == 1:
            room = bytearray(most)
            part = bytes(room[: sock.recv_into(room)])
        else:
            part = sock.recv(most, socket.MSG_WAITALL)
            assert len(part) == most, (len(part), most)
        assert part, "the stream ended too early"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send_all(sock, data, chance):
    if chance.random() < 0.5:
        sock.sendall(data)
        return
    rest = memoryview(data)
    while rest:
        rest = rest[sock.send(rest) :]


def echo(chance):
    """Messages of random sizes go forth and back on several connections at once, and come back as they were."""

    def answer(sock, chance):
        with sock:
            while data := sock.recv(chance.randint(1, 100_000)):
                send_all(sock, data, chance)

    def ask(sock, chance):
        with sock:
            for _ in range(30):
                message = chance.randbytes(int(2 ** chance.uniform(0, 18)))
                sending = spawn(send_all, sock, message, random.Random(chance.random()))
                assert receive_exactly(sock, len(message), chance) == message, "the echo is another message"
                sending.result()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"", "more came than was sent"

    made = list(pairs(chance, 6))
    with faults.active():
        jobs = [
            spawn(fn, sock, random.Random(chance.random()))
            for pair in made
            for fn, sock in zip((ask, answer), pair, strict=True)
        ]
        for job in jobs:
            job.result()


def files(chance):
    """Lines through makefile(), both ways."""
    left, right = socket.socketpair()
    lines = [chance.randbytes(chance.randrange(3000)).hex() + "\n" for _ in range(300)]

    def write():
        with left, left.makefile("w") as file:
            file.writelines(lines)

    with faults.active():
        writer = spawn(write)
        with right, right.makefile("r") as file:
            assert list(file) == lines
        writer.result()


def messages(chance):
    """Numbered datagrams with a descriptor or two arrive in order, whole and once, at connected and at named receivers."""
    name = b"\0greenio-faults-%d" % os.getpid()
    before = len(os.listdir("/proc/self/fd"))

    def data_of(number):
        return b"%d " % number * (number % 200 + 1)

    def send(sock, address, chance):
        for number in range(400):
            data = data_of(number)
            way = chance.randrange(3)
            if way == 0:
                descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
                sent = sock.sendmsg([data[:3], data[3:]], descriptors, 0, address)
            elif way == 1 or address is None:
                sent = sock.sendmsg([data], [], 0, address)
            else:
                sent = sock.sendto(data, address)
            assert sent == len(data)

    def receive(sock, chance):
        for number in range(400):
            data, control, flags, _ = sock.recvmsg(5000, 100)
            for item in control:
                for fd in array.array("i", item[2]):
                    os.close(fd)
            assert (data, flags) == (data_of(number), 0), (data, number)

    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    named.bind(name)
    unnamed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, named, unnamed, faults.active():
        jobs = [
            spawn(send, left, None, chance),
            spawn(receive, right, chance),
            spawn(send, unnamed, name, chance),
            spawn(receive, named, chance),
        ]
        for job in jobs:
            job.result()
    assert len(os.listdir("/proc/self/fd")) == before


def sendfile(chance):
    """Files arrive as they are, whatever sendfile(2) says, and wherever it stops."""

    def send(sock, file, size):
        with sock:
            for start in range(0, size, 60_000):
                assert sock.sendfile(file, start, 60_000) == min(60_000, size - start)

    data = chance.randbytes(2_500_000)
    with tempfile.TemporaryFile() as file, socket.create_server((LOCALHOST, 0)) as listener:
        file.write(data)
        file.flush()
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with server, faults.active():
            sending = spawn(send, client, file, len(data))
            assert receive_exactly(server, len(data), chance) == data
            assert server.recv(1) == b""
            sending.result()


def accept(chance):
    """A server goes on accepting whatever accept says, and every connection that was made is served."""
    refused = []

    def serve(listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                refused.append(error.errno)
                if error.errno not in (errno.ECONNABORTED, errno.EMFILE, errno.ENOBUFS):
                    raise
                continue
            spawn(answer, sock)

    def answer(sock):
        with sock:
            sock.sendall(sock.recv(100))

    def ask(address, index):
        while True:
            try:
                sock = socket.create_connection(address)
                break
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
        with sock:
            sock.sendall(b"%d" % index)
            assert sock.recv(100) == b"%d" % index

    with socket.create_server((LOCALHOST, 0), backlog=300) as listener, faults.active():
        servers = [spawn(serve, listener) for _ in range(3)]
        for job in [spawn(ask, listener.getsockname(), index) for index in range(200)]:
            job.result()
        for server in servers:
            assert not server.done(), server.exception()
            server.cancel()
            server.join()
    if "accept=ECONNABORTED" in os.environ["GREENIO_FAULTS"]:
        assert refused


def deadlines(chance):
    """Timeouts and sleeps keep their times, though waits end early and descriptors seem ready."""
    left, right = socket.socketpair()
    left.settimeout(0.05)
    late = []

    def wait():
        for _ in range(5):
            begin = greenio.current_time()
            try:
                left.recv(1)
            except TimeoutError:
                late.append(greenio.current_time() - begin)

    with left, right, faults.active():
        waiting = [spawn(wait) for _ in range(5)]
        begin = greenio.current_time()
        greenio.sleep(0.1)
        assert greenio.current_time() - begin >= 0.1
        for job in waiting:
            job.result()
    assert len(late) == 25
    assert min(late) >= 0.05, min(late)


if __name__ == "__main__":
    name, seed = sys.argv[1:]
    greenio.run(globals()[name], random.Random(f"{name} {seed}"))
    for item in os.environ["GREENIO_FAULTS"].split(";"):
        group, _, values = item.partition("=")
        if group == "seed":
            continue
        for value in values.split(","):
            fault = value.partition(":")[0]
            print(f"{group} {fault}: {faults.count(group, fault)}")
            assert faults.count(group, fault) > 0, f"{group} {fault} never happened"
    print("ok")
