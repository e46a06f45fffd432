"""`python heartbeat.py STALL SECONDS ADDRESS`: a connection to RabbitMQ with a heartbeat of 1 s, beside a fiber that computes SECONDS.

Standard sockets are patched; run(stall=STALL). The server closes a connection that has missed two heartbeats, and pika gives up
one whose server has been silent. Prints as JSON {kept: whether the connection worked to the end,
rounds: of its loop meanwhile, error: text}.
"""

import json
import logging
import sys
import time
from typing import Any

import greenio
import greenio.monkey


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def main(seconds: float, address: dict[str, Any]) -> dict[str, Any]:
    import pika

    parameters = pika.ConnectionParameters(address["host"], address["port"], heartbeat=1)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    worker = greenio.spawn(compute, seconds)
    rounds = 0
    try:
        while not worker.done():
            connection.process_data_events(time_limit=0.1)
            rounds += 1
        channel.queue_declare("kept", exclusive=True)
        connection.close()
    except pika.exceptions.AMQPError as error:
        return {"kept": False, "rounds": rounds, "error": repr(error)}
    return {"kept": True, "rounds": rounds, "error": ""}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    _, stall, long, where = sys.argv
    greenio.enter_run(stall=stall)  # type: ignore[arg-type]
    greenio.monkey.patch_all()
    print(json.dumps(main(float(long), json.loads(where))))
