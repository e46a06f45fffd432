"""The standard library's own tests of threading's primitives, run against ours: by OS threads, and by fibers."""

import pytest
from child import run_child

pytest.importorskip("test.lock_tests", reason="this interpreter came without the tests of its library")

# What is otherwise on purpose, or looks into threading's inside.
OTHERWISE = {
    "LockTests.test_reacquire": "releases a Lock that another has acquired",
    "LockTests.test_different_thread": "the same",
    "ConditionTests.test_acquire": "a Condition with a lock of threading",
    "EventTests.test_at_fork_reinit": "asks the Event's inner Condition",
    "ConditionTests.test_nan_timeout": "asks the Condition's list of waiters",
}

SCRIPT = """
import contextlib, sys, threading, time, types, unittest
from test import lock_tests
import greenio
from greenio.testing import wait_all_parked

KINDS = [
    (lock_tests.LockTests, "locktype", greenio.Lock),
    (lock_tests.RLockTests, "locktype", greenio.RLock),
    (lock_tests.RLockTests, "locktype", greenio.Condition),
    (lock_tests.EventTests, "eventtype", greenio.Event),
    (lock_tests.ConditionTests, "condtype", greenio.Condition),
    (lock_tests.SemaphoreTests, "semtype", greenio.Semaphore),
    (lock_tests.BoundedSemaphoreTests, "semtype", greenio.BoundedSemaphore),
    (lock_tests.BarrierTests, "barriertype", greenio.Barrier),
]

def run_tests():
    suite = unittest.TestSuite()
    for base, attribute, kind in KINDS:
        case = type(base.__name__, (base,), {attribute: staticmethod(kind)})
        for name in unittest.defaultTestLoader.getTestCaseNames(case):
            if f"{base.__name__}.{name}" not in sys.argv[2].split(","):
                suite.addTest(case(name))
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    assert result.testsRun > 80
    assert result.wasSuccessful()

class FiberAsThread:
    # As much of threading.Thread as these tests use.
    def __init__(self, target, args=()):
        self.target, self.args = target, args

    def start(self):
        self.fiber = greenio.spawn(self.target, *self.args)

    def join(self, timeout=None):
        self.fiber.join(timeout)

def in_fibers():
    replaced = {"get_ident": lambda: greenio.current_fiber().id, "Thread": FiberAsThread}
    lock_tests.threading = types.SimpleNamespace(**{**vars(threading), **replaced})
    lock_tests.start_new_thread = lambda fn, args: greenio.spawn(fn, *args).id
    lock_tests.threading_helper.wait_threads_exit = lambda *_: contextlib.nullcontext()
    lock_tests.wait_threads_blocked = lambda _: wait_all_parked()
    time.sleep = greenio.sleep
    run_tests()

if sys.argv[1] == "fibers":
    greenio.run(in_fibers)
else:
    run_tests()
print("ok")
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["threads", "fibers"])
def test_the_standard_tests_of_threading_pass(who):
    child = run_child(SCRIPT, who, ",".join(OTHERWISE), flags=(), status=None)
    assert child.stdout.endswith("ok\n"), child.stdout + child.stderr
