"""greenio.monkey, the framework: what is patched when, entry points, the way back."""

import os
import textwrap
from pathlib import Path

import pytest

import greenio
import greenio.monkey
from tests.child import run_child

SNAPSHOT = """
import sys, types, importlib
def look():
    seen = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and name.partition(".")[0] not in ("greenio", "__main__"):
            seen[name] = dict(vars(module))
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and str(value.__module__).partition(".")[0] != "greenio":
                    seen[name, key] = dict(vars(value))
    return seen
def differences(before, after):
    found = []
    for owner in before:
        old, new = before[owner], after.get(owner, {})
        for key in old.keys() | new.keys():
            if key in ("__warningregistry__", "__builtins__", "_abc_impl", "__annotations_cache__", "__static_attributes__"):
                continue
            if old.get(key, look) is not new.get(key, look):
                found.append((owner, key, old.get(key), new.get(key)))
    return found
"""


def test_a_round_trip_leaves_every_module_and_class_as_it_was():
    child = run_child(
        SNAPSHOT
        + textwrap.dedent("""
        import threading, queue, logging, concurrent.futures, socket, ssl, select, selectors, subprocess, time, _thread, asyncio
        import importlib.metadata
        from time import sleep
        import greenio.monkey, greenio.ssl, greenio.subprocess, greenio.os, greenio.selectors
        greenio.monkey.patch_all(); greenio.monkey.unpatch_all()   # imports what it needs
        before = look()
        assert sleep is time.sleep
        greenio.monkey.patch_all()
        assert greenio.can_park() and sleep is not before["time"]["sleep"]
        assert differences(before, look())
        sys.modules["late"] = late = types.ModuleType("late")
        exec("from time import sleep; from _thread import get_ident", vars(late))
        sleep(0); late.sleep(0)
        threading.Thread(target=sleep, args=(0.001,)).start()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join()
        greenio.monkey.unpatch_all()
        assert differences(before, look()) == [], differences(before, look())
        assert late.sleep is time.sleep is before["time"]["sleep"] and late.get_ident is _thread.get_ident
        assert not greenio.can_park() and greenio.monkey.patched_modules() == []
        thread = threading.Thread(target=lambda: ran.append(greenio.can_park())); ran = []
        thread.start(); thread.join()
        assert ran == [False]
        """)
    )
    assert child.stderr == ""


def test_what_is_patched_is_told_and_patching_again_changes_nothing():
    run_child("""
        import time, greenio.monkey as monkey
        originals = [time.sleep]     # not a global: that is patched, too
        monkey.patch_time()
        patched = time.sleep
        assert monkey.is_patched("time") and not monkey.is_patched("threading") and monkey.patched_modules() == ["time"]
        monkey.patch_all()
        assert time.sleep is patched and monkey.is_patched("threading")
        assert monkey.patched_modules()[0] == "time" and len(set(monkey.patched_modules())) == len(monkey.patched_modules())
        once = monkey.patched_modules()
        monkey.patch_all()
        assert monkey.patched_modules() == once
        assert monkey.get_original("time", "sleep") is originals[0]
        assert monkey.get_original("time", "monotonic") is time.monotonic
        try: monkey.get_original("time", "nothing")
        except AttributeError: pass
        else: raise SystemExit("no AttributeError")
    """)


def test_modules_can_be_left_out_and_unknown_ones_are_refused():
    run_child("""
        import time, _thread, greenio.monkey as monkey
        ident = _thread.get_ident
        try: monkey.patch_all(tiem=False)
        except TypeError as error: assert "tiem" in str(error) and "time" in str(error)
        else: raise SystemExit("no TypeError")
        assert monkey.patched_modules() == []
        monkey.patch_all(threading=False, time=False)
        assert not monkey.is_patched("_thread") and not monkey.is_patched("time") and monkey.is_patched("queue")
        assert _thread.get_ident is ident
    """)


def test_every_module_has_its_function():
    for name in greenio.monkey._MODULES:
        function = getattr(greenio.monkey, f"patch_{name.replace('.', '_')}")
        assert function.__doc__
        assert function.__name__ in greenio.monkey.__all__


def test_unpatching_refuses_while_other_fibers_live_and_changes_nothing():
    run_child("""
        import threading, time, greenio, greenio.monkey as monkey
        monkey.patch_all()
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, name="lingers")
        thread.start()
        before = monkey.patched_modules()
        try: monkey.unpatch_all()
        except RuntimeError as error: assert "lingers" in str(error), error
        else: raise SystemExit("no RuntimeError")
        refused = []
        def elsewhere():
            try: monkey.unpatch_all()
            except RuntimeError as error: refused.append(str(error))
        greenio.spawn(elsewhere).join()
        assert "main fiber" in refused[0]
        assert monkey.patched_modules() == before and greenio.can_park()
        stop.set(); thread.join()
        monkey.unpatch_all()
        assert not greenio.can_park()
        monkey.unpatch_all()
    """)


def test_a_run_that_was_there_before_is_not_ended_by_unpatching():
    run_child("""
        import greenio, greenio.monkey as monkey
        def main():
            fiber = greenio.spawn(greenio.sleep, 60)
            monkey.patch_all()
            monkey.unpatch_all()
            assert greenio.can_park() and fiber.state != "done"
        greenio.run(main)
    """)


DISTRIBUTION = {
    "entry_points.txt": """
        [greenio.monkey.before]
        first = hooks:before
        fails = hooks:fails
        missing = no_such_module:function
        [greenio.monkey.after]
        last = hooks:after
    """,
    "METADATA": """
        Metadata-Version: 2.1
        Name: hooks
        Version: 1
    """,
}


def test_entry_points_are_called_before_and_after_and_a_failing_one_is_logged(tmp_path: Path):
    folder = tmp_path / "hooks-1.dist-info"
    folder.mkdir()
    for name, text in DISTRIBUTION.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    (tmp_path / "hooks.py").write_text(
        textwrap.dedent("""
        import time
        calls, originals = [], [time.sleep]
        def before(names): calls.append(("before", names, time.sleep is originals[0]))
        def after(names): calls.append(("after", names, time.sleep is originals[0]))
        def fails(names): names.clear(); raise ValueError("of purpose")
        """)
    )
    child = run_child(
        """
        import hooks, greenio.monkey as monkey
        monkey.patch_time()
        assert hooks.calls == [("before", ["time"], True), ("after", ["time"], False)], hooks.calls
        monkey.patch_time()
        assert len(hooks.calls) == 2
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert "fails = hooks:fails" in child.stderr
    assert "of purpose" in child.stderr
    assert "missing = no_such_module:function" in child.stderr


def test_the_search_for_entry_points_looks_into_zip_files_by_the_slow_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"PK")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("sys.meta_path", [])
    assert greenio.monkey._groups_there() == set()
    monkeypatch.setattr("sys.path", [str(archive)])
    assert greenio.monkey._groups_there() == {"greenio.monkey.before", "greenio.monkey.after"}


def test_a_patch_that_fails_leaves_nothing_behind():
    run_child("""
        import time, _thread, sys, greenio.monkey as monkey, greenio.compat.time, greenio.compat.queue
        originals = [time.sleep]
        def fails(patch): raise OSError("of purpose")
        works, greenio.compat.queue.apply = greenio.compat.queue.apply, fails
        try: monkey.patch_all()
        except OSError: pass
        else: raise SystemExit("no OSError")
        assert time.sleep is originals[0] and monkey.patched_modules() == []
        greenio.compat.queue.apply = works
        monkey.patch_all()
        assert time.sleep is not originals[0]
    """)


def test_sleep_takes_what_the_standard_one_takes():
    run_child("""
        import time, math, decimal, greenio, greenio.monkey as monkey
        originals = [time.sleep]
        monkey.patch_all()
        class Index:
            def __index__(self): return 0
        class Long(int): pass
        def outcome(sleep, value):
            try: return sleep(value)
            except Exception as error: return type(error), str(error)
        for value in (0, 0.0, 0.001, Index(), Long(0), True * 0, -1, -0.5, Long(-1), math.nan, math.inf, 1e300, 10**30, None, "1",
                      decimal.Decimal("0.001"), b""):
            assert outcome(originals[0], value) == outcome(time.sleep, value), value
        for wrong in ((), (1, 2)):
            try: time.sleep(*wrong)
            except TypeError: pass
            else: raise SystemExit("no TypeError")
        order = []
        greenio.spawn(lambda: order.append("other"))
        time.sleep(0)
        assert order == ["other"]
        with greenio.move_on_after(0.01) as scope: time.sleep(60)
        assert scope.cancelled_caught
    """)
