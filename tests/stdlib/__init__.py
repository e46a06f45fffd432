"""CPython's own tests, run without greenio, under it, and under gevent, and compared: python -m tests.stdlib --help."""
