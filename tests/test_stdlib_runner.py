"""tests/stdlib: every test gets its outcome, whatever it does to the interpreter; what differs from expected.toml is found."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stdlib import modules, score, store
from stdlib.__main__ import Job, main, parse
from stdlib.expected import Entry, compare, load_expected, unused
from stdlib.interpreters import Interpreter, ask
from stdlib.runner import ModuleRun, Outcome, Runner

ROOT = Path(__file__).resolve().parent.parent

PROBLEMS = """
import os, sys, time, unittest
class A(unittest.TestCase):
    def test_a_passes(self): pass
    def test_b_fails(self): self.fail("so it is")
    def test_c_errors(self): raise ValueError("wrong")
    def test_d_hangs(self):
        time.sleep(1000)
    def test_e_passes_after_the_hang(self): pass
    def test_f_crashes(self): os.kill(os.getpid(), 11)
    def test_g_skips(self): self.skipTest("not here")
    def test_h_subtest_fails(self):
        for number in range(3):
            with self.subTest(number=number): self.assertNotEqual(number, 1)
    @unittest.expectedFailure
    def test_i_expected_failure(self): self.fail()
    @unittest.expectedFailure
    def test_j_unexpected_success(self): pass
    def test_k_exits_at_once(self): os._exit(0)
    def test_l_forks(self):
        if os.fork(): os.wait()
    def test_m_system_exit(self): sys.exit(0)
    def test_n_subtest_skips(self):
        with self.subTest(): self.skipTest("this part")
class SetUpFails(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no set-up")
    def test_a(self): pass
    def test_b(self): pass
class SetUpHangs(unittest.TestCase):
    @classmethod
    def setUpClass(cls): time.sleep(1000)
    def test_a(self): pass
class SetUpSkips(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("not here either")
    def test_a(self): pass
class TearDownFails(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise OSError("no tear-down")
    def test_a(self): pass
class ZLast(unittest.TestCase):
    def test_a(self): pass
"""
OUTCOMES = {
    "A.test_a_passes": "pass",
    "A.test_b_fails": "fail",
    "A.test_c_errors": "error",
    "A.test_d_hangs": "hang",
    "A.test_e_passes_after_the_hang": "pass",
    "A.test_f_crashes": "crash",
    "A.test_g_skips": "skip",
    "A.test_h_subtest_fails": "fail",
    "A.test_i_expected_failure": "pass",
    "A.test_j_unexpected_success": "fail",
    "A.test_k_exits_at_once": "crash",
    "A.test_l_forks": "pass",
    "A.test_m_system_exit": "error",
    "A.test_n_subtest_skips": "pass",
    "SetUpFails.test_a": "error",
    "SetUpFails.test_b": "error",
    "SetUpHangs.test_a": "hang",
    "SetUpSkips.test_a": "skip",
    "TearDownFails.test_a": "pass",
    "ZLast.test_a": "pass",
}


def run_module(folder: Path, source: str, mode: str = "plain", **options: float) -> ModuleRun:
    (folder / "problems.py").write_text(source)
    return Runner(sys.executable, mode, path=(folder,), **{"timeout": 30, **options}).run("problems")  # type: ignore[arg-type]


def outcomes(run: ModuleRun) -> dict[str, str]:
    return {test.removeprefix("problems."): each.outcome for test, each in run.outcomes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "greenio"])
def test_each_test_gets_its_outcome(tmp_path: Path, mode: str) -> None:
    run = run_module(tmp_path, PROBLEMS, mode, timeout=3)
    assert outcomes(run) == {**OUTCOMES, "TearDownFails:tearDownClass": "error"}
    texts = {test.rpartition(".")[2]: each.text for test, each in run.outcomes.items()}
    assert "AssertionError: so it is" in texts["test_b_fails"]
    assert "in test_d_hangs" in texts["test_d_hangs"]  # where it hung
    assert "ended with -11" in texts["test_f_crashes"]
    assert texts["test_g_skips"] == "not here"
    assert "no set-up" in run.outcomes["problems.SetUpFails.test_a"].text


def test_modules_that_cannot_be_run(tmp_path: Path) -> None:
    def whole(source: str) -> tuple[str | None, str]:
        run = run_module(tmp_path, source, timeout=2)
        assert run.outcomes == {}
        assert run.whole is not None
        return run.whole.outcome, run.whole.text

    assert whole("import unittest\nraise unittest.SkipTest('no such thing')") == ("skip", "no such thing")
    assert "no_such_module" in whole("import no_such_module")[1]
    assert whole("import no_such_module")[0] == "error"
    assert whole("import os\nos.abort()")[0] == "crash"


@pytest.mark.slow
def test_import_that_hangs(tmp_path: Path) -> None:
    run = run_module(tmp_path, "import time\ntime.sleep(1000)", timeout=2)
    assert run.whole is not None
    assert run.whole.outcome == "hang"


CASE = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n    def test_b(self): pass\n"


def test_fixtures_of_the_module(tmp_path: Path) -> None:
    run = run_module(tmp_path, CASE + "def setUpModule(): raise OSError")
    assert outcomes(run) == {"T.test_a": "error", "T.test_b": "error"}
    run = run_module(tmp_path, CASE + "def setUpModule(): raise unittest.SkipTest('not now')")
    assert outcomes(run) == {"T.test_a": "skip", "T.test_b": "skip"}
    run = run_module(tmp_path, CASE + "def tearDownModule(): raise OSError")
    assert outcomes(run) == {"T.test_a": "pass", "T.test_b": "pass", "problems:tearDownModule": "error"}


def test_an_interpreter_that_does_not_end_well_is_told(tmp_path: Path) -> None:
    run = run_module(tmp_path, CASE + "import atexit, os\natexit.register(os.abort)")
    assert outcomes(run) == {"T.test_a": "pass", "T.test_b": "pass", "problems:exit": "crash"}


def test_after_too_many_crashes_the_rest_is_not_run(tmp_path: Path) -> None:
    source = "import os, unittest\nclass T(unittest.TestCase):\n"
    source += "".join(f"    def test_{letter}(self): os.abort()\n" for letter in "abcdef")
    run = run_module(tmp_path, source, max_lost=2)
    assert set(outcomes(run).values()) == {"crash"}
    assert ["not run" in each.text for each in run.outcomes.values()] == [False, False, True, True, True, True]


def test_what_a_test_leaves_running_is_ended(tmp_path: Path) -> None:
    source = f"""
import subprocess, sys, unittest
class T(unittest.TestCase):
    def test_a(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
"""
    assert outcomes(run_module(tmp_path, source)) == {"T.test_a": "pass"}
    pid = (tmp_path / "pid").read_text()
    stat = Path(f"/proc/{pid}/stat")
    until = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # killed, and about to be gone
        assert time.monotonic() < until
        time.sleep(0.01)


def test_selected_tests_only(tmp_path: Path) -> None:
    (tmp_path / "problems.py").write_text(CASE)
    runner = Runner(sys.executable, "plain", path=(tmp_path,))
    whole = runner.run("problems", matching=["T.test_[b-z]"])
    assert outcomes(whole) == {"T.test_b": "pass"}
    assert outcomes(runner.run_again(whole, ["problems.T.test_a"])) == {"T.test_a": "pass"}


def test_under_greenio_main_is_a_fiber_and_time_is_patched(tmp_path: Path) -> None:
    source = """
import unittest
class T(unittest.TestCase):
    def test_a(self):
        import greenio, greenio.monkey
        self.assertIs(greenio.current_fiber(), greenio.current_scheduler().main)
        self.assertTrue(greenio.monkey.is_patched("time"))
"""
    assert outcomes(run_module(tmp_path, source, "greenio")) == {"T.test_a": "pass"}
    assert outcomes(run_module(tmp_path, source, "plain")) == {"T.test_a": "error"}


# --- comparing -------------------------------------------------------------------------------------------------------


def run_of(**outcomes: str) -> ModuleRun:
    return ModuleRun("m", {f"m.{test}": Outcome(outcome) for test, outcome in outcomes.items()})


def entry(test: str, *result: str, **more: object) -> Entry:
    return Entry(test, result or ("fail",), "a reason", **more)  # type: ignore[arg-type]


def test_only_what_passes_plain_counts() -> None:
    plain = run_of(a="pass", b="pass", c="fail", d="skip", e="pass")
    found = compare([plain], run_of(a="pass", b="fail", c="pass", d="pass", e="skip"), [], "3.11")
    assert (found.passed_plain, found.passed) == (3, 1)
    assert found.unexpected == ["m.b: fail", "m.e: skip"]
    assert found.failing == ["m.b", "m.e"]


def test_a_test_that_passes_plain_only_sometimes_is_left_out() -> None:
    runs = [run_of(a="pass", b="pass"), run_of(a="pass", b="fail")]
    found = compare(runs, run_of(a="pass", b="fail"), [], "3.11")
    assert (found.passed_plain, found.passed, found.unexpected) == (1, 1, [])


def test_what_is_expected_is_no_surprise_and_its_opposite_is() -> None:
    plain = run_of(a="pass", b="pass", c="pass")
    patched = run_of(a="fail", b="pass", c="hang")
    assert compare([plain], patched, [entry("m.a"), entry("m.c", "hang")], "3.11").unexpected == []
    assert compare([plain], patched, [entry("m.*")], "3.11").unexpected == [
        "m.b: passes, though expected.toml expects fail",
        "m.c: hang, where expected.toml expects fail",
    ]
    assert compare([plain], patched, [entry("m.[abc]", "fail", "hang", flaky=True)], "3.11").unexpected == []
    assert compare([plain], patched, [entry("m.[ac]", "fail", "hang", versions=("3.13",))], "3.11").unexpected == [
        "m.a: fail",
        "m.c: hang",
    ]


def test_a_module_that_is_not_there_fails_all_its_tests() -> None:
    lost = ModuleRun("m", whole=Outcome("hang"))
    assert compare([run_of(a="pass", b="skip")], lost, [], "3.11").unexpected == ["m.a: hang"]
    assert compare([run_of(a="pass")], run_of(), [], "3.11").unexpected == ["m.a: error"]


def test_ends_are_compared_and_not_counted() -> None:
    patched = run_of(a="pass")
    patched.outcomes["m:exit"] = Outcome("hang")
    found = compare([run_of(a="pass")], patched, [], "3.11")
    assert (found.passed_plain, found.passed, found.unexpected) == (1, 1, ["m:exit: hang"])
    plain = run_of(a="pass")
    plain.outcomes["m:exit"] = Outcome("crash")
    assert compare([plain], patched, [], "3.11").unexpected == []


def test_entries_that_speak_of_nothing_are_found() -> None:
    entries = [
        entry("m.a", versions=("3.11",)),
        entry("m.gone", versions=("3.11",)),
        entry("m.other", versions=("3.13",)),
    ]
    found = compare([run_of(a="pass")], run_of(a="fail"), entries, "3.11")
    assert unused(entries, found.used, ["m"], "3.11") == [entries[1]]
    assert unused(entries, found.used, ["elsewhere"], "3.11") == []


def test_the_list_itself_is_sound() -> None:
    names = set(modules.ALL)
    for each in load_expected():
        module = each.id.removeprefix("test.test_").partition(".")[0].partition(":")[0]
        assert module in names, each.id
    assert set(modules.CORE) <= names
    assert set(modules.SLOW) <= names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('result = "fail"\nreason = "r"', "without id"),
        ('id = "m.a"\nreason = "r"', "result must be of"),
        ('id = "m.a"\nresult = "wrong"\nreason = "r"', "not wrong"),
        ('id = "m.a"\nresult = "fail"', "id and reason are needed"),
        ('id = "m.a"\nresult = "fail"\nreason = " "', "id and reason are needed"),
        ('id = "m.a"\nresult = "fail"\nreason = "r"\nversion = "3.11"', "unknown key version"),
        ('id = "m.a"\nresult = "fail"\nreason = "r"\nversions = "3.11"', "versions is a list"),
    ],
)
def test_mistakes_in_the_list_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "expected.toml").write_text(f"[[test]]\n{text}\n")
    with pytest.raises(ValueError, match=says):
        load_expected(tmp_path / "expected.toml")


# --- names, the store, the command line ------------------------------------------------------------------------------


def test_names_and_groups() -> None:
    assert modules.chosen_names(["queue", "test_select", "test.test_queue"]) == ["queue", "select"]
    assert modules.chosen_names(["asyncio.test_events"]) == ["asyncio.test_events"]
    assert set(modules.chosen_names(["core"])) == set(modules.CORE)
    assert set(modules.chosen_names(["quick", "slow"])) == set(modules.ALL) == set(modules.chosen_names([]))
    with pytest.raises(ValueError, match="no module or group is called nothing"):
        modules.chosen_names(["queue", "nothing"])


def test_modules_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "test_asyncio").mkdir()
    for name in ("test_asyncio/test_b.py", "test_asyncio/test_a.py", "test_asyncio/utils.py", "test_queue.py"):
        (tmp_path / name).touch()
    assert modules.find_modules(tmp_path, "asyncio") == ["test.test_asyncio.test_a", "test.test_asyncio.test_b"]
    assert modules.find_modules(tmp_path, "queue") == ["test.test_queue"]
    assert modules.find_modules(tmp_path, "asyncore") == []


def test_runs_are_kept_whole(tmp_path: Path) -> None:
    run = run_of(a="pass", b="fail")
    run.order = ["m.a", "m.b"]
    other = ModuleRun("m", whole=Outcome("skip", text="why"))
    store.save(tmp_path / "3.11.7" / "plain", [run, other], day="today")
    assert store.load(tmp_path / "3.11.7" / "plain", "m") == ([run, other], {"format": store.FORMAT, "day": "today"})
    assert store.load(tmp_path, "m") == ([], {})
    (tmp_path / "m.json").write_text("{")
    assert store.load(tmp_path, "m") == ([], {})


def test_the_score_is_a_table_of_what_is_kept(tmp_path: Path) -> None:
    for mode, outcomes in (("plain", "pass"), ("greenio", "pass"), ("gevent", "fail")):
        run = ModuleRun(
            "test.test_queue",
            {
                "test.test_queue.T.test_a": Outcome("pass"),
                "test.test_queue.T.test_b": Outcome(outcomes),
                "test.test_queue.T.test_c": Outcome("hang" if mode == "greenio" else "pass"),
                "test.test_queue.T.test_d": Outcome("pass" if mode != "greenio" else "fail"),
                "test.test_queue.T.test_e": Outcome("pass", second_try=mode == "greenio"),
            },
        )
        store.save(tmp_path / "3.11.7" / mode, [run], day="2026-01-02")
    entries = [Entry("test.test_queue.T.test_c", ("hang",), "it never waits")]
    text = score.write_score(entries, tmp_path / "docs" / "score.md", tmp_path)
    assert "| module | 3.11.7 greenio | 3.11.7 gevent |" in text
    assert "| queue | 3 / 5 | 4 / 5 |" in text
    assert "| **%** | **60.00** | **80.00** |" in text
    assert "| CPython 3.11.7, gevent | 2026-01-02 |" in text
    _, failing, again = text.split("\n## ")
    assert "- `test_queue.T.test_c` on 3.11.7: hang: it never waits\n" in failing
    assert "- `test_queue.T.test_d` on 3.11.7: fail: not explained yet, a defect\n" in failing
    assert "- `test_queue.T.test_e` on 3.11.7\n" in again and "test_b" not in failing


def has_suite() -> Interpreter:
    here = ask(sys.executable)
    if here.suite is None or here.greenio_missing:
        pytest.skip("this interpreter has no test suite of CPython's")
    return here


def test_a_relative_path_is_asked_and_run_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert ask("./python").path == str(tmp_path / "python")


@pytest.mark.slow
def test_a_module_of_cpython_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    has_suite()
    (tmp_path / "expected.toml").write_text(
        '[[test]]\nid = "test.test_sched.TestCase.test_enter"\nresult = "fail"\nreason = "none"\n'
    )
    options = ["--python", sys.executable, "--store", str(tmp_path / "store"), "sched"]
    assert main(options) == 0
    assert "100.0 %" in capsys.readouterr().out
    assert main([*options, "--expected", str(tmp_path / "expected.toml")]) == 1
    assert "test.test_sched.TestCase.test_enter: passes, though expected.toml expects fail" in capsys.readouterr().out
    assert main([*options, "--from-store"]) == 0
    assert main([*options, "--only-failing"]) == 0


@pytest.mark.slow
def test_what_fails_is_tried_once_more_by_itself(tmp_path: Path) -> None:
    source = f"""
import os, unittest
class T(unittest.TestCase):
    def test_a(self): pass
    def test_b(self):
        path = {str(tmp_path / "tried")!r}
        if "greenio" in __import__("sys").modules and not os.path.exists(path):
            open(path, "w").close()
            self.fail("the first time")
"""
    (tmp_path / "problems.py").write_text(source)
    options = parse(["--path", str(tmp_path), "--store", str(tmp_path / "store")])
    options.modes = ["greenio"]
    interpreter = Interpreter(sys.executable, "3.11.7", None, None, False)
    job = Job(interpreter, "problems", options, []).run()
    found = job.compared["greenio"]
    assert (found.passed_plain, found.passed, found.unexpected) == (2, 2, [])
    assert [each.second_try for each in job.patched["greenio"].outcomes.values()] == [False, True]
    saved = json.loads((tmp_path / "store" / "3.11.7" / "greenio" / "problems.json").read_text())
    assert saved["runs"][0]["outcomes"]["problems.T.test_b"]["second_try"] is True


@pytest.mark.slow
def test_the_command_line_names_what_is_wrong(tmp_path: Path) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.stdlib", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    status, text = said("nothing")
    assert (status, "no module or group is called nothing" in text) == (2, True)
    status, text = said("--python", str(tmp_path / "python"), "queue")
    assert (status, "is no interpreter that can be asked" in text) == (1, True)
    status, text = said("--list")
    assert (status, "sockets: socket ssl" in text) == (0, True)
