"""SQLAlchemy: its QueuePool on psycopg2, psycopg and pg8000."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy
import sqlalchemy.exc
from run import COUNT, in_parallel, interrupted, raises
from sqlalchemy import text


def engine(address: dict[str, Any], driver: str, **options: Any) -> Any:
    url = f"postgresql+{driver}://{address['user']}@{address['host']}:{address['port']}/{address['dbname']}"
    return sqlalchemy.create_engine(url, **options)


def query(pool: Any, number: int, seconds: float = 0.2) -> None:
    with pool.connect() as connection:
        assert (
            connection.execute(text("SELECT pg_sleep(:s), CAST(:n AS int)"), {"s": seconds, "n": number}).one()[1]
            == number
        )


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    pool = engine(address, "psycopg2", pool_size=COUNT, max_overflow=0)
    in_parallel(lambda number: query(pool, number))
    yield lambda number: query(pool, number)
    pool.dispose()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; a pool that is exhausted makes threads wait their turn, or raises; cancelled; nobody listens."""
    for driver in ("psycopg2", "psycopg", "pg8000"):
        pool = engine(address, driver, pool_size=2, max_overflow=0, pool_timeout=0.1)
        with raises(sqlalchemy.exc.ProgrammingError):
            with pool.connect() as connection:
                connection.execute(text("SELECT nothing"))
        with pool.connect(), pool.connect():
            with raises(sqlalchemy.exc.TimeoutError):
                query(pool, 1)
        pool.dispose()

        # Two connections for ten threads; while they wait, others run.
        pool = engine(address, driver, pool_size=2, max_overflow=0, pool_timeout=20)
        ticks = []
        over = threading.Event()

        def tick(ticks: list[int] = ticks, over: threading.Event = over) -> None:
            while not over.wait(0.001):
                ticks.append(1)

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        in_parallel(lambda number, pool=pool: query(pool, number, 0.02), range(10))  # type: ignore[misc]
        over.set()
        ticker.join()
        assert len(ticks) > 20, ticks
        assert interrupted(lambda pool=pool: query(pool, 1, 1)) == "cancelled"  # type: ignore[misc]
        query(pool, 2, 0)
        with pool.connect() as first, pool.connect() as second:  # none was lost
            assert (first.scalar(text("SELECT 1")), second.scalar(text("SELECT 2"))) == (1, 2)
        pool.dispose()
    with raises(sqlalchemy.exc.OperationalError) as caught:
        query(engine({**address, "port": 1}, "psycopg2"), 1)
    assert "refused" in str(caught.error)
