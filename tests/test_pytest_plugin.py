"""pytest_plugin.py: marked tests run as fibers. Each test here runs a test file of its own, in this process unless it could hang."""

import textwrap

import pytest


@pytest.fixture
def session(pytester, monkeypatch):
    """Run pytest on this text as a test file, with the plugin as an installed greenio would load it."""
    # An installed greenio has the entry point too, and a plugin can be there but once.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(text, *arguments, subprocess=False):
        pytester.makepyfile(textwrap.dedent("import greenio, pytest\n") + textwrap.dedent(text))
        runner = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
        return runner("-p", "greenio.pytest_plugin", "-p", "no:cacheprovider", "--strict-markers", *arguments)

    return run


def test_a_marked_test_runs_as_the_main_fiber_on_a_virtual_clock(session):
    result = session(
        """
        @pytest.mark.greenio
        def test_it():
            assert greenio.current_fiber().name == "main"
            greenio.sleep(10**6)
            assert greenio.current_time() == 10**6

        def test_unmarked():
            with pytest.raises(RuntimeError):
                greenio.current_fiber()
        """
    )
    result.assert_outcomes(passed=2)


def test_the_clock_can_be_the_real_one(session):
    result = session(
        """
        @pytest.mark.greenio(clock="real")
        def test_it():
            assert greenio.current_scheduler().clock is None
        """
    )
    result.assert_outcomes(passed=1)


def test_a_failing_test_fails(session):
    result = session(
        """
        @pytest.mark.greenio
        def test_it():
            value = greenio.spawn(lambda: 3).result()
            assert value == 4

        @pytest.mark.greenio
        def test_skipped():
            pytest.skip("not today")

        @pytest.mark.greenio
        @pytest.mark.xfail(strict=True)
        def test_expected():
            raise ValueError
        """
    )
    result.assert_outcomes(failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*assert 3 == 4*"])


def test_works_with_fixtures_parametrize_and_classes(session):
    result = session(
        """
        @pytest.fixture
        def base(tmp_path):
            with pytest.raises(RuntimeError):  # outside of the run
                greenio.current_fiber()
            yield 10
            with pytest.raises(RuntimeError):
                greenio.current_fiber()

        @pytest.mark.greenio
        @pytest.mark.parametrize("more", [1, 2])
        def test_function(base, more):
            greenio.sleep(more)
            assert base + greenio.current_time() == 10 + more

        @pytest.mark.greenio
        class TestClass:
            def test_method(self, base):
                assert isinstance(self, TestClass)
                greenio.sleep(1)

            @pytest.mark.greenio(seeds=3)
            def test_nearer_mark(self):
                assert greenio.current_scheduler().schedule is not None
        """
    )
    result.assert_outcomes(passed=4)


def test_a_fiber_left_behind_fails_the_test_and_is_unwound(session):
    result = session(
        """
        unwound = []

        def forgotten():
            try:
                greenio.sleep(1000)
            finally:
                unwound.append(True)

        @pytest.mark.greenio
        def test_leaks():
            greenio.spawn(forgotten, name="forgotten-1")

        def test_afterwards():
            assert unwound == [True]
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*FiberLeakError: 1 fiber was left behind: forgotten-1; join or cancel what a test spawns",
            "*(forgotten-1), waits for sleep*spawned at *test_a_fiber_left*.py:*",
            "*in forgotten*",
        ]
    )


def test_a_failure_comes_before_a_leak(session):
    result = session(
        """
        @pytest.mark.greenio
        def test_it():
            greenio.spawn(greenio.sleep, 1000)
            raise LookupError("the reason")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*LookupError: the reason"])
    result.stdout.no_fnmatch_line("*FiberLeakError*")


RACE = """
    @pytest.mark.greenio(seeds=500)
    def test_race():
        account = [0]

        def pay_in():
            amount = account[0]
            greenio.checkpoint()
            account[0] = amount + 1

        for fiber in [greenio.spawn(pay_in) for _ in range(2)]:
            fiber.join()
        assert account == [2]
    """


def failing_seed(result):
    (line,) = [line for line in result.outlines if line.startswith("failed with seed")]
    assert line.endswith(f"--greenio-seed={line.split()[3].rstrip(';')}")
    return int(line.rpartition("=")[2])


def test_a_race_is_found_and_its_seed_printed_and_repeated(session):
    result = session(RACE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*greenio call*", "failed with seed *; again: pytest '*::test_race' --greenio-seed=*"])
    seed = failing_seed(result)
    again = session(RACE, f"--greenio-seed={seed}")
    again.assert_outcomes(failed=1)
    assert failing_seed(again) == seed
    # One fewer than it takes.
    session(RACE, f"--greenio-seeds={seed}").assert_outcomes(passed=1)


def test_the_mark_can_name_one_seed_and_the_schedule(session):
    result = session(
        """
        runs = []

        @pytest.mark.greenio(seed=17, schedule="random")
        def test_one():
            runs.append(repr(greenio.current_scheduler().schedule))

        @pytest.mark.greenio(seeds=3)
        def test_three():
            runs.append(repr(greenio.current_scheduler().schedule))

        @pytest.mark.greenio(schedule="random")
        def test_hundred():
            runs.append("hundred")

        def test_runs():
            assert runs[:4] == ["RandomSchedule(17)"] + [f"PctSchedule({seed}, depth=3)" for seed in range(3)]
            assert len(runs) == 104
        """
    )
    result.assert_outcomes(passed=4)


def test_tests_in_order_are_not_repeated_by_the_command_line(session):
    result = session(
        """
        runs = []

        @pytest.mark.greenio
        def test_it():
            runs.append(greenio.current_scheduler().schedule)

        def test_runs():
            assert runs == [None]
        """,
        "--greenio-seeds=7",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("option", ["timeout=5", "timeout=5, clock='virtual', seeds=2"])
def test_a_timeout_counts_on_the_tests_clock(session, option):
    result = session(
        f"""
        @pytest.mark.greenio({option})
        def test_it():
            greenio.sleep(1000)

        @pytest.mark.greenio({option})
        def test_in_time():
            greenio.sleep(4)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*TimeoutError*"])


@pytest.mark.slow
def test_a_real_timeout_ends_a_test_that_waits(session):
    result = session(
        """
        @pytest.mark.greenio(clock="real", timeout=0.05)
        def test_it():
            greenio.sleep(1000)
        """,
        subprocess=True,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TimeoutError*"])


@pytest.mark.slow
def test_a_deadlock_fails_the_test(session):
    result = session(
        """
        @pytest.mark.greenio
        def test_it():
            me = greenio.current_fiber()
            greenio.spawn(me.join, name="other").join()
        """,
        subprocess=True,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*2 fibers wait for one another in a circle, for ever:"])


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("'virtual'", "*the options of @pytest.mark.greenio have names; got ('virtual',)*"),
        ("clocks='real'", "*has no option clocks*"),
        ("clock='sun'", "*clock must be one of 'virtual', 'real', not 'sun'*"),
        ("schedule='lifo'", "*schedule must be one of 'fifo', 'pct', 'random', not 'lifo'*"),
        ("seed=1, seeds=2", "*seed= is one run, seeds= is many; give one of them*"),
        ("seed=1, schedule='fifo'", "*schedule='fifo' takes no seed*"),
        ("seeds=0", "*seeds must be >= 1, not 0*"),
    ],
)
def test_a_wrong_option_is_named(session, mark, message):
    result = session(
        f"""
        @pytest.mark.greenio({mark})
        def test_it():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_seed_at_all_is_refused(session, count):
    result = session(
        """
        @pytest.mark.greenio(seeds=3)
        def test_it():
            assert False
        """,
        f"--greenio-seeds={count}",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--greenio-seeds must be >= 1, not {count}*"])


def test_a_method_of_a_unittest_case_is_refused(session):
    result = session(
        """
        import unittest

        class TestIt(unittest.TestCase):
            @pytest.mark.greenio
            def test_marked(self):
                pass

            def test_unmarked(self):
                pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*::test_marked is a method of a unittest.TestCase*"])


def test_an_async_test_is_refused(session):
    result = session(
        """
        @pytest.mark.greenio
        async def test_it():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is an async def; a greenio test is an ordinary function*"])


def test_the_mark_and_the_options_are_documented(session):
    session("", "--markers").stdout.fnmatch_lines(["@pytest.mark.greenio(clock=*): run the test as the main fiber*"])
    session("", "--help").stdout.fnmatch_lines(["*--greenio-seed=N*", "*--greenio-seeds=N*"])
