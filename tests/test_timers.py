"""The heap of deadlines (timers.h) against a plain model, in C."""

import subprocess
from pathlib import Path

import pytest
from native.build import ToolMissing, build_program

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    sources = [ROOT / "greenio/timers.c", ROOT / "tests/native/timers_probe.c"]
    try:
        return build_program("timers_probe", sources, [ROOT / "greenio"], tmp_path_factory.mktemp("timers"))
    except ToolMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("seed", range(4))
def test_random_timers_come_in_the_order_of_deadline_and_age(probe, seed):
    done = subprocess.run([probe, str(seed), "20000", "0"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_order_of_equal_deadlines_survives_the_wrap_of_the_counter(probe):
    first = str(2**32 - 3000)
    done = subprocess.run([probe, "5", "20000", first], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
