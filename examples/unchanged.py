"""An ordinary program of threads and blocking sockets, and nothing of greenio in it: python -m greenio examples/unchanged.py

A server whose pages take a fifth of a second, and a hundred clients at once. Run by `python` alone it needs some 200 OS threads.
"""

import http.server
import logging
import os
import queue
import threading
import time
import urllib.request

CLIENTS = 100
SECONDS = 0.2

os_threads = 0


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        global os_threads
        time.sleep(SECONDS)
        os_threads = max(os_threads, len(os.listdir("/proc/self/task")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page {self.path}".encode())

    def log_message(self, format: str, *args: object) -> None:
        logging.debug(format, *args)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 2 * CLIENTS


def fetch(address: str, number: int, pages: "queue.Queue[bytes]") -> None:
    with urllib.request.urlopen(f"{address}/{number}") as answer:
        pages.put(answer.read())


def main() -> None:
    pages: queue.Queue[bytes] = queue.Queue()
    with Server(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        clients = [threading.Thread(target=fetch, args=(address, number, pages)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        found = {pages.get() for _ in clients}
        server.shutdown()
    print(f"{len(found)} pages, {os_threads} OS threads")


if __name__ == "__main__":
    main()
