"""The extension modules: which files go into each, and how they are compiled. Metadata and settings are in pyproject.toml.

Our own C and assembly is compiled with strict warnings, the C that Cython writes with fewer;
GREENIO_WERROR=1 in the environment makes every warning of either an error, GREENIO_OPTIMIZE=-O1 replaces -O2.
"""

import os
import platform
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError
from setuptools.modified import newer_group

# One row a module: its Cython source is the module's path + ".pyx"; the rest is linked in.
MODULES: dict[str, list[str]] = {
    "greenio._switch": [
        "greenio/asm/x86_64_sysv.S",
        "greenio/stack.c",
        "greenio/overflow.c",
        "greenio/pystate/pystate.c",
    ],
    "greenio.pollers.poller": [],
    "greenio.pollers.epoll": [],
    "greenio._scheduler": [
        "greenio/monitor.c",
        "greenio/assistants.c",
        "greenio/system_calls.c",
        "greenio/timers.c",
    ],
    "greenio._time": [],
    "greenio._sections": [],
    "greenio._waiting": [],
    "greenio._scopes": [],
    "greenio._sync": [],
    "greenio._queues": [],
    "greenio._broadcast": [],
    "greenio._channels": [],
    "greenio._select": [],
    "greenio._task_groups": [],
    "greenio._standard_threads": [],
    "greenio._dump_signal": [],
    "greenio._threads": [],
    "greenio._lookups": [],
    "greenio._io": [],
    "greenio._buffers": [],
    "greenio._socket": [],
    "greenio._signals": [],
    "greenio._messages": [],
    "greenio._plain_sockets": [],
    "greenio._tls": [],
    "greenio._streams": [],
    "greenio._slices": [],
    "greenio._outermost": [],
}

DIRECTIVES = {
    "language_level": 3,
    "binding": False,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "autotestdict": False,  # no __test__ in the modules
    "auto_pickle": False,  # no __reduce_cython__ in the classes: nothing here can be pickled
    "embedsignature": True,
    "embedsignature.format": "clinic",  # what inspect.signature() and stubtest understand
}

# An edit of one of these compiles everything again.
HEADERS = ["setup.py", *glob("greenio/*.h"), *glob("greenio/asm/*.h"), *glob("greenio/pystate/*.h")]

PYTHON_HEADERS = Path(sysconfig.get_path("include"))

# For a debug build of the interpreter, which nobody has for its speed: the compiler takes two thirds of the time.
OPTIMIZE = os.environ.get("GREENIO_OPTIMIZE") or ("-O1" if hasattr(sys, "gettotalrefcount") else "-O2")

# -idirafter: Debian's pyconfig.h includes another of that name from below the folder that holds python3.x/; the
# compiler finds it by itself only if the interpreter was not unpacked elsewhere.
COMPILE = [OPTIMIZE, "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-idirafter", str(PYTHON_HEADERS.parent)]

# -isystem, after distutils' -I of the same folder: CPython's headers raise no warnings in our sources.
STRICT = [
    "-isystem",
    str(PYTHON_HEADERS),
    "-std=gnu11",
    "-Wshadow",
    "-Wpointer-arith",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wwrite-strings",
    "-Wvla",
]
GENERATED = [
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-sign-compare",
    "-include",
    "greenio/own_errno.h",
]

SUPPORTED = "greenio runs on Linux on x86-64 with CPython 3.11 to 3.15 (builds with the GIL)"


def require_supported_platform() -> None:
    found = (
        f"{platform.python_implementation()} {platform.python_version()}"
        f"{' (free-threaded)' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''}"
        f" on {platform.system()} on {platform.machine()}"
    )
    if (
        sys.platform != "linux"
        or platform.machine() not in ("x86_64", "AMD64")
        or sys.maxsize < 2**32
        or sys.implementation.name != "cpython"
        or not (3, 11) <= sys.version_info[:2] <= (3, 15)
        or sysconfig.get_config_var("Py_GIL_DISABLED")
    ):
        raise PlatformError(f"{SUPPORTED}, not {found}")


def require_tools(compiler: str) -> None:
    if shutil.which(compiler) is None:
        raise PlatformError(f"no C compiler: {compiler} is not on PATH (Debian: apt-get install gcc). {SUPPORTED}")
    header = PYTHON_HEADERS / "Python.h"
    if not header.is_file():
        raise PlatformError(
            f"no Python headers: {header} is missing (Debian: apt-get install python3-dev). {SUPPORTED}"
        )


class build_ext_in_two_steps(build_ext):
    """All Cython sources first, in parallel; then each module's own sources strictly, then its generated C."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        require_supported_platform()
        require_tools(self.compiler.compiler_so[0])
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError as CythonError

        self.compiler.src_extensions = [*self.compiler.src_extensions, ".S"]
        self.own_sources = {}
        for extension in self.extensions:
            self.own_sources[extension.name] = [name for name in extension.sources if not name.endswith(".pyx")]
            extension.sources = [name for name in extension.sources if name.endswith(".pyx")]
        # Cython knows when a .pyx or .pxd has changed, but not when the directives have.
        written = [name.removesuffix("pyx") + "c" for each in self.extensions for name in each.sources]
        try:
            generated = cythonize(
                self.extensions,
                compiler_directives=DIRECTIVES,
                force=self.force or any(newer_group(["setup.py"], name) for name in written),
                nthreads=self.parallel if len(self.extensions) > 1 else 0,
            )
        except CythonError as error:
            raise CompileError(f"Cython refuses {error}") from None  # it has printed why
        sources = {extension.name: extension.sources for extension in generated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().build_extensions()

    def build_extension(self, extension: Extension) -> None:
        werror = ["-Werror"] if os.environ.get("GREENIO_WERROR") == "1" else []
        own = self.own_sources[extension.name]
        objects = self.compiler.object_filenames(own, output_dir=self.build_temp)
        for source, made in zip(own, objects, strict=True):
            if self.force or newer_group([source, *HEADERS], made):
                self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    include_dirs=extension.include_dirs,
                    debug=self.debug,
                    extra_postargs=[*COMPILE, *STRICT, *werror],
                )
        extension.extra_objects = objects
        extension.extra_compile_args = [*COMPILE, *GENERATED, *werror]
        super().build_extension(extension)


def extension_modules() -> list[Extension]:
    return [
        Extension(
            name,
            [name.replace(".", "/") + ".pyx", *own],
            include_dirs=["greenio", "greenio/asm"],
            depends=sorted([*own, *HEADERS]),
            extra_link_args=["-pthread"],
        )
        for name, own in MODULES.items()
    ]


# Guarded: with 3.14's default way of starting processes, cythonize's workers import this file again.
if __name__ == "__main__":
    setup(ext_modules=extension_modules(), cmdclass={"build_ext": build_ext_in_two_steps})
