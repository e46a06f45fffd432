"""Keeps the house: who may import whom, what is asked where, and that stubs and __all__ say what is there.

The table below is the layers of ARCHITECTURE.md as data. It lists modules that are still to come, so that each finds
its place waiting for it.
"""

import ast
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "greenio"

ALL = "everything above"
PUBLIC = "public names"
# From the lowest layer up. A row: the files (below greenio/, without suffix; * stands for one name) and what they know
# of the rest of greenio. ALL is the ordinary case; a narrower list is a promise. From Python up, _errors is for all.
LAYERS: list[tuple[str, str, object]] = [
    ("errors", "_errors", []),
    ("errors", "own_errno", []),
    ("context switch", "asm/*", ["asm/*"]),
    ("stack memory", "stack", []),
    ("stack overflow", "overflow", ["stack"]),
    ("thread state", "pystate/*", ["stack", "pystate/*"]),
    ("watching thread", "system_calls", []),
    ("watching thread", "monitor", ["pystate/*", "system_calls"]),
    ("watching thread", "assistants", ["monitor", "system_calls"]),
    ("deadlines", "timers", []),
    ("fiber", "_switch", ["asm/*", "stack", "overflow", "pystate/*", "monitor"]),
    ("poller", "pollers/poller", []),
    ("poller", "pollers/[!_]*", ["pollers/poller"]),
    ("poller", "pollers/__init__", ["pollers/*"]),
    (
        "scheduler",
        "_scheduler",
        [
            *("asm/*", "stack", "overflow", "pystate/*", "monitor", "system_calls", "assistants", "timers", "_switch"),
            "pollers/*",
        ],
    ),
    ("primitives", "_time", ["_switch", "_scheduler"]),
    ("primitives", "_sections", ["_switch", "_scheduler"]),
    ("primitives", "_waiting", ["_switch", "_scheduler"]),
    ("primitives", "_sync", ["_switch", "_scheduler", "_waiting"]),
    ("primitives", "_queues", ["_switch", "_scheduler", "_waiting"]),
    ("primitives", "_broadcast", ["_switch", "_scheduler", "_waiting", "_queues"]),
    ("primitives", "_channels", ["_switch", "_scheduler", "_waiting"]),
    ("primitives", "_select", ["_switch", "_scheduler", "_time", "_waiting", "_queues", "pollers/*"]),
    ("primitives", "_scopes", ["_switch", "_scheduler", "_time"]),
    ("primitives", "_task_groups", ["_switch", "_scheduler", "_time", "_waiting", "_scopes"]),
    ("primitives", "method_defs", []),
    ("primitives", "_standard_threads", ["method_defs", "_switch", "_scheduler", "_waiting"]),
    ("primitives", "_groups", ["_scheduler", "_time", "_sync", "_scopes", "_task_groups"]),
    ("running", "_explain", ["_scheduler"]),
    ("running", "_dump_signal", ["_scheduler", "_explain"]),
    ("running", "_watch", ["_scheduler"]),
    ("running", "_thread_owners", ["_scheduler", "_sections", "_standard_threads"]),
    ("running", "_slices", ["_switch", "_scheduler", "_standard_threads"]),
    ("running", "_run", ALL),
    ("threads", "_os_threads", ["_standard_threads"]),
    ("threads", "_threads", ["_switch", "_scheduler", "_waiting", "_os_threads"]),
    ("threads", "from_thread", ["_threads"]),
    ("threads", "_lookups", ["_switch", "_scheduler", "_waiting", "_threads"]),
    ("I/O", "_io", ["_switch", "_scheduler", "_time", "_waiting", "_scopes", "_sync", "_threads"]),
    ("I/O", "_buffers", ["pollers/*", "_switch", "_scheduler", "_waiting", "_sync", "_scopes", "_io"]),
    ("I/O", "_file_text", ["_sync", "_buffers"]),
    ("I/O", "socket_calls", []),
    ("I/O", "_socket", ["socket_calls", "pollers/*", "_switch", "_scheduler", "_time", "_sync", "_scopes", "_io"]),
    (
        "I/O",
        "_messages",
        ["socket_calls", "pollers/*", "_switch", "_scheduler", "_time", "_sync", "_scopes", "_io", "_socket"],
    ),
    ("I/O", "_socket_names", []),
    (
        "I/O",
        "_plain_sockets",
        ["_switch", "_scheduler", "_socket", "_messages", "pollers/*"],
    ),
    ("I/O", "_dns", ALL),
    ("I/O", "socket", ALL),
    ("I/O", "_ssl_names", []),
    (
        "I/O",
        "_tls",
        ["socket_calls", "pollers/*", "_switch", "_scheduler", "_waiting", "_scopes", "_socket", "_messages"],
    ),
    ("I/O", "ssl", ALL),
    ("I/O", "standard_sockets", ALL),
    ("I/O", "standard_tls", ALL),
    ("I/O", "_signals", ALL),
    ("I/O", "signal", ALL),
    ("I/O", "_files", ALL),
    ("I/O", "_children", ["_scheduler", "_sync", "_threads", "_os_threads", "_io"]),
    ("I/O", "_streams", ALL),
    ("I/O", "_connect", ALL),
    ("I/O", "_server", ALL),
    ("I/O", "subprocess", ALL),
    ("I/O", "_os_names", []),
    ("I/O", "os", ALL),
    ("I/O", "io", ALL),
    ("I/O", "[_s]*elect*", ALL),  # the module's type and the module name each other
    ("I/O", "time", ALL),
    ("I/O", "queue", ALL),
    ("I/O", "threading", ALL),
    ("tools", "_schedules", ["_scheduler"]),
    ("tools", "testing", ALL),
    ("tools", "debug", ALL),
    ("names", "__init__", ALL),
    ("compatibility", "compat/patches", []),
    ("compatibility", "compat/*", PUBLIC),
    ("compatibility", "monkey", PUBLIC),
    ("compatibility", "integrations/*", PUBLIC),
    ("tools", "pytest_plugin", PUBLIC),
    ("tools", "_outermost", ["pystate/*"]),
    ("tools", "__main__", ALL),  # public names, and the one above
]
NO_PYTHON = ("asm/*", "stack", "overflow", "timers", "system_calls", "own_errno")  # libc at most
ANY_DISTRIBUTION = ("compat/*", "integrations/*", "pytest_plugin")  # may import what is not in the standard library

SOURCE_SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".S"}


def sources(*suffixes: str) -> list[Path]:
    """Files that we write, below greenio/: not the C that Cython wrote."""
    wanted = set(suffixes) or SOURCE_SUFFIXES
    return sorted(
        path
        for path in PACKAGE.rglob("*")
        if path.suffix in wanted and not (path.suffix == ".c" and path.with_suffix(".pyx").exists())
    )


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@cache
def row(name: str) -> int:
    for index, (_, pattern, _) in enumerate(LAYERS):
        if fnmatchcase(name, pattern):
            return index
    raise LookupError(f"greenio/{name} has no row in the table of {Path(__file__).name}")


def in_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# --- reading imports -------------------------------------------------------------------------------------------------


def absolute(module: str, level: int, path: Path) -> str:
    """What `from <level dots><module>` means in the file at `path`."""
    if level == 0:
        return module
    package = ("greenio", *path.relative_to(PACKAGE).parent.parts)
    base = package[: len(package) - (level - 1)]
    return ".".join([*base, module] if module else base)


def python_imports(text: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name taken from it or None) of every import in Python text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield absolute(node.module or "", node.level, path), alias.name


CYTHON_FROM = re.compile(r"^\s*from\s+(\.*)([\w.]*)\s+c?import\s+(\([^)]*\)|[^\n#]+)", re.MULTILINE)
CYTHON_IMPORT = re.compile(r"^\s*c?import\s+([^\n#]+)", re.MULTILINE)
CYTHON_EXTERN = re.compile(r"^\s*cdef\s+extern\s+from\s+[\"']([^\"']+)[\"']", re.MULTILINE)
CYTHON_INCLUDE = re.compile(r"^\s*include\s+[\"']", re.MULTILINE)
C_INCLUDE = re.compile(r"^\s*#\s*include\s+([\"<])([^\">]+)[\">]", re.MULTILINE)
TRIPLE_QUOTED = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)


def cython_imports(text: str, path: Path) -> Iterator[tuple[str, str | None]]:
    text = TRIPLE_QUOTED.sub('""', text)
    for dots, module, names in CYTHON_FROM.findall(text):
        for name in names.strip("()").split(","):
            if name.strip():
                yield absolute(module, len(dots), path), name.split()[0]
    for modules in CYTHON_IMPORT.findall(text):
        for module in modules.split(","):
            yield module.split()[0], None


def header_unit(name: str, path: Path) -> str | None:
    """The unit that `#include "name"` in the file at `path` reaches; None outside greenio."""
    for folder in (path.parent, PACKAGE, PACKAGE / "asm"):
        found = (folder / name).resolve()
        if found.is_file() and found.is_relative_to(PACKAGE.resolve()):
            return found.relative_to(PACKAGE.resolve()).with_suffix("").as_posix()
    return None


def module_unit(module: str, name: str | None) -> str | None:
    """The unit behind `from module import name`; None outside greenio."""
    parts = module.split(".")
    if parts[0] != "greenio":
        return None
    if name is not None:
        below = "/".join([*parts[1:], name])
        if any((PACKAGE / below).with_suffix(suffix).exists() for suffix in (".py", ".pyx", ".pxd")):
            return below
        if (PACKAGE / below / "__init__.py").exists():
            return f"{below}/__init__"
    inner = "/".join(parts[1:])
    if not inner:
        return "__init__"
    return f"{inner}/__init__" if (PACKAGE / inner).is_dir() else inner


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    text = path.read_text()
    return python_imports(text, path) if path.suffix == ".py" else cython_imports(text, path)


def imported_units(path: Path) -> set[str]:
    text = path.read_text()
    found: set[str | None] = set()
    if path.suffix in {".py", ".pyx", ".pxd", ".pxi"}:
        found.update(module_unit(*pair) for pair in imports(path))
    if path.suffix in {".pyx", ".pxd", ".pxi"}:
        found.update(header_unit(name, path) for name in CYTHON_EXTERN.findall(text))
    if path.suffix != ".py":  # C text, or C text quoted in Cython
        found.update(header_unit(name, path) for _, name in C_INCLUDE.findall(text))
    return {name for name in found if name is not None and name != unit(path)}


# --- the arrows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_only_from_rows_above(path: Path) -> None:
    name = unit(path)
    index = row(name)
    _, own_pattern, knows = LAYERS[index]
    for other in imported_units(path):
        if knows == PUBLIC:
            continue  # test_lives_on_public_names
        assert row(other) < index or fnmatchcase(other, own_pattern), f"{name} imports {other}, which stands above it"
        if isinstance(knows, list):
            may = knows if index == 0 or path.suffix in {".c", ".h", ".S"} else [*knows, "_errors"]
            assert in_any(other, may), f"{name} imports {other}; it may know {', '.join(may) or 'nothing'}"


def test_errors_import_nothing() -> None:
    path = PACKAGE / "_errors.py"
    assert list(python_imports(path.read_text(), path)) == []


@pytest.mark.parametrize("path", sources(".c", ".h", ".S"), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_low_layers_know_no_python(path: Path) -> None:
    included = {name for _, name in C_INCLUDE.findall(path.read_text())}
    if in_any(unit(path), NO_PYTHON):
        assert "Python.h" not in included
    if fnmatchcase(unit(path), "asm/*"):
        assert {name for name in included if header_unit(name, path) is None} <= {"stddef.h", "stdint.h"}


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd"), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_needs_the_standard_library_only(path: Path) -> None:
    if in_any(unit(path), ANY_DISTRIBUTION):
        return
    known = {"greenio", *sys.stdlib_module_names}
    if path.suffix != ".py":
        known |= {"cython", "cpython", "libc", "posix"}
    assert {module.split(".")[0] for module, _ in imports(path)} <= known


def public_only() -> list[Path]:
    own = [path for path in sources(".py") if LAYERS[row(unit(path))][2] == PUBLIC]
    return own + sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", public_only(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lives_on_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    public = set(stated_all())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "greenio"]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "greenio"):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
            if node.module == "greenio" and not node.level:
                for alias in node.names:
                    assert alias.name in public or (PACKAGE / f"{alias.name}.py").exists(), f"greenio.{alias.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "greenio":
            names = [node.attr]
            assert node.attr in public or (PACKAGE / f"{node.attr}.py").exists(), f"greenio.{node.attr}"
        else:
            continue
        for name in names:
            private = [part for part in name.split(".") if part.startswith("_")]
            assert not private, f"{path.name} uses {name}; if it needs that, the public surface lacks something"


# --- every difference has a room -------------------------------------------------------------------------------------


def who_asks(pattern: str, room: str) -> list[str]:
    """Files outside the room that match. __init__.py may: it refuses what is not supported, in one place."""
    asks = re.compile(pattern)
    found = [unit(path) for path in sources() if path.parent.name != room and asks.search(path.read_text())]
    return [name for name in found if name != "__init__"]


def test_only_pystate_asks_for_the_interpreter_version() -> None:
    assert who_asks(r"PY_VERSION_HEX|PY_M\w+_VERSION|\bversion_info\b|\bhexversion\b", "pystate") == []


def test_only_asm_asks_for_the_processor() -> None:
    assert who_asks(r"__x86_64__|__i386__|__aarch64__|platform\.machine|__asm__", "asm") == []


def without_implementation(text: str) -> str:
    """Header text less what stands between `#ifdef ..._IMPLEMENTATION` and its `#endif`."""
    kept, depth = [], 0
    for line in text.splitlines():
        if depth or re.match(r"\s*#\s*ifdef\s+\w+_IMPLEMENTATION\b", line):
            if re.match(r"\s*#\s*if", line):
                depth += 1
            elif re.match(r"\s*#\s*endif", line):
                depth -= 1
        else:
            kept.append(line)
    return "\n".join(kept)


@pytest.mark.parametrize("path", sources(".h"), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_headers_hold_no_variables(path: Path) -> None:
    # Each extension module that includes the header would get a variable of its own, and believe it to be the one.
    text = without_implementation(re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL))
    assert not re.search(r"\b(__thread|_Thread_local|thread_local)\b", text)
    statics = re.findall(r"^\s*static\b(?![^;{(=]*\()[^;{]*[;=]", text, re.MULTILINE)
    assert [line for line in statics if "const" not in line] == []


def test_no_cython_file_is_included_into_another() -> None:
    for path in sources(".pyx", ".pxd"):
        assert not CYTHON_INCLUDE.search(TRIPLE_QUOTED.sub('""', path.read_text())), path


# --- extension modules, their stubs, the list of names ---------------------------------------------------------------

EXTENSIONS = sources(".pyx")


def dotted(path: Path) -> str:
    return "greenio." + unit(path).replace("/", ".")


def test_setup_builds_every_extension() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    tables = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "MODULES"
        if node.value is not None
    ]
    (table,) = tables
    assert set(table) == {dotted(path) for path in EXTENSIONS}
    linked = {name for own in table.values() for name in own}
    assert linked == {path.relative_to(ROOT).as_posix() for path in sources(".c", ".S")}


@pytest.mark.parametrize("path", EXTENSIONS, ids=unit)
def test_extension_has_contract_and_stub(path: Path) -> None:
    assert path.with_suffix(".pxd").is_file()
    assert path.with_suffix(".pyi").is_file()


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Public names that a stub's module or class body gives."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.If):
            found.update(stub_names(node.body) | stub_names(node.orelse))
    return {name: node for name, node in found.items() if not name.startswith("_")}


def module_names(module: types.ModuleType) -> set[str]:
    """Public names that the module itself makes, not those that it imports."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", module.__name__) in (module.__name__, None)
    }


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, str]]:
    given = node.args
    found = [(each.arg, "positional") for each in given.posonlyargs + given.args]
    if given.vararg:
        found.append((given.vararg.arg, "*"))
    found += [(each.arg, "keyword") for each in given.kwonlyargs]
    if given.kwarg:
        found.append((given.kwarg.arg, "**"))
    return [pair for pair in found if pair[0] not in ("self", "cls")]


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def check_signature(where: str, stub: ast.stmt, built: object) -> None:
    if not isinstance(stub, ast.FunctionDef) or any(
        isinstance(mark, ast.Name) and mark.id in ("property", "overload") for mark in stub.decorator_list
    ):
        return
    assert callable(built), f"{where} is not callable"
    try:
        signature = inspect.signature(built)
    except ValueError:
        return  # none available
    there = [(each.name, KINDS[each.kind]) for each in signature.parameters.values()]
    assert parameters(stub) == [pair for pair in there if pair[0] not in ("self", "cls")], where


@pytest.mark.parametrize("path", EXTENSIONS, ids=unit)
def test_stub_matches_the_built_module(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    stub = stub_names(ast.parse(path.with_suffix(".pyi").read_text()).body)
    missing = [name for name in stub if not hasattr(module, name)]
    assert missing == [], f"in the stub, not in the module: {missing}"
    assert module_names(module) - set(stub) == set(), "in the module, not in its stub"
    for name, node in stub.items():
        check_signature(f"{module.__name__}.{name}", node, getattr(module, name))
        built = getattr(module, name)
        if not (isinstance(node, ast.ClassDef) and isinstance(built, type)):
            continue
        members = stub_names(node.body)
        there = {member for member in vars(built) if not member.startswith("_")}
        assert [member for member in members if not hasattr(built, member)] == [], f"{name}: in the stub only"
        assert there - set(members) == set(), f"{name}: not in the stub"
        for member, inner in members.items():
            check_signature(f"{module.__name__}.{name}.{member}", inner, getattr(built, member))


@cache
def stated_all() -> tuple[str, ...]:
    """greenio.__all__, which must be a list of literals."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets):
            names = ast.literal_eval(node.value)
            assert isinstance(names, list | tuple)
            return tuple(names)
    raise AssertionError("greenio/__init__.py states no __all__")


def test_all_is_what_can_be_imported() -> None:
    greenio = importlib.import_module("greenio")
    stated = stated_all()
    assert tuple(greenio.__all__) == stated
    assert len(set(stated)) == len(stated), "a name is listed twice"
    assert [name for name in stated if not hasattr(greenio, name)] == []
    assert [name for name in stated if name.startswith("_") and name != "__version__"] == []
    there = {
        name
        for name, value in vars(greenio).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert there - set(stated) == set(), "importable, but not in __all__"


def test_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
