"""Tools that want a process to themselves: tools.py CASE [ARGUMENT]."""

import faulthandler
import os
import sys
import tempfile

from greenio import current_fiber, run, spawn, yield_now


def faulthandler_dump(count: str) -> None:
    """All threads' tracebacks show every fiber under its ident; nothing crashes, whatever pthread calls are made with the ids."""

    def main() -> None:
        fibers = [spawn(yield_now) for _ in range(int(count))]
        yield_now()
        idents = [fiber.ident for fiber in fibers]
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = file.read()
        if len(idents) < 90:  # it writes 100 at most
            for ident in idents:
                assert f"{ident:#x}" in text.replace("0x0000", "0x").lower() or f"{ident:016x}" in text, text
        for fiber in fibers:
            fiber.result()

    run(main)
    run(main)
    print("ok")


def debugger() -> None:
    def other() -> int:
        count = 0
        while not ended:
            count += 1
            yield_now()
        return count

    def debugged(value: int) -> int:
        doubled = value * 2
        breakpoint()
        doubled += 1
        yield_now()
        tripled = value * 3
        return doubled + tripled

    def main() -> None:
        bystander = spawn(other)
        one = spawn(debugged, 7)
        print("result", one.result())
        ended.append(True)
        assert bystander.result() > 1

    ended: list[bool] = []
    run(main)
    print("ok")


def coverage_of_fibers(core: str) -> None:
    import coverage

    with open("covered.py", "w") as file:
        file.write(
            "from greenio import spawn, yield_now\n"
            "def one():\n"
            "    yield_now()\n"
            "    return 1\n"
            "def two(flag):\n"
            "    if flag:\n"
            "        yield_now()\n"
            "        return one() + 1\n"
            "    return 3\n"
            "def main():\n"
            "    fibers = [spawn(one), spawn(two, True), spawn(one)]\n"
            "    return [fiber.result() for fiber in fibers]\n"
        )
    os.environ["COVERAGE_CORE"] = core
    sys.path.insert(0, os.getcwd())
    measured = coverage.Coverage(data_file=None, include=["*/covered.py"], config_file=False, concurrency="thread")
    measured.start()
    import covered  # type: ignore[import-not-found]

    found = run(covered.main)
    measured.stop()
    _, _, missing, _ = measured.analysis(covered.__file__)
    assert found == [1, 2, 1]
    assert missing == [9], missing
    print("ok")


def inner_function_of_a_parked_fiber() -> None:
    yield_now()


def inspected() -> None:
    """Fibers parked for whoever looks from outside, until its line comes."""

    def work(number: int) -> None:
        inner_function_of_a_parked_fiber()

    def main() -> None:
        fibers = [spawn(work, number) for number in range(20)]
        yield_now()
        print("ready", current_fiber().ident, flush=True)
        sys.stdin.readline()
        for _ in range(100):  # bytecode, for what waits to be run in here
            yield_now()
        for fiber in fibers:
            fiber.result()

    run(main)
    print("ok")


globals()[sys.argv[1]](*sys.argv[2:])
