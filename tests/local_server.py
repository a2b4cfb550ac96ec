"""A local HTTP server that answers tests as they tell it to."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A local HTTP server that answers by a script, one entry a request; the last one repeats."""

    def __init__(self):
        self.script: list[Callable] = []
        self.requests: list[dict[str, str]] = []
        self.ending = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(dict(self.headers))
                answer = server.script[min(len(server.requests), len(server.script)) - 1]
                try:
                    answer(self)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *_):
                """Be silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/data.bin"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.ending.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def send(handler, body: bytes, status: int = 200, length: int | None = None, **headers) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int) -> Callable:
    return lambda handler: send(handler, b"no", status=code)
