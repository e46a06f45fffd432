"""Flask's development server, threaded."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
import werkzeug.serving
from serving import operations_on

app = flask.Flask(__name__)
logging.getLogger("werkzeug").setLevel(logging.ERROR)


@app.get("/slow/<text>")
def slow(text: str) -> str:
    time.sleep(0.2)
    return text


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    with operations_on(werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)) as operation:
        yield operation
