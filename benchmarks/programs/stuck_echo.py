"""Echo server beside one fiber of each kind of stall, again and again.

`python -m benchmarks.programs.stuck_echo MODE FOLDER KINDS LOAD…`

LOAD… is the load generator with its arguments after the port and the process id; it runs as a process of its own, compares every byte
and prints the figures. MODE is run's `stall`, FOLDER has the file `large`, KINDS are the names in STUCK, separated by commas. For
`lookup`, port 53 of the loopback is taken by nobody who answers; see benchmarks/stall.py.
"""

import ctypes
import hashlib
import logging
import os
import socket as standard_socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import greenio
from benchmarks.servers._server import BACKLOG, HOST, READ_BYTES, set_no_delay
from greenio import socket

libc = ctypes.CDLL(None)
PAUSE = 0.001  # seconds between two stalls of one kind: there the stuck fiber parks


def usleep(folder: str) -> None:
    libc.usleep(200_000)


def locked(folder: str) -> None:
    path = os.path.join(folder, f"{os.getpid()}.db")
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("create table if not exists t (x)")
    locker.execute("begin exclusive")
    unlock = threading.Timer(0.9, locker.execute, ("commit",))
    unlock.start()
    other = sqlite3.connect(path, timeout=30, isolation_level=None)
    other.execute("insert into t values (1)")
    other.close()
    unlock.join()
    locker.close()


def lookup(folder: str) -> None:
    try:
        standard_socket.getaddrinfo("nobody.answers.example", 80)
    except OSError:
        pass


def read(folder: str) -> None:
    buffer = bytearray(64 << 20)
    with open(os.path.join(folder, "large"), "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def scrypt(folder: str) -> None:
    hashlib.scrypt(b"password", salt=b"salt", n=2**15, r=8, p=4, maxmem=2**28)


def compute(folder: str) -> None:
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        pass


STUCK: dict[str, Callable[[str], None]] = {
    "usleep": usleep,
    "sqlite": locked,
    "lookup": lookup,
    "file": read,
    "scrypt": scrypt,
    "compute": compute,
}


def serve(connection: socket.socket) -> None:
    with connection:
        set_no_delay(connection)
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        greenio.spawn(serve, connection)


def main(folder: str, kinds: list[str], load: list[str]) -> int:
    def stall_again_and_again(kind: str) -> None:
        while True:
            STUCK[kind](folder)
            greenio.sleep(PAUSE)

    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        greenio.spawn(accept, listener)
        program, *arguments = load
        port = listener.getsockname()[1]
        process = subprocess.Popen([program, str(port), str(os.getpid()), *arguments])
        for kind in kinds:
            greenio.spawn(stall_again_and_again, kind)
        return greenio.to_thread(process.wait)


def begin(mode: str, folder: str, kinds: str, *load: str) -> int:
    logging.disable(logging.CRITICAL)
    deaf = standard_socket.socket(standard_socket.AF_INET, standard_socket.SOCK_DGRAM)
    names = [each for each in kinds.split(",") if each]
    if "lookup" in names:
        deaf.bind((HOST, 53))
    return greenio.run(lambda: os._exit(main(folder, names, list(load))), stall=mode)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(begin(*sys.argv[1:]))
