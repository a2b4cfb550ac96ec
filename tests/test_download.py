"""Downloads from a server that misbehaves: the right file, or an error that helps."""

import hashlib
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
from local_server import Server, send, status

from minigpt.data import download as module
from minigpt.data.download import MIN_SPEED, check_address, download, explain, is_right
from minigpt.support.errors import DataError

DATA = bytes(range(256)) * 400  # 102,400 bytes
SHA256 = hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2
PAGE = b"<!DOCTYPE html><html><body>Please sign in to the hotel network</body></html>"


# --- what the server can do ---


def whole(tag: str = '"a"') -> Callable:
    return lambda handler: send(handler, DATA, ETag=tag)


def broken_off(tag: str = '"a"', length: int = HALF) -> Callable:
    return lambda handler: send(handler, DATA[:length], length=len(DATA), ETag=tag)


def wrong_bytes(handler) -> None:
    send(handler, b"x" * len(DATA), ETag='"a"')


def page(handler) -> None:
    send(handler, PAGE, Content_Type="text/html; charset=utf-8")


def page_of_unknown_length(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PAGE.ljust(len(DATA)))
    handler.close_connection = True


def to(place: str) -> Callable:
    return lambda handler: send(handler, b"", status=302, Location=place)


def rest(tag: str = '"a"', shift: int = 0) -> Callable:
    """Answer a Range request, perhaps from another file or from the wrong byte."""

    def answer(handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-")) + shift
        where = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        send(handler, DATA[start:], status=206, ETag=tag, Content_Range=where)

    return answer


def packed(handler) -> None:
    send(handler, DATA, Content_Encoding="gzip")


def silent(server: Server) -> Callable:
    return lambda handler: server.ending.wait(5)


def dripping(server: Server) -> Callable:
    def answer(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        for byte in DATA[:400]:
            if server.ending.wait(0.02):
                break
            handler.wfile.write(bytes([byte]))

    return answer


def hang_up(handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def not_http(handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


# --- tests ---


def get(server: Server, folder: Path, **options) -> Path:
    return download(server.url, folder / "data.bin", len(DATA), SHA256, **options)


def refused(server: Server, folder: Path, **options) -> str:
    """Download over a good file; return the message, having checked what must always hold."""
    target = folder / "data.bin"
    target.write_bytes(b"previous")
    with pytest.raises(DataError) as caught:
        get(server, folder, **options)
    assert target.read_bytes() == b"previous"
    assert not list(folder.glob(".tmp-*"))
    message = str(caught.value)
    assert server.url in message
    assert f"check that its SHA-256 is {SHA256}, and put it at {target}" in message
    return message


def test_a_file_arrives_with_progress(server, tmp_path):
    server.script = [whole()]
    seen = []
    path = get(server, tmp_path / "new" / "folder", progress=lambda *pair: seen.append(pair))
    assert path.read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))
    assert sorted(seen) == seen


FAULTS = {
    "truncated": (broken_off(""), 2, "connection ended after 51200 of 102400 bytes"),
    "nothing": (hang_up, 2, "no connection|connection broke"),
    "not http": (not_http, 2, "connection broke"),
    "wrong bytes": (wrong_bytes, 2, "not the right ones .SHA-256 [0-9a-f]{64}"),
    "page": (page, 2, "a web page came instead.*sign-in.*open any page in a browser"),
    "long page": (page_of_unknown_length, 2, "a web page came instead.*sign in to the network"),
    "too long": (lambda h: send(h, DATA + b"more"), 2, "offers 102404 bytes where 102400"),
    "packed": (packed, 2, "packed as gzip"),
    "404": (status(404), 1, "the server answers 404 Not Found"),
    "403": (status(403), 1, "the server answers 403 Forbidden"),
    "429": (status(429), 2, "the server answers 429"),
    "503": (status(503), 2, "the server answers 503 Service Unavailable.*try again later"),
    "to http": (to("http://example.com/x"), 1, "refused to go to http://example.com/x.*not https"),
    "to file": (to("file:///etc/passwd"), 1, "refused to go to file:///etc/passwd.*not https"),
    "to ftp": (to("ftp://example.com/x"), 1, "refused to go to ftp://.*not https"),
    "to data": (to("data:text/plain,x"), 1, "refused to go to data:.*not https"),
    "to nonsense": (to("http://["), 2, "the connection broke .Invalid"),
    "to no host": (to("https://a..b/x"), 2, "the connection broke"),
    "unasked part": (lambda h: send(h, DATA, status=206), 2, "changed between two attempts"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_is_named_and_the_old_file_stays(name, server, tmp_path):
    answer, attempts, message = FAULTS[name]
    server.script = [answer]
    assert re.search(message, refused(server, tmp_path))
    assert len(server.requests) == attempts


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name][1] == 2])
def test_one_retry_helps(name, server, tmp_path):
    server.script = [FAULTS[name][0], whole()]
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.requests) == 2


def test_circle_of_redirects_ends(server, tmp_path):
    server.script = [to(server.url)]
    assert "302" in refused(server, tmp_path)
    assert len(server.requests) <= 8


def test_long_chain_of_redirects_ends(server, tmp_path):
    server.script = [to(f"{server.url}?{number}") for number in range(30)]
    assert "302" in refused(server, tmp_path)
    assert len(server.requests) <= 1 + module.HttpsRedirects.max_redirections < 10


def test_no_more_than_the_known_bytes_are_read(server, tmp_path):
    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(DATA)
        handler.close_connection = True

    server.script = [endless]
    seen = []
    get(server, tmp_path, progress=lambda done, _: seen.append(done))
    assert max(seen) == len(DATA)


def test_redirect_to_an_allowed_place_is_followed(server, tmp_path):
    server.script = [to(server.url + "?again"), whole()]
    assert get(server, tmp_path).read_bytes() == DATA


def test_silent_server(server, tmp_path):
    server.script = [silent(server)]
    start = time.monotonic()
    assert "does not answer in time" in refused(server, tmp_path, timeout=0.2)
    assert time.monotonic() - start < 60


def test_slow_server(server, tmp_path):
    server.script = [dripping(server)]
    message = refused(server, tmp_path, timeout=0.3)
    assert "too slow" in message
    assert int(message.split("too slow: ")[1].split()[0]) < MIN_SPEED


def test_offline(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{unused.getsockname()[1]}/data.bin"
        message = refused(server, tmp_path)
    assert "no connection" in message
    assert "check the network" in message


def test_no_name_server(server, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    server.url = "https://data.invalid/data.bin"
    assert "no connection" in refused(server, tmp_path)


@pytest.mark.parametrize("url", ["http://example.com/x", "file:///etc/passwd", "ftp://a/b", "x"])
def test_only_https(url, tmp_path):
    with pytest.raises(DataError, match=r"not https.*put it at"):
        download(url, tmp_path / "x", 1, SHA256)
    check_address("https://example.com/x")


def test_an_address_that_is_none_is_named(server, tmp_path):
    server.url = "https://[::1"
    assert "is no address" in refused(server, tmp_path)
    assert not server.requests


def test_a_folder_in_the_files_place_is_named(server, tmp_path):
    (tmp_path / "data.bin").mkdir()
    with pytest.raises(DataError, match=r"a folder has the file's name.*move the folder away"):
        download(server.url, tmp_path / "data.bin", len(DATA), SHA256)
    assert not server.requests


def test_bytes_of_a_broken_server_do_not_reach_the_console(server, tmp_path):
    def rubbish(handler) -> None:
        handler.wfile.write(b"\x1b[2J\x07\x00 not HTTP\r\n\r\n")
        handler.close_connection = True

    server.script = [rubbish, rubbish]
    line = refused(server, tmp_path)
    assert not any(ord(character) < 32 for character in line)


def test_loopback_is_for_tests_only(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOPBACK_ALLOWED", False)
    server.script = [whole()]
    assert "not https" in refused(server, tmp_path)
    assert not server.requests


def test_untrusted_certificate():
    error = urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))
    failure = explain(error)
    assert "certificate" in failure.cause
    assert "SSL_CERT_FILE" in failure.remedy
    assert not failure.again


def test_disk_full(server, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    server.script = [whole()]
    message = refused(server, tmp_path)
    assert "need 0.1 MB, have 0.0 MB" in message
    assert "MINIGPT_CACHE" in message
    assert not server.requests


def test_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write the file.*MINIGPT_CACHE"):
        get(server, tmp_path / "file")


# --- going on where it stopped ---


def test_the_retry_asks_only_for_the_rest(server, tmp_path):
    server.script = [broken_off(), rest()]
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.requests[1]["Range"] == f"bytes={HALF}-"
    assert server.requests[1]["If-Range"] == '"a"'


def test_a_later_run_goes_on(server, tmp_path):
    server.script = [broken_off(), status(503), rest()]
    refused(server, tmp_path)
    assert (tmp_path / "data.bin.part").stat().st_size == HALF
    seen = []
    get(server, tmp_path, progress=lambda *pair: seen.append(pair))
    assert seen[0] == (HALF, len(DATA))
    assert server.requests[2]["Range"] == f"bytes={HALF}-"
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert is_right(tmp_path / "data.bin", len(DATA), SHA256)


def test_a_stopped_run_goes_on(server, tmp_path):
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    server.script = [whole(), rest()]
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, progress=stop)
    assert 0 < (tmp_path / "data.bin.part").stat().st_size < len(DATA)
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.requests) == 2


def test_changed_file_is_sent_whole(server, tmp_path):
    server.script = [broken_off('"old"'), whole('"new"')]
    assert get(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("answer", [rest('"new"'), rest(shift=-100), rest(shift=100)])
def test_part_of_another_file_is_not_joined(answer, server, tmp_path):
    server.script = [broken_off(), answer, whole()]
    assert "changed between two attempts" in refused(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[2]


def test_range_that_the_server_refuses(server, tmp_path):
    server.script = [broken_off(), status(416), whole()]
    refused(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[2]


def test_a_weak_tag_is_not_trusted(server, tmp_path):
    server.script = [broken_off('W/"a"'), whole()]
    assert get(server, tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[1]


def test_damaged_part_is_found(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"?" * HALF)
    (tmp_path / "data.bin.part.etag").write_text('"a"', "utf-8")
    server.script = [rest(), whole()]
    assert get(server, tmp_path).read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


# --- others at the same time ---


def test_many_downloaders_one_file(server, tmp_path):
    start, paths = threading.Barrier(6), []
    server.script = [whole()]

    def one() -> None:
        start.wait()
        paths.append(get(server, tmp_path))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert is_right(tmp_path / "data.bin", len(DATA), SHA256)


def test_leftovers_of_a_killed_process_are_removed_when_old(server, tmp_path):
    old, new = (tmp_path / f".tmp-{name}-data.bin" for name in ("1-old", "2-new"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    server.script = [whole()]
    get(server, tmp_path)
    assert not old.exists()
    assert new.exists()
