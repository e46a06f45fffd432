"""Real servers on the loopback, for tests and benchmarks of client libraries: each a context manager that gives its address.

A server runs in a temporary folder on a free port, as a user without privileges where it demands that, and is ended when the block
is left, however it is left. One that is not installed raises Missing, with the command that installs it.

The address is a dictionary of texts and numbers, so that it can be handed to a child interpreter as JSON.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
SECONDS_TO_START = 60  # far above what any of them needs; RabbitMQ, the slowest, took 9 on a busy machine
CONNECTIONS = 400  # what a server must be able to take at once
SERVICES = Path(__file__).resolve().parent / "drivers" / "services.py"

Address = dict[str, Any]


class Missing(Exception):
    """A server is not installed, or does not start here; the message says how to get it."""


@contextlib.contextmanager
def redis() -> Iterator[Address]:
    """Redis: {host, port}."""
    program = _program("redis-server", "redis-server")
    with _folder() as folder:
        port = _free_port()
        options = ["--save", "", "--appendonly", "no", "--maxclients", "1000", "--tcp-backlog", "511"]
        with _started([program, "--bind", HOST, "--port", str(port), "--dir", str(folder), *options], folder, port):
            yield {"host": HOST, "port": port}


@contextlib.contextmanager
def postgres() -> Iterator[Address]:
    """PostgreSQL: {host, port, user, dbname}; without a password."""
    folders = [os.fspath(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    initdb = _program("initdb", "postgresql", folders)
    program = _program("postgres", "postgresql", folders)
    user = _unprivileged("postgres")
    with _folder(user) as folder:
        data = folder / "data"
        _run([initdb, "-D", str(data), "-U", "greenio", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"], user)
        port = _free_port()
        settings = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": folder,
            "max_connections": CONNECTIONS,
            "shared_buffers": "32MB",
            "fsync": "off",
            "autovacuum": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

        def answers() -> bool:
            ready = _program("pg_isready", "postgresql", folders)
            command = [ready, "-q", "-h", HOST, "-p", str(port), "-d", "postgres"]
            return subprocess.run(command, check=False).returncode == 0

        # SIGINT: a fast shutdown, which ends the sessions.
        command = [program, "-D", str(data), *options]
        with _started(command, folder, port, user=user, stop=signal.SIGINT, answers=answers):
            yield {"host": HOST, "port": port, "user": "greenio", "dbname": "postgres"}


@contextlib.contextmanager
def mariadb() -> Iterator[Address]:
    """MariaDB: {host, port, user, password, database}."""
    install = _program("mariadb-install-db", "mariadb-server")
    program = _program("mariadbd", "mariadb-server")
    user = _unprivileged("mysql")
    with _folder(user) as folder:
        data = folder / "data"
        common = ["--no-defaults", f"--datadir={data}"]
        _run([install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"], user)
        (folder / "start.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS greenio;\n"
            f"CREATE USER IF NOT EXISTS greenio@'{HOST}' IDENTIFIED BY 'secret';\nGRANT ALL ON greenio.* TO greenio@'{HOST}';\n"
        )
        port = _free_port()
        options = [
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--port={port}",
            f"--bind-address={HOST}",
            f"--init-file={folder / 'start.sql'}",
            f"--max-connections={CONNECTIONS}",
            f"--back-log={CONNECTIONS}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=16M",
        ]

        def answers() -> bool:  # it listens before it has run the file that makes the user
            return "ready for connections" in (folder / "log").read_text(errors="replace")

        # Nothing of its data is kept, so it need not put that in order, which takes ten seconds.
        command = [program, *common, *options]
        with _started(command, folder, port, user=user, stop=signal.SIGKILL, answers=answers):
            yield {"host": HOST, "port": port, "user": "greenio", "password": "secret", "database": "greenio"}


@contextlib.contextmanager
def rabbitmq() -> Iterator[Address]:
    """RabbitMQ: {host, port}; guest's password is guest's name."""
    program = _program("rabbitmq-server", "rabbitmq-server", ["/usr/lib/rabbitmq/bin"])
    user = _unprivileged("rabbitmq")
    with _folder(user) as folder:
        port, distribution, mapper = _free_port(), _free_port(), _free_port()
        environment = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"greenio{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1:1",
        }
        (folder / "plugins").write_text("[].\n")
        with _started([program], folder, port, user=user, environment=environment):
            yield {"host": HOST, "port": port}


@contextlib.contextmanager
def sshd() -> Iterator[Address]:
    """OpenSSH's server: {host, port, user, key}: the file of a private key that it lets in."""
    program = _program("sshd", "openssh-server", ["/usr/sbin"])
    keygen = _program("ssh-keygen", "openssh-client")
    with _folder() as folder:
        for name in ("host", "client"):
            _run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], None)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it shuts its unprivileged half in
        port = _free_port()
        (folder / "configuration").write_text(
            f"Port {port}\nListenAddress {HOST}\nHostKey {folder}/host\nPidFile {folder}/pid\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/client.pub\nPermitRootLogin prohibit-password\nMaxSessions 200\nMaxStartups 200\n"
            "Subsystem sftp internal-sftp\nSetEnv SHLVL=2\nPrintMotd no\nPrintLastLog no\n"
        )
        command = [program, "-D", "-e", "-f", str(folder / "configuration")]
        with _started(command, folder, port):
            user = pwd.getpwuid(os.getuid()).pw_name
            yield {"host": HOST, "port": port, "user": user, "key": str(folder / "client")}


def service(name: str, *modules: str) -> "Callable[[], contextlib.AbstractContextManager[Address]]":
    """One of services.py, in a Python process of its own: {host, port}. *modules* are what it needs beyond the standard library."""

    @contextlib.contextmanager
    def started() -> Iterator[Address]:
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise Missing(f"no {module}: python -m pip install 'greenio-fibers[drivers]'")
        with _folder() as folder:
            port = _free_port()
            with _started([sys.executable, str(SERVICES), name, str(port)], folder, port):
                yield {"host": HOST, "port": port}

    return started


SERVERS: "dict[str, Callable[[], contextlib.AbstractContextManager[Address]]]" = {
    "redis": redis,
    "postgres": postgres,
    "mariadb": mariadb,
    "rabbitmq": rabbitmq,
    "sshd": sshd,
    "http": service("http"),
    "xmlrpc": service("xmlrpc"),
    "imap": service("imap"),
    "smtp": service("smtp", "aiosmtpd"),
    "ftp": service("ftp", "pyftpdlib"),
    "moto": service("moto", "moto", "flask"),
    "grpc": service("grpc", "grpc"),
}


# --- processes -------------------------------------------------------------------------------------------------------


def _program(name: str, package: str, folders: list[str] | None = None) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *(folders or [])])
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"no {name}: apt-get install -y {package}")
    return found


def _unprivileged(name: str) -> str | None:
    """Whom a server that refuses to be root runs as: nobody else, unless we are root."""
    if os.getuid() != 0:
        return None
    for each in (name, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(each).pw_name
    raise Missing(f"no user {name} to run the server as")


@contextlib.contextmanager
def _folder(user: str | None = None) -> Iterator[Path]:
    # Not in pytest's own folder, which other users may not enter; and a Unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="greenio-", ignore_cleanup_errors=True) as name:
        if user is not None:
            os.chown(name, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        yield Path(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _identity(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(command: list[str], user: str | None) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        **_identity(user),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if done.returncode != 0:
        raise Missing(
            f"{Path(command[0]).name} ends with {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}"
        )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def _started(
    command: list[str],
    folder: Path,
    port: int,
    *,
    user: str | None = None,
    environment: dict[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    answers: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """The server runs and takes connections; it does not outlive the block, nor do the processes that it started."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            **_identity(user),
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not (_listens(port) and (answers is None or answers())):
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace").strip()[-1000:]
                raise Missing(f"{Path(command[0]).name} does not start ({process.poll()}): {text}")
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
