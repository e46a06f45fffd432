"""The order of imports is nobody's concern: what is made and used before the patch parks after it, and the reverse."""

import re
from pathlib import Path

import pytest
from child import CRASH, run_child


@pytest.mark.slow
@pytest.mark.parametrize("order", ["imports-first", "patch-first"])
def test_everything_parks_whatever_came_first(tmp_path: Path, order: str) -> None:
    script = CRASH / "order_of_imports.py"
    done = run_child(script, str(tmp_path), order, flags=("-W", "ignore"))
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr
    parked = re.findall(r"^(\w+): parked$", done.stdout, re.MULTILINE)
    assert len(parked) == len(set(parked)) >= 40
