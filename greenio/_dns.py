"""Names and addresses: the lookup functions of the standard socket module, for fibers.

What they find is what the C library finds (nsswitch, /etc/hosts, mDNS): it is asked, in an OS thread of a bounded set, once for all
fibers that want the same at the same time. Addresses that are numbers are never handed to a thread. There is no
cache. `greenio.configure_lookups` sets the bounds, `greenio.debug.lookup_stats` tells how it goes.

On an OS thread without fibers they are the standard functions.
"""

import socket as _standard
from collections.abc import Callable
from socket import AI_NUMERICHOST, EAI_NONAME, NI_NUMERICHOST, AddressFamily, SocketKind, gaierror
from typing import Any

from greenio._lookups import look_up

_Found = list[tuple[AddressFamily, SocketKind, int, str, Any]]

# Kept, for a program may put ours in their place.
_getaddrinfo: Callable[..., _Found] = _standard.getaddrinfo  # type: ignore[assignment]  # typeshed tells the families apart
_gethostbyname = _standard.gethostbyname
_gethostbyname_ex = _standard.gethostbyname_ex
_gethostbyaddr = _standard.gethostbyaddr
_getfqdn = _standard.getfqdn
_getnameinfo = _standard.getnameinfo


def _as_text(host: Any) -> str | None:
    if isinstance(host, str):
        return host
    if isinstance(host, (bytes, bytearray)):
        return host.decode("ascii", "replace")
    return None


def _is_literal(text: str, *families: AddressFamily) -> bool:
    for family in families:
        try:
            _standard.inet_pton(family, text)
            return True
        except (OSError, ValueError):
            continue
    return False


def is_numeric(host: Any) -> bool:
    """Whether *host* is an address in its usual form, or one of those that stand for one: then nothing has to be looked up."""
    text = _as_text(host)
    if text is None:
        return host is None
    return text in ("", "<broadcast>") or _is_literal(text, AddressFamily.AF_INET, AddressFamily.AF_INET6)


def _may_be_number(host: Any) -> bool:
    # "127.1", "0x7f000001", "fe80::1%eth0": the C library knows which of these are addresses.
    text = _as_text(host)
    return text is not None and (":" in text or text.rpartition(".")[2][:1].isdigit())


def getaddrinfo(
    host: bytes | str | None,
    port: bytes | str | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[AddressFamily, SocketKind, int, str, Any]]:
    """As socket.getaddrinfo. Parks the calling fiber, unless *host* is a number, or None.

    Raises:
        gaierror: the name is not known; EAI_AGAIN: no server answered, or too many lookups wait (greenio.configure_lookups).
        Cancelled: this fiber was cancelled; the lookup goes on unheard, or for others who ask the same.
    """
    if is_numeric(host):
        return _getaddrinfo(host, port, family, type, proto, flags)
    if _may_be_number(host):
        try:
            return _getaddrinfo(host, port, family, type, proto, flags | AI_NUMERICHOST)
        except gaierror as error:
            if error.errno != EAI_NONAME:
                raise
    return look_up(_getaddrinfo, host, port, family, type, proto, flags)


def gethostbyname(hostname: str) -> str:
    """The IPv4 address of a host, as text. Looked up as by getaddrinfo, with its exceptions."""
    if is_numeric(hostname):
        return _gethostbyname(hostname)
    return look_up(_gethostbyname, hostname)


def gethostbyname_ex(hostname: str) -> tuple[str, list[str], list[str]]:
    """(name, other names, IPv4 addresses) of a host. Looked up as by getaddrinfo, with its exceptions."""
    if isinstance(hostname, str) and _is_literal(hostname, AddressFamily.AF_INET):
        return _gethostbyname_ex(hostname)
    return look_up(_gethostbyname_ex, hostname)


def gethostbyaddr(ip_address: str) -> tuple[str, list[str], list[str]]:
    """(name, other names, addresses) of the host with this address. Looked up as by getaddrinfo.

    Raises:
        herror, gaierror: no name is known, or the address is none.
        Cancelled: this fiber was cancelled; the lookup goes on unheard, or for others who ask the same.
    """
    return look_up(_gethostbyaddr, ip_address)


def getfqdn(name: str = "") -> str:
    """The full name of a host, of this one unless given; *name* itself if none is known. Looked up as by getaddrinfo."""
    return look_up(_getfqdn, name)


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """(host, port) as text for an address, as socket.getnameinfo. Parks the calling fiber unless NI_NUMERICHOST is among *flags*.

    Raises:
        gaierror: no name is known, with NI_NAMEREQD; the address is none.
        Cancelled: this fiber was cancelled; the lookup goes on unheard, or for others who ask the same.
    """
    if flags & NI_NUMERICHOST:
        return _getnameinfo(sockaddr, flags)
    return look_up(_getnameinfo, sockaddr, flags)
