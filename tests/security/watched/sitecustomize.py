"""Guards the sockets of every Python process that starts with this folder on its path.

Looking up, contacting or listening on anything but this machine's loopback fails, and is logged to
the file in OUTSIDE_LOG. Not here: sockets opened by native code, which `strace` shows.
"""

import ipaddress
import os
import socket
import sys
import time

LOG = os.environ.get("OUTSIDE_LOG")
OUT = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}
NAMES = {"socket.getaddrinfo", "socket.gethostbyname"}


def is_here(host: object) -> bool:
    """Whether a host is this machine's loopback, or no host at all."""
    text = host.decode() if isinstance(host, bytes) else host
    if text is None or text == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(text)).is_loopback
    except ValueError:
        return False


def watch(event: str, args: tuple[object, ...]) -> None:
    """The audit hook, see `sys.addaudithook`."""
    if event in OUT:
        address = args[1]
        host = address[0] if isinstance(address, tuple) and len(address) > 1 else None
    elif event in NAMES:
        host = args[0]
    else:
        return
    if is_here(host):
        return
    with open(str(LOG), "a") as log:  # noqa: PTH123 - before anything else is imported
        log.write(f"{time.time():.1f} {event} {host!r} by {sys.argv}\n")
    raise OSError(f"{event}: {host!r} is not this machine")


if LOG:
    assert socket
    sys.addaudithook(watch)
