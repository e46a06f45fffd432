"""Builds the C and Go programs of the benchmarks, each once for each text of its source.

The results are kept in build/benchmarks/ beside the package, which may be deleted at any time.
Every compiler is optional: what cannot be built is left out of the table, with the reason.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = ROOT / "build" / "benchmarks"

LOAD_GENERATOR = "load/load_generator.c"
TLS_LOAD_GENERATOR = "load/tls_load_generator.c"
_LIBRARIES = {TLS_LOAD_GENERATOR: (["-lssl", "-lcrypto"], "apt-get install -y libssl-dev")}
"""What a source is linked with, and how to get it."""


class Missing(Exception):
    """Something that a contender needs is not there; the message says what, and how to get it."""


def built(source: str) -> Path:
    """The executable made from *source*, compiled now unless it is in the cache.

    Args:
        source: a `.c` or `.go` file, relative to this package.
    Raises:
        Missing: there is no compiler, or it does not accept the file.
    """
    path = HERE / source
    compiler, arguments, install = {
        ".c": (os.environ.get("CC", "cc"), ["-O2", "-std=gnu11"], "apt-get install -y gcc libc6-dev"),
        ".go": ("go", ["build"], "apt-get install -y golang-go"),
    }[path.suffix]
    if shutil.which(compiler) is None:
        raise Missing(f"no {compiler}: {install}")
    libraries, install_libraries = _LIBRARIES.get(source, ([], ""))
    sources = sorted(path.parent.glob(f"*{path.suffix}")) if libraries else [path]  # one may include another
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources) + compiler.encode()).hexdigest()[:12]
    executable = CACHE / f"{path.stem}-{digest}"
    if not executable.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed once whole, so that an interrupted build is not taken for a finished one.
        unfinished = CACHE / f"{path.stem}-{os.getpid()}"
        command = [compiler, *arguments, "-o", str(unfinished), str(path), *libraries]
        result = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
        if result.returncode != 0:
            hint = f" ({install_libraries})" if libraries else ""
            raise Missing(f"{compiler} refuses {source}{hint}: {result.stderr.strip()}")
        unfinished.rename(executable)
    return executable
