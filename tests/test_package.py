"""The package itself: where it can be imported, and what importing it does."""

import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from child import ROOT, run_child

import greenio

ELSEWHERE = {
    "another system": "sys.platform = 'darwin'",
    "another processor": "os.uname = lambda: os.uname_result(('Linux', 'here', '6', '#1', 'aarch64'))",
    "an older interpreter": "sys.version_info = (3, 10, 4)",
    "a newer interpreter": "sys.version_info = (3, 16, 0)",
    "a free-threaded build": "sys._is_gil_enabled = lambda: False",
    "a free-threaded build with its GIL on": "sys.abiflags += 't'",
    "another implementation": "sys.implementation.name = 'pypy'",
}


@pytest.mark.parametrize("change", ELSEWHERE.values(), ids=ELSEWHERE)
def test_importing_elsewhere_says_what_is_supported(change: str) -> None:
    child = run_child(f"import os, platform, sys\n{change}\nimport greenio", status=1)
    last = child.stderr.splitlines()[-1]
    assert last.startswith(
        "ImportError: greenio supports CPython 3.11 to 3.15 with the GIL on Linux on x86-64; this is "
    )


def test_importing_in_a_free_threaded_build_says_that_it_is_one() -> None:
    child = run_child("import sys\nsys.abiflags = 't'\nimport greenio", status=1)
    assert " (free-threaded) on Linux" in child.stderr.splitlines()[-1]


def test_building_for_a_free_threaded_build_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "free_threaded.c"
    source.write_text('#define Py_GIL_DISABLED 1\n#include "pystate/pystate.h"\n')
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = sysconfig.get_path("include")
    if compiler is None or not Path(headers, "Python.h").is_file():
        pytest.skip("no compiler, or none of the interpreter's headers")
    command = [
        compiler,
        "-fsyntax-only",
        "-I",
        str(ROOT / "greenio"),
        "-I",
        headers,
        "-idirafter",
        str(Path(headers).parent),
    ]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "greenio: free-threaded CPython builds are not supported yet; use a build with the GIL" in done.stderr

    setup = f"""
import setuptools, sys, sysconfig
sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1
sys.path.insert(0, {str(ROOT)!r})
import setup
try:
    setup.require_supported_platform()
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", setup], capture_output=True, text=True, check=False)
    if "No module named 'setuptools'" not in done.stderr:
        assert "(builds with the GIL), not CPython" in done.stdout
        assert "(free-threaded) on Linux" in done.stdout


def test_an_unknown_guard_is_refused_at_import() -> None:
    child = run_child("import greenio", status=1, GREENIO_GUARD="hope")
    assert "GREENIO_GUARD must be one of madvise, mprotect, canary, not 'hope'" in child.stderr


def test_importing_starts_no_thread_and_prints_nothing() -> None:
    child = run_child("import greenio, os; assert len(os.listdir('/proc/self/task')) == 1")
    assert (child.stdout, child.stderr) == ("", "")


def test_what_loads_much_is_imported_when_it_is_asked_for():
    run_child("""
import sys, greenio
late = {"greenio.os", "greenio.selectors", "greenio.subprocess"}
assert not late & set(sys.modules) and late | {"greenio.ssl"} <= {f"greenio.{name}" for name in dir(greenio)}
assert greenio.subprocess.Popen and greenio.selectors.DefaultSelector and greenio.os.waitpid and greenio.ssl.SSLContext
try:
    greenio.nothing_of_that_name
except AttributeError as error:
    assert "nothing_of_that_name" in str(error)
else:
    raise AssertionError
from greenio import *
""")


def test_a_refused_import_loads_nothing(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        with pytest.raises(ImportError, match="on Linux on x86-64; this is CPython 3"):
            runpy.run_path(greenio.__file__)


def test_dir_tells_what_is_imported_late():
    names = dir(greenio)
    assert {"os", "selectors", "subprocess", "ssl", "run"} <= set(names) and names == sorted(names)
    for mirror in (greenio.os, greenio.subprocess):
        assert vars(mirror._standard).keys() <= set(dir(mirror))
