"""While a patched call waits, others run: each kind of them, see parks.py."""

import ast
from pathlib import Path

import pytest
from child import run_child

PARKS = Path(__file__).parent / "parks.py"


def kinds() -> list[str]:
    """The table's names, by its text: importing it would patch this process."""
    marks = [node for node in ast.walk(ast.parse(PARKS.read_text())) if isinstance(node, ast.FunctionDef)]
    return [
        mark.args[0].value
        for each in marks
        for mark in each.decorator_list
        if isinstance(mark, ast.Call)
        if isinstance(mark.args[0], ast.Constant)
    ]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_ticker_ticks_while_each_kind_of_blocking_call_waits() -> None:
    lines = run_child(PARKS, "order", flags=()).stdout.splitlines()
    assert [line for line in lines if not line.endswith(": parks")] == []
    assert {line.removesuffix(": parks") for line in lines} >= set(kinds())
    assert len(lines) >= 40


def test_a_call_that_blocks_would_be_seen() -> None:
    assert run_child(PARKS, "order", "what nobody patches", flags=()).stdout.startswith("what nobody patches: blocks")
