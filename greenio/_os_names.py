"""The names of the standard os module that fibers can use as they are.

What waits is taken out here and has a namesake in os.py. Calls on disks count as what does not wait.
"""

from os import *  # noqa: F403
from os import __all__ as __all__

# One by one: type checkers follow that.
__all__ = __all__.copy()
__all__.remove("popen")
__all__.remove("read")
__all__.remove("readv")
__all__.remove("spawnl")
__all__.remove("spawnle")
__all__.remove("spawnlp")
__all__.remove("spawnlpe")
__all__.remove("spawnv")
__all__.remove("spawnve")
__all__.remove("spawnvp")
__all__.remove("spawnvpe")
__all__.remove("system")
__all__.remove("wait")
__all__.remove("wait3")
__all__.remove("wait4")
__all__.remove("waitid")
__all__.remove("waitpid")
__all__.remove("write")
__all__.remove("writev")
