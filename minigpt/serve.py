"""Serve a model over HTTP: OpenAI's API for programs, and a page to chat with for people.

The event loop speaks with clients and never computes; the engine's thread computes and never waits
for a client. Pieces of text go from the thread to the loop through a queue for each request.

Whoever reaches the server is a stranger: bodies have a size and a time limit, web pages from
elsewhere are turned away, and a server that others can reach wants a key.

Needs Starlette and uvicorn: `pip install minigpt-course[serve]`.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from minigpt.chat import can_chat
from minigpt.engine import Answer, BusyError, ClosingError, Engine, Piece
from minigpt.openai_api import ApiError, Asked, Kind, Writer, model_card, read_request
from minigpt.support.errors import ConfigError

WEB = Path(__file__).parent / "web"
PAGES = {"/": "index.html", "/chat.js": "chat.js", "/chat.css": "chat.css"}
PAGE_HEADERS = {
    # The page may load nothing from elsewhere, and run no script but its own file.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DISCARD_SECONDS = 1.0  # time in which a body that is refused is read to its end


@dataclass(frozen=True)
class Limits:
    """What one client may take: of memory, and of everybody's time."""

    body_bytes: int = 2**20  # of a request
    body_seconds: float = 10.0  # until all of it is there
    header_bytes: int = 2**14  # of a request's path and header fields
    header_seconds: float = 10.0  # until a new connection has asked for something
    answer_seconds: float = 120.0  # from the request to the last piece, the wait included
    send_seconds: float = 20.0  # until a reader takes what it was sent
    drain_seconds: float = 5.0  # that answers have to end after a request to shut down


# ---- the application


class Service:
    """One engine behind HTTP: its routes are the methods of this class."""

    def __init__(self, engine: Engine, name: str, limits: Limits | None = None):
        self.engine, self.name, self.limits = engine, name, limits or Limits()
        self.created = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the engine's thread while the application runs."""
        thread = self.engine.start()
        yield
        self.engine.stop()
        await asyncio.to_thread(thread.join)

    async def health(self, request: Request) -> Response:
        """Tell how the engine is; never waits for it."""
        engine = self.engine
        status = "ok" if engine.closes_at is None else "closing"
        told = {
            "status": status,
            "model": self.name,
            "chat": can_chat(engine.tokenizer),
            "context": engine.model.config.block_size,
            "slots": engine.n_slot,
            "active": len(engine.active),
            "waiting": len(engine.waiting),
            "tokens": engine.n_tokens,
        }
        return JSONResponse(told, 200 if status == "ok" else 503)

    async def models(self, request: Request) -> Response:
        """List the one model that there is."""
        return JSONResponse({"object": "list", "data": [model_card(self.name, self.created)]})

    async def model(self, request: Request) -> Response:
        """Describe the model, if the path names it."""
        name = request.path_params["name"]
        if name != self.name:
            message = f"there is no model {name[:60]!r}; this server has {self.name!r}"
            raise ApiError(404, message, "model", "model_not_found")
        return JSONResponse(model_card(self.name, self.created))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self.answer(request, "chat")

    async def completion(self, request: Request) -> Response:
        """Continue a text."""
        return await self.answer(request, "completion")

    async def answer(self, request: Request, kind: Kind) -> Response:
        """Understand a request, queue it, and answer it whole or as a stream."""
        body = await read_json(request, self.limits)
        # A long text takes a while to encode: not on the loop, which others wait for.
        asked = await asyncio.to_thread(self.understand, body, kind)
        inbox = Inbox(self.limits.answer_seconds)
        try:
            answer = self.engine.submit(asked.request, inbox.deliver)
        except BusyError as error:
            raise ApiError(429, str(error), code="queue_full") from None
        except ClosingError as error:
            raise ApiError(503, str(error), code="shutting_down") from None
        except ConfigError as error:
            raise ApiError(400, str(error), "prompt") from None
        writer = Writer(asked, self.name, self.engine.tokenizer)
        if asked.streams:
            return EventStream(answer, events(inbox, writer))
        try:
            return await whole(request, inbox, writer)
        finally:
            answer.cancel()

    def understand(self, body: Any, kind: Kind) -> Asked:
        """Check a request's fields."""
        engine = self.engine
        try:
            return read_request(
                body, kind, self.name, engine.tokenizer, engine.model.config.block_size
            )
        except RecursionError:
            raise ApiError(400, "the body is nested too deeply") from None

    def app(self, api_key: str = "", hosts: tuple[str, ...] = LOOPBACK) -> ASGIApp:
        """Return the application, behind its guard."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completion, methods=["POST"]),
            *(Route(path, page) for path in PAGES),
        ]
        handlers: dict[Any, Any] = {
            ApiError: api_refusal,
            HTTPException: http_refusal,
            ClientDisconnect: nobody_reads,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self.lifespan)
        return Guard(app, api_key, hosts, self.limits)


async def page(request: Request) -> Response:
    """Send a file of the chat page."""
    return FileResponse(WEB / PAGES[request.url.path], headers=PAGE_HEADERS)


# ---- from the engine to a client


class Inbox:
    """Bring an answer's pieces from the engine's thread to the event loop.

    It holds at most one answer, so a slow reader costs memory that is bounded, and nobody's time.
    """

    def __init__(self, seconds: float):
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Piece] = asyncio.Queue()
        self.ends_at = self.loop.time() + seconds

    def deliver(self, piece: Piece) -> None:
        """Take a piece; called by the engine, and never waits."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.queue.put_nowait, piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of the answer; ApiError where it fails or takes too long."""
        while True:
            try:
                seconds = self.ends_at - self.loop.time()
                piece = await asyncio.wait_for(self.queue.get(), seconds)
            except TimeoutError:
                raise ApiError(504, "the answer took too long", code="timeout") from None
            if piece.error is not None:
                closing = isinstance(piece.error, ClosingError)
                raise ApiError(503 if closing else 500, str(piece.error))
            yield piece
            if piece.is_last:
                return


async def whole(request: Request, inbox: Inbox, writer: Writer) -> Response:
    """Wait for all of an answer, or until the client has gone."""

    async def collect() -> list[Piece]:
        return [piece async for piece in inbox.pieces()]

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(collect()), asyncio.create_task(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return Response(status_code=499)  # nobody will read it
        return JSONResponse(writer.whole(tasks[0].result()))
    finally:
        for task in tasks:
            task.cancel()


async def events(inbox: Inbox, writer: Writer) -> AsyncIterator[str]:
    """Yield an answer as server-sent events."""
    for chunk in writer.first():
        yield event(chunk)
    try:
        async for piece in inbox.pieces():
            for chunk in writer.part(piece):
                yield event(chunk)
    except ApiError as error:  # the status 200 has long been sent
        yield event(error.body())
    yield "data: [DONE]\n\n"


def event(content: dict[str, Any]) -> str:
    """Write one server-sent event: JSON on one line, and an empty line."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """A stream that gives its slot back however it ends: the client may hang up at any moment."""

    def __init__(self, answer: Answer, content: AsyncIterator[str]):
        super().__init__(content, media_type="text/event-stream", headers=STREAM_HEADERS)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientDisconnect):
                await super().__call__(scope, receive, send)
        finally:
            self.answer.cancel()


# ---- what is refused


async def read_json(request: Request, limits: Limits) -> Any:
    """Read a request's body as JSON; whatever is wrong with it is the client's fault."""
    declared = request.headers.get("content-length", "0")
    too_large = ApiError(413, f"the body is larger than {limits.body_bytes} bytes")
    if not declared.isdigit() or len(declared) > 15 or int(declared) > limits.body_bytes:
        await discard_body(request, limits)
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.body_bytes:
                    await discard_body(request, limits)
                    raise too_large
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time") from None
    try:
        return json.loads(data.decode("utf-8"), parse_constant=no_number)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or of a number of a million digits
        raise ApiError(400, f"the body is no JSON: {error}") from None


async def discard_body(request: Request, limits: Limits) -> None:
    """Read on for a moment: a client that is still sending would not see the answer otherwise."""
    left = 8 * limits.body_bytes
    with contextlib.suppress(TimeoutError, RuntimeError):  # RuntimeError: it was read to its end
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return


def no_number(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no number")


def api_refusal(request: Request, error: ApiError) -> Response:
    """Send a refusal in OpenAI's form, and say when asking again makes sense."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status in (408, 413, 504):
        # The official client would send the same again, twice.
        headers |= {"X-Should-Retry": "false", "Connection": "close"}
    return JSONResponse(error.body(), error.status, headers)


def nobody_reads(request: Request, error: ClientDisconnect) -> Response:
    """Answer a client that hung up in the middle of its request: for the form alone."""
    return Response(status_code=499)


def http_refusal(request: Request, error: HTTPException) -> Response:
    """Send what Starlette refuses, such as an unknown path, in the same form."""
    message = f"{error.detail}: {request.method} {request.url.path[:80]}"
    return JSONResponse(ApiError(error.status_code, message).body(), error.status_code)


class Guard:
    """Turn strangers away before anything is read, and readers who do not read.

    A web page may send requests to any address that its visitor's browser reaches, this machine's
    own included. The browser says for which host it asks (a foreign name that was made to point
    here is seen by that) and which page sent it.
    """

    def __init__(self, app: ASGIApp, api_key: str, hosts: tuple[str, ...], limits: Limits):
        self.app, self.api_key, self.hosts, self.limits = app, api_key, hosts, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            await asyncio.wait_for(send(message), self.limits.send_seconds)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self.check(request)
        except ApiError as error:
            await api_refusal(request, error)(scope, receive, send)
            return
        with contextlib.suppress(TimeoutError):
            await self.app(scope, receive, send_in_time)

    def check(self, request: Request) -> None:
        """Raise ApiError for a large header, a foreign host or page, and a wrong key."""
        scope = request.scope
        texts = (
            scope["path"],
            scope["query_string"],
            *(t for both in scope["headers"] for t in both),
        )
        size = sum(map(len, texts))
        if size > self.limits.header_bytes:
            raise ApiError(431, f"the header is larger than {self.limits.header_bytes} bytes")
        host = request.headers.get("host", "")
        if self.hosts and host_name(host) not in self.hosts:
            raise ApiError(403, f"this server does not answer for the host {host[:60]!r}")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, f"pages of {origin[:60]!r} may not ask this server")
        if not self.api_key or request.url.path in (*PAGES, "/health"):
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not compare_digest(given.encode("latin-1"), self.api_key.encode("utf-8")):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


def host_name(host: str) -> str:
    """Return the name in a Host header, without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000")
    ('localhost', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


# ---- the server


class Protocol(H11Protocol):
    """uvicorn's protocol, which also hangs up on who connects and asks nothing."""

    header_seconds = Limits.header_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.header_seconds, self.close_unless_asked)

    def close_unless_asked(self) -> None:
        """Hang up where no request's header is complete yet."""
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or never stops being a header, in the form of all errors."""
        is_long = getattr(sys.exception(), "error_status_hint", 400) == 431
        status, reason = (
            (431, "Request Header Fields Too Large") if is_long else (400, "Bad Request")
        )
        body = json.dumps(ApiError(status, reason if is_long else msg).body()).encode("utf-8")
        headers = [("content-type", "application/json"), ("connection", "close")]
        headers.append(("content-length", str(len(body))))
        start = h11.Response(status_code=status, headers=headers, reason=reason)
        for part in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, which lets answers end before it ends itself."""

    def __init__(self, service: Service, app: ASGIApp):
        limits = service.limits
        config = uvicorn.Config(
            app,
            http=type("LimitedProtocol", (Protocol,), {"header_seconds": limits.header_seconds}),
            ws="none",
            lifespan="on",
            h11_max_incomplete_event_size=limits.header_bytes,
            log_level="error",
            access_log=False,
            server_header=False,
            # Longer than the engine's, so that clients read why their answer ended.
            timeout_graceful_shutdown=int(limits.drain_seconds) + 2,
        )
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests from the first signal on."""
        if self.service.engine.closes_at is None:
            self.service.engine.close(self.service.limits.drain_seconds)
        super().handle_exit(sig, frame)


def open_socket(host: str, port: int) -> socket.socket:
    """Listen at a port of this machine (0: any that is free); ConfigError where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or str(error)
        remedy = "give another port, or 0 for any that is free"
        raise ConfigError(f"cannot listen: {what}", f"{host}:{port}", remedy) from None


def check_access(host: str, api_key: str) -> tuple[str, ...]:
    """Return the host names to answer for; ConfigError where strangers would need no key.

    Without a key only this machine's own names count. With one every name does: who knows the key
    is no stranger.
    """
    if api_key:
        return ()
    if host not in LOOPBACK:
        remedy = "set --api-key, or leave --host out: then only this machine can ask"
        raise ConfigError(f"everybody who reaches {host} could use the model", "--host", remedy)
    return LOOPBACK
