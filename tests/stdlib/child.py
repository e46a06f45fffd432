"""The interpreter that runs one test module: child.py MODE MODULE RESULTS SELECTION; started by runner.py.

MODE is plain, greenio or gevent; SELECTION is a JSON object, see runner.Selection. Writes what happens to the file RESULTS as it
happens, an object a line, so that a crash or a hang loses nothing:

    {"tests": [id, ...]}                  all that the module has, in the order in which they run; indices below are into it
    {"start": index}
    {"done": index, "outcome": "pass" | "fail" | "error" | "skip", "seconds": number, "text": traceback or reason}
    {"fixture": "setUpClass (...)", "outcome": ..., "text": ...}
    {"module": "skip" | "error", "text": ...}   instead of "tests": it cannot be imported
    {"end": true}                         what follows is the interpreter's exit

Nothing is imported before the patch that a program would not have either.
"""

import sys

# This folder is no place to import from, and the checkout is on PYTHONPATH.
del sys.path[0]

if __name__ == "__main__":
    if sys.argv[1] == "greenio":
        import greenio.monkey

        greenio.monkey.patch_all()
    elif sys.argv[1] == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()

import fnmatch
import importlib
import json
import os
import time
import traceback
import unittest

TEXT = 6000  # characters of a traceback that are kept
WORST = ("pass", "skip", "fail", "error")
RESOURCES = ("cpu", "curses", "decimal", "subprocess", "walltime")  # no network, no large files, no sound, no windows

_clock = time.perf_counter


class Results(unittest.TestResult):
    """Writes a line for each thing that happens."""

    def __init__(self, path):
        super().__init__()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write_now, self._getpid, self._exit = os.write, os.getpid, os._exit  # whatever a test replaces
        self._pid = os.getpid()
        self._outcome, self._texts, self._since = "pass", [], 0.0
        self.dots = False

    def write(self, **what):
        # Under whatever is patched this write goes to a file, and so does not wait.
        self._write_now(self._fd, json.dumps(what).encode() + b"\n")

    def _of_this_process(self):
        if self._getpid() != self._pid:
            self._exit(99)  # a forked child that went on as if it were the parent

    def startTest(self, test):
        self._of_this_process()
        super().startTest(test)
        self._outcome, self._texts, self._since = "pass", [], _clock()
        self.write(start=test._stdlib_index)

    def stopTest(self, test):
        self._of_this_process()
        super().stopTest(test)
        text = "\n".join(self._texts)[-TEXT:]
        self.write(done=test._stdlib_index, outcome=self._outcome, seconds=round(_clock() - self._since, 3), text=text)

    def _note(self, test, outcome, text):
        self._of_this_process()
        if isinstance(test, unittest.suite._ErrorHolder):
            self.write(fixture=test.id(), outcome=outcome, text=text[-TEXT:])
            return
        if WORST.index(outcome) > WORST.index(self._outcome):
            self._outcome = outcome
        self._texts.append(text)

    def addError(self, test, err):
        self._note(test, "error", "".join(traceback.format_exception(*err)))

    def addFailure(self, test, err):
        self._note(test, "fail", "".join(traceback.format_exception(*err)))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            outcome = "fail" if issubclass(err[0], test.failureException) else "error"
            self._note(test, outcome, f"{subtest._subDescription()}\n" + "".join(traceback.format_exception(*err)))

    def addSkip(self, test, reason):
        if not isinstance(test, unittest.case._SubTest):
            self._note(test, "skip", str(reason))

    def addExpectedFailure(self, test, err):
        pass  # what the test says of itself came true

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")


def flatten(suite):
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from flatten(each)
        else:
            yield each


def keep_only(suite, wanted):
    """Take out of the suite, in place, the tests whose indices are not in *wanted*."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            keep_only(each, wanted)
    suite._tests = [
        each
        for each in suite._tests
        if (list(each) if isinstance(each, unittest.TestSuite) else each._stdlib_index in wanted)
    ]


def prepare_support():
    from test import support

    support.verbose = 0
    support.use_resources = dict.fromkeys(RESOURCES) if sys.version_info >= (3, 15) else list(RESOURCES)
    support.record_original_stdout(sys.stdout)


def main():
    _, _, name, path, text = sys.argv
    selection = json.loads(text)
    # The tests see the command line that `python -m test` would give them, without options.
    sys.argv[1:] = []
    results = Results(path)
    try:
        prepare_support()
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name))
    except unittest.SkipTest as skip:
        results.write(module="skip", text=str(skip))
        suite = unittest.TestSuite()
    except BaseException:
        results.write(module="error", text=traceback.format_exc()[-TEXT:])
        suite = unittest.TestSuite()
    else:
        tests = list(flatten(suite))
        for index, test in enumerate(tests):
            test._stdlib_index = index
        results.write(tests=[test.id() for test in tests])
        wanted = set(range(len(tests))) if selection["only"] is None else set(selection["only"])
        wanted -= set(selection["without"])
        if selection["matching"]:
            matching = [f"*{each}*" for each in selection["matching"]]
            wanted = {
                index for index in wanted if any(fnmatch.fnmatchcase(tests[index].id(), each) for each in matching)
            }
        keep_only(suite, wanted)
        results.write(selected=sorted(wanted))
        test = None
        del tests
        suite.run(results)
    results.write(end=True)


if __name__ == "__main__":
    main()
