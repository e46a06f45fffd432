"""debug.py: every fiber with its stack and what it waits for, and the memory that stacks take."""

import io
import threading

import pytest

import greenio
from greenio import debug
from greenio._scheduler import park_here
from greenio.testing import VirtualClock, wait_all_parked


def test_fibers_are_listed_oldest_first():
    def main():
        fibers = [greenio.current_fiber(), *(greenio.spawn(greenio.sleep, 1) for _ in range(5))]
        assert debug.fibers() == fibers
        fibers[2].cancel()
        fibers[2].join()
        assert debug.fibers() == [fiber for fiber in fibers if fiber is not fibers[2]]

    greenio.run(main, clock=VirtualClock())
    assert debug.fibers() == []


def test_fibers_of_all_os_threads_are_listed():
    inside, go_on = threading.Event(), threading.Event()

    def other():
        greenio.spawn(greenio.sleep, 100)
        greenio.sleep(0)
        inside.set()
        go_on.wait()

    thread = threading.Thread(target=greenio.run, args=(other,))
    thread.start()
    inside.wait()

    def main():
        return [fiber.name.split("-")[0] for fiber in debug.fibers()], debug.format_stacks()

    names, text = greenio.run(main)
    go_on.set()
    thread.join()
    assert sorted(names) == ["fiber", "main", "main"]
    assert "in other" in text
    assert "in main" in text


def nap(seconds):
    greenio.sleep(seconds)


def test_format_stacks_tells_what_each_fiber_does():
    token = ["a token"]

    def main():
        greenio.spawn(nap, 10, name="napper")
        greenio.spawn(park_here, "a token", token, name="waiter")
        wait_all_parked()
        greenio.sleep(2)
        fresh = greenio.spawn(nap, 1, name="fresh")
        joiner = greenio.current_fiber()
        text = debug.format_stacks()
        return text, fresh.id, joiner.id

    text, fresh_id, main_id = greenio.run(main, clock=VirtualClock())
    assert f"Fiber {main_id} (main), running" in text
    assert "(napper), waits for sleep, for 2.000 s, spawned at " + __file__ in text
    assert "in nap\n" in text
    assert "(waiter), waits for a token: ['a token'], for 2.000 s" in text
    assert f"Fiber {fresh_id} (fresh), ready, spawned at {__file__}" in text
    assert "not begun" in text


def test_format_stacks_survives_a_repr_that_raises():
    class Broken:
        def __repr__(self):
            raise LookupError("no repr")

    def main():
        greenio.spawn(park_here, "a broken thing", Broken())
        wait_all_parked()
        return debug.format_stacks()

    assert "waits for a broken thing" in greenio.run(main)


def test_without_a_run_there_are_no_fibers():
    assert debug.format_stacks() == "no fibers\n"


def test_dump_writes_to_a_file_or_the_standard_error(capsys):
    def main():
        file = io.StringIO()
        debug.dump(file)
        debug.dump()
        return file.getvalue()

    text = greenio.run(main)
    assert "(main), running" in text
    assert capsys.readouterr().err.splitlines()[0] == text.splitlines()[0]


def test_stack_stats_count_what_is_in_use_and_what_is_pooled():
    def main():
        before = debug.stack_stats()
        fibers = [greenio.spawn(greenio.sleep, 1) for _ in range(50)]
        wait_all_parked()
        during = debug.stack_stats()
        for fiber in fibers:
            fiber.join()
        after = debug.stack_stats()
        return before, during, after

    before, during, after = greenio.run(main, clock=VirtualClock())
    assert during["in_use"] - before["in_use"] == 50
    assert after["in_use"] == before["in_use"]
    assert after["pooled"] >= 49
    assert after["guard"] in ("madvise", "mprotect", "canary")
    assert sum(row["in_use"] for row in during["sizes"]) == during["in_use"]


def test_the_pool_keeps_no_more_stacks_than_it_is_told():
    def main():
        debug.set_stack_pool(5)
        try:
            for fiber in [greenio.spawn(greenio.sleep, 1) for _ in range(50)]:
                fiber.join()
            return debug.stack_stats()["sizes"]
        finally:
            debug.set_stack_pool(1024)

    assert all(row["pooled"] <= 5 for row in greenio.run(main, clock=VirtualClock()))


def test_a_negative_pool_is_refused():
    with pytest.raises(ValueError, match=">= 0 stacks"):
        debug.set_stack_pool(-1)
