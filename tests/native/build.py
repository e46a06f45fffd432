"""Compile C, C++ and assembly at test time: extension modules and plain programs that only tests need.

Nothing here knows greenio or pytest. A missing compiler is a ToolMissing, which names the Debian package, so that a
fixture can skip; source that does not compile is a BuildFailed with the compiler's own words: that is a failure.

All is compiled with warnings as errors. With GREENIO_OBJECT_CACHE set to a folder, objects are kept there, named by
what they were made from: whoever builds the same files many times compiles each once.
"""

import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

COMPILE = ("-O2", "-g", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Werror")
STANDARDS = {".c": "-std=gnu11", ".cpp": "-std=gnu++17"}


class ToolMissing(Exception):
    """A program that the tests need is not installed. The message says what to install."""


class BuildFailed(Exception):
    """A compiler or linker refused. The message is its command and its output."""


def find_tool(*names: str, package: str) -> str:
    """The path of the first of *names* on PATH. Raises ToolMissing, naming the Debian *package*."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise ToolMissing(f"{' or '.join(names)} not found (Debian: apt-get install {package})")


def compiler_for(sources: Iterable[str | Path]) -> str:
    """The C++ compiler if any of *sources* is C++, else the C compiler."""
    if any(Path(source).suffix == ".cpp" for source in sources):
        return find_tool(*_chosen("CXX"), "c++", "g++", "clang++", package="g++")
    return find_tool(*_chosen("CC"), "cc", "gcc", "clang", package="gcc")


def compile_object(
    source: str | Path, include_dirs: Sequence[str | Path], workdir: Path, *, flags: Sequence[str] = ()
) -> Path:
    """Compile one file and return its object, in *workdir* or in GREENIO_OBJECT_CACHE."""
    source = Path(source)
    command = [compiler_for([source]), *COMPILE, *flags]
    if source.suffix in STANDARDS:
        command.append(STANDARDS[source.suffix])
    command += [f"-I{path}" for path in include_dirs]

    digest = hashlib.sha256(repr((command, source.name)).encode())
    headers = [header for path in (source.parent, *include_dirs) for header in sorted(Path(path).glob("*.h"))]
    for path in (source, *headers):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("GREENIO_OBJECT_CACHE") or workdir)
    made = cache / f"{source.name}-{digest.hexdigest()[:16]}.o"
    if not made.exists():
        unfinished = workdir / f"{made.name}.{os.getpid()}"
        _run([*command, "-c", str(source), "-o", str(unfinished)])
        unfinished.replace(made)
    return made


def build_extension(
    name: str,
    sources: Sequence[str | Path],
    include_dirs: Sequence[str | Path],
    workdir: Path,
    *,
    flags: Sequence[str] = (),
) -> Path:
    """Build the extension module *name* in *workdir* for the running interpreter.

    Args:
        name: the module's name, as in its PyInit_<name>.
        sources: .c, .cpp and .S files.
        include_dirs: where their headers are; Python's own are found without.
        workdir: an existing folder; the module and its objects go there.
        flags: more for the compiler, after the usual ones.
    Returns:
        The path of the module, to be imported with importlib or by putting *workdir* on sys.path.
    Raises:
        ToolMissing: no compiler, or no Python headers.
        BuildFailed: the compiler or the linker refused.
    """
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise ToolMissing(f"{headers / 'Python.h'} not found (Debian: apt-get install python3-dev)")
    # -isystem: warnings in CPython's headers are not ours. -idirafter: Debian's pyconfig.h includes another of that
    # name from the folder above.
    flags = (*flags, "-isystem", str(headers), "-idirafter", str(headers.parent))
    objects = [compile_object(source, include_dirs, workdir, flags=flags) for source in sources]
    made = workdir / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    _run([compiler_for(sources), "-shared", "-pthread", *map(str, objects), "-o", str(made)])
    return made


def build_program(
    name: str,
    sources: Sequence[str | Path],
    include_dirs: Sequence[str | Path],
    workdir: Path,
    *,
    flags: Sequence[str] = (),
) -> Path:
    """Build the plain program *name* in *workdir*. Arguments and errors as for build_extension; no Python in it."""
    objects = [compile_object(source, include_dirs, workdir, flags=flags) for source in sources]
    made = workdir / name
    _run([compiler_for(sources), "-pthread", *map(str, objects), "-o", str(made)])
    return made


def build_library(
    name: str,
    sources: Sequence[str | Path],
    include_dirs: Sequence[str | Path],
    workdir: Path,
    *,
    flags: Sequence[str] = (),
) -> Path:
    """Build the shared library *name* in *workdir*, to be preloaded. As build_program in all else."""
    objects = [compile_object(source, include_dirs, workdir, flags=flags) for source in sources]
    made = workdir / name
    _run([compiler_for(sources), "-shared", "-pthread", *map(str, objects), "-o", str(made), "-ldl"])
    return made


def _chosen(variable: str) -> list[str]:
    value = os.environ.get(variable, "").strip()
    return [value] if value and " " not in value else []


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)}\n{done.stdout}")
