"""ssl: SSLSocket parks, in place. SSLObject and MemoryBIO never wait."""

import ssl

from greenio import standard_tls
from greenio.compat.patches import Patch


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(ssl.SSLContext, "_wrap_socket", standard_tls.wrap_socket)
    for name, method in standard_tls.METHODS.items():
        patch.replace(ssl.SSLSocket, name, method)
