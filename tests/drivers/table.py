"""The client libraries that are tested and measured: which server each needs, which modules, and what is to be shown of it."""

from typing import NamedTuple


class Client(NamedTuple):
    name: str
    module: str  # in clients/
    server: str | None  # of servers.SERVERS; None: it brings its own
    needs: tuple[str, ...] = ()  # to be imported, beyond the standard library
    checks: tuple[str, ...] = ("errors",)  # functions of the module that are called, each in a child of its own
    environment: tuple[tuple[str, str], ...] = ()
    mode: str = "fibers"  # or "handoff": it waits inside its C library


# Of those and psycopg2, what fifty fibers do at once with nothing patched: (name in clients/stuck.py, server, module).
STUCK = [("psycopg2", "postgres", "psycopg2"), ("mysqlclient", "mariadb", "MySQLdb"), ("grpc", "grpc", "grpc")]

CLIENTS = [
    Client(
        "psycopg2",
        "psycopg2_client",
        "postgres",
        ("psycopg2",),
        ("errors", "cancelled", "shared", "other_thread", "copies", "unpatched"),
    ),
    Client("psycopg-c", "psycopg_client", "postgres", ("psycopg_binary",), ("errors", "cancelled", "shared")),
    Client(
        "psycopg-python",
        "psycopg_client",
        "postgres",
        ("psycopg",),
        ("errors", "cancelled", "shared"),
        (("PSYCOPG_IMPL", "python"),),
    ),
    Client("pg8000", "pg8000_client", "postgres", ("pg8000",), ("errors", "cancelled")),
    Client("pymysql", "pymysql_client", "mariadb", ("pymysql",), ("errors", "cancelled")),
    Client("sqlalchemy", "sqlalchemy_client", "postgres", ("sqlalchemy", "psycopg2", "psycopg", "pg8000")),
    Client("mysqlclient", "mysqlclient_client", "mariadb", ("MySQLdb",), mode="handoff"),
    Client("grpc", "grpc_client", "grpc", ("grpc",), mode="handoff"),
    Client("redis", "redis_client", "redis", ("redis",), ("errors", "cancelled")),
    Client("kombu", "kombu_client", "redis", ("kombu", "redis")),
    Client("celery", "celery_client", "redis", ("celery", "redis")),
    Client("pika", "pika_client", "rabbitmq", ("pika",)),
    Client("boto3", "boto3_client", "moto", ("boto3",)),
    Client("paramiko", "paramiko_client", "sshd", ("paramiko",)),
    Client("requests", "requests_client", "http", ("requests",)),
    Client("urllib3", "urllib3_client", "http", ("urllib3",)),
    Client("httpx", "httpx_client", "http", ("httpx",)),
    Client("smtplib", "smtplib_client", "smtp"),
    Client("ftplib", "ftplib_client", "ftp"),
    Client("imaplib", "imaplib_client", "imap"),
    Client("xmlrpc", "xmlrpc_client", "xmlrpc"),
    Client("http.server", "http_server_client", None, (), ()),
    Client("flask", "flask_client", None, ("flask",), ()),
    Client("django", "django_client", None, ("django",), ()),
]
