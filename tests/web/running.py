"""An application behind a real socket, for tests that ask it as other programs do."""

from __future__ import annotations

import contextlib
import threading

from web import server


@contextlib.contextmanager
def running(app, leave_seconds: float = 5.0):
    """Inside, `app` serves at the address that is given."""
    with server.listen("127.0.0.1", 0) as sock:
        serving = server.make_server(app, stopping=app.state.line.stopping.set, leave_seconds=leave_seconds)
        serving.capture_signals = contextlib.nullcontext  # not in a thread
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield server.address(sock)
        finally:
            serving.should_exit = True
            thread.join(20)
