"""A server that misbehaves on a real socket."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def serve(answer: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """The address of a server that sends these pieces to whoever asks, whatever is asked, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def accept() -> None:
        while not is_over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:  # closed below
                return
            with connection, suppress(OSError):  # the client has had enough
                connection.recv(65536)
                for piece in answer():
                    if is_over.is_set():
                        return
                    connection.sendall(piece)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
