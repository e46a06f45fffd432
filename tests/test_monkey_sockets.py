"""socket, ssl, select and selectors under greenio.monkey. What patches runs in child interpreters."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.child import run_child

if TYPE_CHECKING:  # children import this module, without the folder of faults.py
    from faults import Faults

SETUP = """
    import errno, os, select, selectors, socket, sys, threading, time
    import greenio, greenio.monkey

    def begun(fiber):
        # The fiber, once it is parked: others run meanwhile.
        while fiber.state != "parked":
            assert not fiber.done(), (fiber, fiber.exception())
            greenio.sleep(0.001)
        return fiber

    def parks(call, *arguments):
        # A fiber that waits in the call.
        return begun(greenio.spawn(call, *arguments))

    def raises(kind, call, *arguments, number=None):
        try:
            result = call(*arguments)
        except kind as error:
            assert number is None or error.errno == number, error
            return error
        raise AssertionError(f"{call} returned {result!r}")
"""


def check(
    body: str, *arguments: str, run: Callable[..., Any] = run_child, flags: tuple[str, ...] = ("-W", "error")
) -> None:
    text = "\n".join(line[4:] if line.startswith("    ") else line for line in SETUP.splitlines())
    lines = body.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    source = text + "\n" + "\n".join(line[indent:] for line in lines) + "\nprint('ok')\n"
    done = run(source, *arguments, flags=flags)
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr


def test_every_wait_of_a_socket_parks_and_serves() -> None:
    check(
        """
        greenio.monkey.patch_all()
        listener = socket.create_server(("127.0.0.1", 0))
        accepting = parks(listener.accept)
        client = socket.create_connection(listener.getsockname())
        server, address = accepting.result()
        assert type(server) is socket.socket and address == client.getsockname()
        assert os.get_blocking(listener.fileno()) and os.get_blocking(server.fileno()) and os.get_blocking(client.fileno())
        room = bytearray(8)
        for receive, expected in (
            (lambda: client.recv(8), b"hello"),
            (lambda: client.recv_into(room), 5),
            (lambda: client.recvfrom(8)[0], b"hello"),
            (lambda: client.recvfrom_into(room)[0], 5),
            (lambda: client.recvmsg(8)[0], b"hello"),
            (lambda: client.recvmsg_into([room])[0], 5),
            (lambda: client.recv(5, socket.MSG_WAITALL), b"hello"),
        ):
            waiting = parks(receive)
            server.sendall(b"hello")
            assert waiting.result() == expected
        data = bytes(30_000_000)     # more than the buffers of both ends grow to
        for send in (client.sendall, client.send, lambda data: client.sendmsg([data])):
            sending = [parks(client.sendall, data), parks(send, data)]
            received = 0
            while not all(each.done() for each in sending):
                if select.select([server], [], [], 0)[0]:
                    received += len(server.recv(1 << 20))
                else:
                    time.sleep(0)  # all is there, and who sent it does not know yet
            sent = len(data) + (sending[1].result() or len(data))
            while received < sent:
                received += len(server.recv(1 << 20))
            assert received == sent and sending[0].result() is None
        """
    )


def test_dontwait_never_waits() -> None:
    check(
        """
        greenio.monkey.patch_all()
        a, b = socket.socketpair()
        c, d = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        room, flag = bytearray(8), socket.MSG_DONTWAIT
        for sock in (a, c):
            for receive in (
                lambda: sock.recv(8, flag),
                lambda: sock.recv_into(room, 0, flag),
                lambda: sock.recvfrom(8, flag),
                lambda: sock.recvfrom_into(room, 0, flag),
                lambda: sock.recvmsg(8, 0, flag),
                lambda: sock.recvmsg_into([room], 0, int(flag)),
            ):
                raises(BlockingIOError, receive, number=errno.EAGAIN)
        for sock, send in (
            (a, lambda: a.send(bytes(4096), flag)),
            (a, lambda: a.sendmsg([bytes(4096)], [], flag)),
            (a, lambda: a.sendall(bytes(4096), flag)),
            (c, lambda: c.send(bytes(4096), flag)),
        ):
            with greenio.timeout(30):
                try:
                    while True:
                        send()
                except BlockingIOError as error:
                    assert error.errno == errno.EAGAIN
        # With a timeout of its own the standard class waits all the same.
        d.setblocking(False)
        try:
            while d.recv(4096): pass
        except BlockingIOError:
            pass
        c.settimeout(30)
        waiting = parks(c.recv, 8, flag)
        d.send(b"x")
        assert waiting.result() == b"x"
        """,
        flags=(),
    )


def test_threads_of_greenios_own_are_no_threads_of_the_program() -> None:
    check(
        """
        import _thread
        greenio.monkey.patch_all()
        before = _thread._count()
        inside = greenio.to_thread(_thread._count)
        assert inside == before == _thread._count() == 0, (inside, before, _thread._count())
        assert threading.enumerate() == [threading.main_thread()] != greenio.monkey.get_original("threading", "enumerate")()
        OSThread = greenio.monkey.get_original("threading", "Thread")
        go_on = threading.Event()
        threads = [kind(target=go_on.wait) for kind in (OSThread, threading.Thread)]
        for thread in threads: thread.start()
        assert _thread._count() == 2
        go_on.set()
        for thread in threads: thread.join()
        while _thread._count(): time.sleep(0.001)
        """
    )


def test_files_of_sockets_are_for_fibers() -> None:
    check(
        """
        import io
        greenio.monkey.patch_all()
        a, b = socket.socketpair()
        reader, writer, pair, text = a.makefile("rb"), b.makefile("wb"), a.makefile("rwb"), b.makefile("rw", encoding="ascii")
        for file, kind in ((reader, io.BufferedReader), (writer, io.BufferedWriter), (pair, io.BufferedRWPair),
                           (text, io.TextIOWrapper), (a.makefile("rb", 0), socket.SocketIO)):
            assert isinstance(file, kind), file
        assert repr(reader) == f"<_io.BufferedReader name={a.fileno()}>"
        assert text.mode == "rw" and reader.mode == "rb" and reader.name == a.fileno()
        # Two fibers in one file.
        lines = [parks(reader.readline), parks(reader.readline)]
        b.sendall(b"one\\ntwo\\n")
        assert [line.result() for line in lines] == [b"one\\n", b"two\\n"]
        # What a cancelled read had is there for the next one.
        for _ in range(2):
            waiting = parks(reader.read, 10)
            b.sendall(b"12345")
            while select.select([a], [], [], 0)[0]: greenio.sleep(0.001)
            begun(waiting).cancel(); waiting.join()
            b.sendall(b"67890")
            assert reader.read(10) == b"1234567890"
        # Of a cancelled write exactly the bytes that it says were accepted go out.
        data, accepted = os.urandom(4_000_000), []
        def write():
            try:
                writer.write(data)
            except greenio.Cancelled as error:
                accepted.append(error.characters_written)
                raise
        waiting = parks(write)
        waiting.cancel(); waiting.join()
        assert 0 < accepted[0] < len(data)
        flushing = greenio.spawn(writer.flush)
        assert reader.read(accepted[0]) == data[:accepted[0]]
        flushing.join()
        assert not select.select([a], [], [], 0)[0]
        raises(ValueError, a.makefile, "x")
        raises(ValueError, a.makefile, "r", 0)
        # The socket is open as long as its files are.
        line = parks(text.readline)
        a.sendall(b"text\\n")
        assert line.result() == "text\\n"
        for file in (reader, pair):
            a.close()
            assert a.fileno() >= 0
            file.close()
        import gc; gc.collect()
        assert a.fileno() == -1
        """,
        flags=(),
    )


def test_timeouts_are_the_objects_own() -> None:
    check(
        """
        greenio.monkey.patch_all()
        a, b = socket.socketpair()
        a.settimeout(0.02)
        assert str(raises(TimeoutError, a.recv, 1)) == "timed out"
        a.setblocking(False)
        raises(BlockingIOError, a.recv, 1, number=errno.EAGAIN)
        assert a.gettimeout() == 0 and not os.get_blocking(a.fileno())
        a.settimeout(None)
        try:
            with greenio.timeout(0.02):
                a.recv(1)
            raise AssertionError
        except TimeoutError:
            pass
        b.sendall(b"x")
        assert a.recv(1) == b"x"
        """
    )


def test_whoever_waits_on_a_closed_or_detached_socket_gets_ebadf() -> None:
    check(
        """
        greenio.monkey.patch_all()
        for end in ("close", "detach", "os"):
            a, b = socket.socketpair()
            waiting = parks(a.recv, 1)
            if end == "os":
                socket.close(a.detach())
            elif end == "detach":
                os.close(a.detach())
            else:
                a.close()
            assert waiting.exception().errno == errno.EBADF
            raises(OSError, a.recv, 1, number=errno.EBADF)
            b.close()
        a, b = socket.socketpair()
        waiting = parks(a.recv, 1)
        a.shutdown(socket.SHUT_RDWR)
        assert waiting.result() == b""
        listener = socket.create_server(("127.0.0.1", 0))
        waiting = parks(listener.accept)
        listener.close()
        assert waiting.exception().errno == errno.EBADF
        """
    )


def test_a_number_that_is_another_sockets_by_now_serves_that() -> None:
    check(
        """
        import warnings
        warnings.simplefilter("ignore")
        greenio.monkey.patch_all()
        for _ in range(3):
            a, b = socket.socketpair()
            a.settimeout(0.01)
            raises(TimeoutError, a.recv, 1)
            number = a.fileno()
            del a
            c, d = socket.socketpair()
            assert number in (c.fileno(), d.fileno())
            c, d = (c, d) if c.fileno() == number else (d, c)
            waiting = parks(c.recv, 1)
            d.sendall(b"y")
            assert waiting.result() == b"y"
        """
    )


def test_classes_and_objects_from_before_park_as_well() -> None:
    check(
        """
        from socket import socket as Socket
        class Counting(socket.socket):
            received = 0
            def recv(self, *arguments):
                data = super().recv(*arguments)
                self.received += len(data)
                return data
        before, peer = socket.socketpair()
        counting = Counting(fileno=before.detach())
        epoll_selector, poll_selector, select_selector = (
            selectors.EpollSelector(), selectors.PollSelector(), selectors.SelectSelector())
        for each in (epoll_selector, poll_selector, select_selector):
            each.register(counting, selectors.EVENT_READ)
        epoll_selector.register(peer, selectors.EVENT_READ)

        def main():
            greenio.monkey.patch_all()
            assert Socket is socket.socket
            for each in (epoll_selector, poll_selector, select_selector):
                waiting = parks(each.select)
                peer.sendall(b"z")
                (key, events), = waiting.result()
                assert key.fileobj is counting and events == selectors.EVENT_READ
                assert counting.recv(10) == b"z"
            waiting = parks(counting.recv, 10)
            peer.sendall(b"abc")
            assert waiting.result() == b"abc" and counting.received == 6
        greenio.run(main)
        for each in (epoll_selector, poll_selector, select_selector):
            assert each.select(0) == []
            each.close()
        counting.close(); peer.close()
        """
    )


def test_select_poll_and_epoll_park() -> None:
    check(
        """
        original = [select.select]     # out of reach
        from select import select as taken
        greenio.monkey.patch_all()
        assert taken is not original[0]
        a, b = socket.socketpair()
        poll = select.poll()
        poll.register(a, select.POLLIN)
        epoll = select.epoll()
        epoll.register(a, select.EPOLLIN)
        for wait, expected in (
            (lambda: select.select([a], [], []), ([a], [], [])),
            (lambda: taken([a], [], [], 10), ([a], [], [])),
            (lambda: poll.poll(), [(a.fileno(), select.POLLIN)]),
            (lambda: epoll.poll(), [(a.fileno(), select.EPOLLIN)]),
        ):
            waiting = parks(wait)
            b.sendall(b"x")
            assert waiting.result() == expected
            assert a.recv(1) == b"x"
        assert select.select([a], [], [], 0.01) == ([], [], []) and poll.poll(10) == [] and epoll.poll(0.01) == []
        waiting = parks(poll.poll)
        raises(RuntimeError, poll.poll)
        waiting.cancel(); waiting.join()
        raises(TypeError, type(poll))
        raises(OverflowError, poll.poll, 1 << 31)
        assert isinstance(epoll, select.epoll)
        epoll.close()
        raises(ValueError, epoll.poll)
        """
    )


def test_an_os_thread_without_fibers_waits_as_ever() -> None:
    check(
        """
        greenio.monkey.patch_all()
        start = greenio.monkey.get_original("_thread", "start_new_thread")
        results = []
        a, b = socket.socketpair()
        def outside():
            assert not greenio.can_park()
            results.append(a.recv(10))
            results.append(select.select([a], [], [])[0] == [a])
            poll = select.poll(); poll.register(a, select.POLLIN)
            results.append(len(poll.poll()))
            a.sendall(a.recv(10))
            results.append(socket.getaddrinfo("127.0.0.1", 80)[0][4])
        start(outside, ())
        b.sendall(b"one")
        while len(results) < 1: time.sleep(0.001)
        b.sendall(b"two")
        assert b.recv(10) == b"two"
        while len(results) < 4: time.sleep(0.001)
        assert results == [b"one", True, 1, ("127.0.0.1", 80)]
        """
    )


def test_unpatching_leaves_modules_and_classes_as_they_were() -> None:
    check(
        """
        import ssl
        owners = [socket, socket.socket, select, selectors, ssl, ssl.SSLSocket, ssl.SSLContext,
            selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector]
        before = [dict(vars(owner)) for owner in owners]
        for name in ("socket", "ssl", "select", "selectors"):
            patch = getattr(greenio.monkey, f"patch_{name}")
            patch(); patch()
        assert {"socket", "ssl", "select", "selectors"} <= set(greenio.monkey.patched_modules())
        assert greenio.monkey.get_original("select", "epoll") is before[2]["epoll"]
        a, b = socket.socketpair()
        def main():
            waiting = parks(a.recv, 1)
            b.sendall(b"x")
            assert waiting.result() == b"x"
        greenio.run(main)
        greenio.monkey.unpatch_all()
        for owner, names in zip(owners, before):
            assert dict(vars(owner)) == names, owner
        b.sendall(b"y")
        assert a.recv(1) == b"y"
        a.close(); b.close()
        """
    )


def test_names_keep_their_looks() -> None:
    check(
        """
        import inspect
        recv, lookup = socket.socket.recv, socket.getaddrinfo
        text = recv.__doc__
        greenio.monkey.patch_all()
        assert socket.socket.recv is not recv and socket.socket.recv.__name__ == "recv"
        assert socket.socket.recv.__qualname__ == "socket.recv" and socket.socket.recv.__doc__ == text
        assert socket.getaddrinfo.__module__ == "socket" and socket.getaddrinfo.__doc__ == lookup.__doc__
        assert inspect.signature(socket.getaddrinfo) == inspect.signature(lookup)
        assert socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4] == ("127.0.0.1", 80)
        with socket.socket() as sock:
            raises(TypeError, sock.recv)
            raises(ValueError, sock.recv, -1)
            raises(TypeError, sock.sendall, "text")
            raises(TypeError, sock.connect, "nowhere")
        """
    )


def test_a_forked_child_goes_on_with_the_sockets() -> None:
    check(
        """
        greenio.monkey.patch_all()
        a, b = socket.socketpair()
        a.settimeout(0.01)
        raises(TimeoutError, a.recv, 1)
        a.settimeout(10)
        pid = os.fork()
        if pid == 0:
            waiting = parks(a.recv, 1)
            b.sendall(b"c")
            os._exit(waiting.result() != b"c")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        waiting = parks(a.recv, 1)
        b.sendall(b"p")
        assert waiting.result() == b"p"
        """,
        flags=(),
    )


@pytest.mark.parametrize("outside", [False, True])
def test_tls_of_the_standard_class_parks(outside: bool, tmp_path: Path) -> None:
    # `outside`: TLS begins before there are fibers.
    check(
        f"""
        import ssl
        from tests.test_monkey_sockets import certificate
        path = certificate(sys.argv[1])
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(path)
        client_context = ssl.create_default_context(cafile=path)
        client_context.check_hostname = False
        one, other = socket.socketpair()
        def wrap_server(found):
            found.append(server_context.wrap_socket(other, server_side=True))
        if {outside}:
            found = []
            thread = threading.Thread(target=wrap_server, args=(found,))
            thread.start()
            client = client_context.wrap_socket(one)
            thread.join()
            server = found[0]
        greenio.monkey.patch_all()
        if not {outside}:
            handshake = parks(lambda: server_context.wrap_socket(other, server_side=True))
            client = client_context.wrap_socket(one)
            server = handshake.result()
        assert type(client) is ssl.SSLSocket and client.version().startswith("TLS") and client.getpeercert()
        for receive in (client.recv, client.read, lambda size: client.recv_into(bytearray(size)) and b"hello"):
            waiting = parks(receive, 10)
            server.sendall(b"hello")
            assert waiting.result() == b"hello"
        client.settimeout(0.02)
        raises(TimeoutError, client.recv, 1)
        client.settimeout(None)
        whole = bytes(range(256)) * 8192
        sending = greenio.spawn(client.send, whole)      # more than a record, and than there is room for
        received = b""
        while len(received) < len(whole): received += server.recv(1 << 20)
        assert received == whole and sending.result() == len(whole)
        file = server.makefile("rb")
        line = parks(file.readline)
        client.sendall(b"a line\\n")
        assert line.result() == b"a line\\n"
        server.sendall(b"two parts")
        assert client.recv(3) == b"two" and client.pending() == 6 and client.recv(10) == b" parts"
        ending = parks(client.unwrap)
        raw = server.unwrap()
        assert ending.result().fileno() == client.fileno()
        waiting = parks(client.recv, 10)
        raw.sendall(b"clear")
        assert waiting.result() == b"clear"
        file.close(); client.close(); server.close(); raw.close()
        """,
        str(tmp_path),
        flags=(),
    )


def test_a_file_that_waits_has_no_room_and_asks_what_the_program_defines() -> None:
    check(
        """
        import tracemalloc
        greenio.monkey.patch_all()
        pairs = [socket.socketpair() for _ in range(20)]
        files = [far.makefile("rb", 60000) for _, far in pairs]
        tracemalloc.start()
        reading = [parks(file.readline) for file in files]
        assert tracemalloc.get_traced_memory()[0] < 20 * 20000
        for near, _ in pairs: near.sendall(b"line\\n")
        assert [fiber.result() for fiber in reading] == [b"line\\n"] * 20
        tracemalloc.stop()

        class Counted(socket.socket):
            asked = 0
            def recv_into(self, *arguments):
                Counted.asked += 1
                return super().recv_into(*arguments)

        near, far = socket.socketpair()
        counted = Counted(fileno=far.detach())
        file = counted.makefile("rb")
        near.sendall(b"line\\n")
        assert file.readline() == b"line\\n" and Counted.asked == 1
        near.sendall(b"before")
        assert file.peek() == b"before"
        for sock in (near, counted, *(sock for pair in pairs for sock in pair)): sock.close()
        for one in (file, *files): one.close()
        """
    )


def certificate(folder: str) -> str:
    """The path of a self-signed certificate with its key, made in *folder*."""
    path = Path(folder, "both.pem")
    key = Path(folder, "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(key.read_bytes() + path.read_bytes())
    return str(path)


@pytest.mark.slow
def test_servers_and_clients_of_the_standard_library_park() -> None:
    check(
        """
        import http.client, http.server, socketserver, urllib.request, xmlrpc.client, xmlrpc.server
        greenio.monkey.patch_all()
        everybody = threading.Barrier(20)       # nobody gets an answer before all have asked
        class Slow(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_GET(self):
                everybody.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")
            def log_message(self, *arguments):
                pass
        class Threaded(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
        server = Threaded(("127.0.0.1", 0), Slow)
        serving = greenio.spawn(server.serve_forever)
        url = "http://127.0.0.1:%d/" % server.server_address[1]
        def ask():
            with urllib.request.urlopen(url) as answer:
                return answer.read()
        asking = [greenio.spawn(ask) for _ in range(20)]
        assert [each.result() for each in asking] == [b"ok"] * 20
        server.shutdown(); serving.join(); server.server_close()
        """,
        flags=(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("made", ["opened", "from a number"])
def test_forked_processes_that_accept_on_one_blocking_listener_do_not_block_one_another(
    faults: "Faults", made: str
) -> None:
    check(
        """
        import faults
        greenio.monkey.patch_all()
        def serve(listener):
            while True:
                listener.accept()[0].close()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"\\0greenio %d" % os.getpid())
        listener.listen(64)
        if sys.argv[1] != "opened":
            listener = listener.dup()
        ended, end = os.pipe()
        workers = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                os.close(end)
                faults.choose("accept=late:0.7", len(workers))       # each at other times
                with faults.active():
                    threading.Thread(target=serve, args=(listener,), daemon=True).start()
                    os.read(ended, 1)       # parks, until nobody can write
                os._exit(0)
            workers.append(pid)
        for _ in range(5000):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(listener.getsockname())
                assert client.recv(1) == b""
        os.close(end)
        with greenio.timeout(20):           # one that waits in accept itself does not hear of it
            assert [os.waitpid(pid, 0) for pid in workers] == [(pid, 0) for pid in workers]
        """,
        made,
        run=lambda source, *arguments, **more: faults.run(source, "accept=late:0.7", *arguments, **more),
    )
