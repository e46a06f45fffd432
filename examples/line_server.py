"""A service as one writes it: answers each line with the number of its words, over TLS if given a certificate. SIGTERM and Ctrl-C
drain it: it stops accepting, lets busy clients finish, and says how many it had to cut off."""

import argparse
import ssl
from signal import SIGINT, SIGTERM

import greenio

LONGEST_LINE = 64 * 1024  # bytes
IDLE_SECONDS = 60.0


def handle(stream: greenio.Stream) -> None:
    while True:
        with greenio.timeout(IDLE_SECONDS):
            line = stream.readline(limit=LONGEST_LINE)
        if not line:
            return
        stream.write(b"%d\n" % len(line.split()))


def main(host: str, port: int, tls: ssl.SSLContext | None, grace: float) -> None:
    with (
        greenio.signals(SIGTERM, SIGINT) as received,
        greenio.serve(handle, host, port, tls=tls, max_connections=10_000, grace=grace) as server,
    ):
        print(f"listening on {host}:{server.port}", flush=True)
        next(received)
        report = server.drain()
    print(f"{report.finished} finished, {report.cancelled} cut off", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=int, default=8070, help="0: any free one (%(default)s)")
    parser.add_argument("--certificate", help="a PEM file with the key and the chain: speak TLS")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds for busy clients at the end (%(default)s)")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate)
    greenio.run(main, options.host, options.port, context, options.grace)
