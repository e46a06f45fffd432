"""TLS whose system calls fail or do less than asked: run by tests/test_ssl.py under tests/native/faults.c.

Usage: python tls_faults.py SEED CANCELS. Prints how often each fault of GREENIO_FAULTS happened, then "ok". CANCELS: how many times
of 1,000 the fiber of a call is given up before it ends.
"""

import os
import random
import ssl as standard
import sys

import faults
import trustme

import greenio
from greenio import socket, spawn, ssl

LOCALHOST = "127.0.0.1"
CONNECTIONS = 4
BYTES = 150_000


def pairs():
    with socket.create_server((LOCALHOST, 0)) as listener:
        for index in range(CONNECTIONS):
            if index % 2:
                yield socket.socketpair()
            else:
                client = socket.socket()
                client.connect(listener.getsockname())
                yield client, listener.accept()[0]


def given_up(chance, cancels, call):
    """call(), by a fiber that may be cancelled meanwhile: what it returned, or its exception."""
    fiber = spawn(call)
    if chance.randrange(1000) < cancels:
        for _ in range(chance.randrange(4)):
            greenio.yield_now()
        if chance.random() < 0.5:
            greenio.sleep(chance.random() * 0.001)
        fiber.cancel()
    try:
        return fiber.result(), None
    except BaseException as error:
        if not fiber.cancelled():
            raise
        return None, error


def send(sock, data, chance, cancels):
    lost = {}
    at = 0
    while at < len(data):
        piece = data[at : at + chance.randint(1, 40_000)]

        def call(piece=piece):
            try:
                if chance.random() < 0.5:
                    return sock.send(piece)
                sock.sendall(piece)
            except BaseException as error:
                lost["sent"] = error.bytes_sent
                raise
            return len(piece)

        lost["sent"] = 0
        count, failure = given_up(chance, cancels, call)
        at += count if failure is None else lost["sent"]
    sock.sendall(b"")  # what was left behind


def receive(sock, data, chance, cancels):
    got = bytearray()
    while len(got) < len(data):

        def call():
            if chance.random() < 0.5:
                got.extend(sock.recv(chance.randint(1, 40_000)))
            else:
                room = bytearray(chance.randint(1, 40_000))
                got.extend(room[: sock.recv_into(room)])

        before = len(got)
        _, error = given_up(chance, cancels, call)
        assert error is not None or len(got) > before, "the stream ended too early"
    assert got == data


def exchange(client, server, contexts, seed, cancels):
    chance = random.Random(seed)
    accepting = spawn(lambda: ssl.start_tls(server, contexts[1], server_side=True))
    client = ssl.start_tls(client, contexts[0], server_hostname="localhost")
    server = accepting.result()
    there, back = chance.randbytes(BYTES), chance.randbytes(BYTES)
    jobs = [
        spawn(send, client, there, chance, cancels),
        spawn(send, server, back, chance, cancels),
        spawn(receive, client, back, chance, cancels),
        spawn(receive, server, there, chance, cancels),
    ]
    for job in jobs:
        job.result()
    ending = spawn(client.unwrap)
    server.unwrap()
    ending.result()
    client.close()
    server.close()


def main(seed, cancels):
    authority = trustme.CA()
    contexts = ssl.SSLContext(standard.PROTOCOL_TLS_CLIENT), ssl.SSLContext(standard.PROTOCOL_TLS_SERVER)
    authority.configure_trust(contexts[0])
    authority.issue_cert("localhost").configure_cert(contexts[1])
    made = list(pairs())
    with faults.active():
        jobs = [spawn(exchange, *pair, contexts, f"{seed}/{index}", cancels) for index, pair in enumerate(made)]
        for job in jobs:
            job.result()


greenio.run(main, int(sys.argv[1]), int(sys.argv[2]))
for item in os.environ["GREENIO_FAULTS"].split(";"):
    group, _, values = item.partition("=")
    for value in values.split(",") if group != "seed" else ():
        fault = value.partition(":")[0]
        print(f"{group} {fault}: {faults.count(group, fault)}")
        assert faults.count(group, fault) > 0, f"{group} {fault} never happened"
print("ok")
