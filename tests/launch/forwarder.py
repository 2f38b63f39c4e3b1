"""A network between two programs that can fail: every connection is cut, and for a while none is made."""

import socket
import threading
import time
from contextlib import contextmanager, suppress


class Forwarder:
    """Takes connections on loopback and passes everything on.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target):
        self.target, self.sockets, self.down_until = target, [], 0.0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds):
        """All connections end, and new ones are closed at once for so long; how many there were."""
        self.down_until = time.monotonic() + seconds
        sockets, self.sockets = self.sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return len(sockets)

    def _accept(self):
        with suppress(OSError):
            while True:
                inner, _ = self.server.accept()
                if time.monotonic() < self.down_until:
                    inner.close()
                    continue
                outer = socket.create_connection(self.target, timeout=60)
                outer.settimeout(None)
                self.sockets += [inner, outer]
                for source, sink in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarder(target):
    """As `Forwarder`; closed on exit."""
    made = Forwarder(target)
    try:
        yield made
    finally:
        made.server.close()
        made.cut(0)
