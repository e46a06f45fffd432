"""Makes pytest find `bench_*` files and functions when it is started on this folder: `pytest benchmarks`."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
