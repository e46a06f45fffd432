"""paramiko against OpenSSH: a connection for each operation."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> Any:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        address["host"],
        address["port"],
        address["user"],
        key_filename=address["key"],
        look_for_keys=False,
        allow_agent=False,
        **options,
    )
    return client


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    clients = in_parallel(lambda number: connect(address, timeout=30, banner_timeout=30))

    def operation(number: int) -> None:
        _, output, _ = clients[number].exec_command(f"sleep 0.2; echo {number}", timeout=20)
        assert output.read() == f"{number}\n".encode()
        assert output.channel.recv_exit_status() == 0

    yield operation
    for client in clients:
        client.close()


def errors(address: dict[str, Any]) -> None:
    """An exit status; nobody listens; a key that is not let in; no answer in time; cancelled; files."""
    client = connect(address)
    _, _, problems = client.exec_command("echo wrong >&2; exit 3")
    assert problems.read() == b"wrong\n" and problems.channel.recv_exit_status() == 3
    _, output, _ = client.exec_command("sleep 5", timeout=0.1)
    with raises(TimeoutError):
        output.read()
    assert interrupted(lambda: client.exec_command("sleep 5")[1].read()) == "cancelled"
    with client.open_sftp() as files:
        with files.open(f"{address['key']}.copy", "w") as copy:
            copy.write("text" * 100_000)
        assert files.stat(f"{address['key']}.copy").st_size == 400_000
        files.remove(f"{address['key']}.copy")
    client.close()
    with raises(paramiko.ssh_exception.NoValidConnectionsError):
        connect({**address, "port": 1})
    with paramiko.SSHClient() as stranger, raises(paramiko.AuthenticationException):
        stranger.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        stranger.connect(
            address["host"],
            address["port"],
            address["user"],
            pkey=paramiko.ECDSAKey.generate(),
            look_for_keys=False,
            allow_agent=False,
        )
