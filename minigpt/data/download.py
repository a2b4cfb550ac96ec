"""Download one file whose size and SHA-256 are known, over a network that may do anything.

The file appears under its name only when all of it is there and its SHA-256 is right; until then,
whatever stood there stays. A transfer that broke off is taken up again where it stopped (HTTP
Range), provided that the server's ETag says it is still the same file (RFC 9110, section 13.1.5).

Addresses are https only, also after a redirect. The SHA-256 finds accidents and forged answers; it
does not help against one who can change this package.
"""

import contextlib
import hashlib
import http.client
import os
import secrets
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from minigpt.support.errors import DataError
from minigpt.support.files import fsync, fsync_directory, sha256_file

ATTEMPTS = 2  # one retry
PAUSE = 1.0  # seconds before it
TIMEOUT = 30.0  # seconds without an answer, or at less than MIN_SPEED
MIN_SPEED = 1000  # bytes a second
PIECE = 1 << 16
STALE = 86_400.0  # seconds after which a temporary file belongs to nobody
LOOPBACK_ALLOWED = False  # tests only: plain http to this computer itself
LOOPBACK = ("127.0.0.1", "::1")

Progress = Callable[[int, int], None]  # bytes there, bytes in all


class Failure(Exception):
    """Say why one attempt failed, and whether another one may help."""

    def __init__(self, cause: str, again: bool = True, remedy: str = ""):
        super().__init__(cause)
        self.cause, self.again, self.remedy = cause, again, remedy


def download(
    url: str,
    target: Path,
    size: int,
    sha256: str,
    progress: Progress | None = None,
    timeout: float | None = None,
) -> Path:
    """Fetch `url` into `target` and return it; at most `size` bytes are ever read.

    Raises DataError naming the cause and how to get the file by hand.
    """
    target = Path(target)
    part = Part(target)
    try:
        check_address(url)
        make_room(target, size)
        with part:
            attempt(url, part, size, sha256, progress or ignore, timeout or TIMEOUT)
            part.publish(size, sha256)
    except Failure as failure:
        by_hand = f"download it by other means, check that its SHA-256 is {sha256}, and put it at"
        remedy = f"{failure.remedy or 'try again later'}; or {by_hand} {target}"
        raise DataError(failure.cause, url, remedy) from None
    return target


def ignore(done: int, total: int) -> None:
    """Show no progress."""


def attempt(
    url: str, part: "Part", size: int, sha256: str, progress: Progress, timeout: float
) -> None:
    """Fill the part file with the right bytes, at the second attempt if need be."""
    for left in reversed(range(ATTEMPTS)):
        try:
            with contextlib.closing(open_url(url, part, timeout)) as response:
                start = place(response, part, size)
                copy(response, part.file, start, size, progress, timeout)
            return part.check(sha256)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = explain(error)
        except Failure as error:
            failure = error
        if not (left and failure.again):
            raise failure
        time.sleep(PAUSE)


# --- the part file ---


class Part:
    """Hold the bytes that came so far: under a name of our own while we work, else `NAME.part`.

    A part that another process has taken is out of its sight, so two downloaders never write into
    the same file; the one that comes second begins anew.
    """

    def __init__(self, target: Path):
        self.target = target
        self.kept = target.with_name(f"{target.name}.part")
        self.kept_tag = target.with_name(f"{target.name}.part.etag")
        self.path = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
        self.tag = ""  # the server's ETag of the bytes so far; "" where they cannot be continued

    def __enter__(self) -> "Part":
        remove_stale(self.target)
        try:
            self.kept.replace(self.path)
            self.tag = self.kept_tag.read_text("utf-8")
        except OSError:
            self.tag = ""
        try:
            self.file = self.path.open("ab+")
        except OSError as error:
            raise cannot_write(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what came for the next time, if it can be continued; else remove it."""
        self.file.close()
        with contextlib.suppress(OSError):
            if self.tag and self.path.exists() and self.path.stat().st_size:
                self.kept_tag.write_text(self.tag, "utf-8")
                self.path.replace(self.kept)
            self.path.unlink(missing_ok=True)

    def begin_anew(self, tag: str = "") -> None:
        """Forget all bytes; the next ones belong to the file with this ETag."""
        self.file.seek(0)
        self.file.truncate()
        self.tag = "" if tag.startswith("W/") else tag  # a weak tag does not promise equal bytes

    def check(self, sha256: str) -> None:
        """Raise Failure, and forget all bytes, where they are not those that are wanted."""
        self.file.seek(0)
        head = self.file.read(512)
        self.file.seek(0)
        found = hashlib.file_digest(self.file, "sha256").hexdigest()
        if found != sha256:
            self.begin_anew()
            cause = f"the bytes that came are not the right ones (SHA-256 {found})"
            raise Failure(WEB_PAGE, remedy=SIGN_IN) if is_web_page(head) else Failure(cause)

    def publish(self, size: int, sha256: str) -> None:
        """Give the finished file its name in one step."""
        fsync(self.file)
        self.file.close()
        try:
            self.path.replace(self.target)
        except PermissionError as error:  # Windows: another downloader's file is being read
            if not is_right(self.target, size, sha256):
                raise cannot_write(error) from None
        for leftover in (self.kept, self.kept_tag):
            leftover.unlink(missing_ok=True)
        fsync_directory(self.target.parent)


def is_right(path: Path, size: int, sha256: str) -> bool:
    """Return whether a file is there with the right size and SHA-256."""
    return path.is_file() and path.stat().st_size == size and sha256_file(path) == sha256


def remove_stale(target: Path) -> None:
    """Remove temporary files of this target that a killed process left behind."""
    for path in target.parent.glob(f".tmp-*-{target.name}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def make_room(target: Path, size: int) -> None:
    """Make the folder of the target, or raise Failure where the file cannot be stored."""
    if target.is_dir():
        remedy = "move the folder away, or set MINIGPT_CACHE"
        raise Failure("a folder has the file's name", again=False, remedy=remedy)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise cannot_write(error) from None
    if free < size:
        what = f"the disk is too full: need {size / 1e6:.1f} MB, have {free / 1e6:.1f} MB"
        raise Failure(what, again=False, remedy="free some space, or set MINIGPT_CACHE")


def cannot_write(error: OSError) -> Failure:
    """Turn an error of the file system into a Failure."""
    return Failure(
        f"cannot write the file ({error.strerror})",
        again=False,
        remedy="set MINIGPT_CACHE to a folder that you may write to",
    )


# --- the network ---


def check_address(url: str) -> None:
    """Raise Failure at an address that is neither https nor, in tests, this computer itself."""
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError as error:
        raise Failure(f"{url[:200]} is no address ({error})", again=False) from None
    if scheme == "https" or (LOOPBACK_ALLOWED and scheme == "http" and host in LOOPBACK):
        return
    raise Failure(f"refused to go to {url[:200]}, which is not https", again=False)


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, to https only."""

    max_redirections = 5

    def http_error_302(self, req, fp, code, msg, headers):
        check_address(urljoin(req.full_url, headers.get("location", "")))
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def open_url(url: str, part: Part, timeout: float) -> http.client.HTTPResponse:
    """Ask for the file, or for the rest of it where a part is there that can be continued."""
    headers = {"User-Agent": "minigpt", "Accept-Encoding": "identity"}
    if (done := part.file.seek(0, os.SEEK_END)) and part.tag:
        headers |= {"Range": f"bytes={done}-", "If-Range": part.tag}
    opener = urllib.request.OpenerDirector()  # without the handlers for file, ftp and data
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        HttpsRedirects,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the file: it was another one
            part.begin_anew()
        raise


def place(response: http.client.HTTPResponse, part: Part, size: int) -> int:
    """Return the byte at which the answer goes on; raise Failure where it cannot be the file."""
    headers = response.headers
    start = part.file.seek(0, os.SEEK_END)
    if response.status == 206:
        expected = f"bytes {start}-{size - 1}/{size}"
        if headers["Content-Range"] != expected or headers["ETag"] != part.tag or not start:
            part.begin_anew()
            raise Failure("the file on the server changed between two attempts")
    else:
        part.begin_anew(headers["ETag"] or "")
        start = 0
    if headers["Content-Encoding"] not in (None, "identity"):
        raise Failure(f"the answer is packed as {headers['Content-Encoding']}, which was not asked")
    announced = headers["Content-Length"]
    if announced is not None and announced.strip() != str(size - start):
        part.begin_anew()
        if headers.get_content_type() == "text/html":
            raise Failure(WEB_PAGE, remedy=SIGN_IN)
        raise Failure(f"the server offers {announced} bytes where {size - start} are expected")
    return start


def copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    start: int,
    size: int,
    progress: Progress,
    timeout: float,
) -> None:
    """Append the answer to the file; never more than `size` bytes in all, never too slowly."""
    done = marked = start
    mark = time.monotonic()
    progress(done, size)
    while done < size:
        piece = response.read1(min(PIECE, size - done))
        if not piece:
            raise Failure(f"the connection ended after {done} of {size} bytes")
        try:
            file.write(piece)
        except OSError as error:
            raise cannot_write(error) from None
        done += len(piece)
        progress(done, size)
        if (seconds := time.monotonic() - mark) > timeout:
            if done - marked < MIN_SPEED * seconds:
                raise Failure(f"the server is too slow: {done - marked} bytes in {seconds:.0f} s")
            mark, marked = time.monotonic(), done


WEB_PAGE = "a web page came instead of the file, perhaps the sign-in page of your network"
SIGN_IN = "open any page in a browser and sign in to the network, then try again"


def is_web_page(head: bytes) -> bool:
    """Return whether bytes begin like HTML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def explain(error: OSError | http.client.HTTPException | ValueError) -> Failure:
    """Say in words what an error of the network means; a ValueError is an odd address."""
    if isinstance(error, urllib.error.HTTPError):
        again = error.code in (408, 416, 429) or error.code >= 500
        return Failure(f"the server answers {error.code} {error.reason}", again)
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        remedy = (
            "behind a proxy that inspects traffic set SSL_CERT_FILE to its certificate; "
            "on macOS run Install Certificates.command of your Python"
        )
        return Failure("the server's certificate could not be checked", False, remedy)
    if isinstance(reason, TimeoutError):
        return Failure("the server does not answer in time")
    if isinstance(error, urllib.error.URLError | ConnectionError):
        return Failure(f"no connection ({reason})", remedy="check the network and try again")
    return Failure(f"the connection broke ({reason or type(error).__name__})")
