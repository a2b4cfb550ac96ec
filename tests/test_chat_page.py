"""The chat page in a real browser: send, stream, stop, reload, two tabs, a phone, the dark."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import TOKENIZER, serving, solo, wild_model

from minigpt.engine import Engine

needed = "needs Starlette and uvicorn: pip install minigpt-course[serve]"
pytest.importorskip("starlette", reason=needed)
pytest.importorskip("uvicorn", reason=needed)
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BROWSER, reason=f"needs a browser: one of {', '.join(NAMES)}"),
    pytest.mark.skipif(os.name == "nt", reason="speaks with the browser through pipes 3 and 4"),
]


class Browser:
    """A headless browser, driven by DevTools' protocol through a pair of pipes."""

    def __init__(self, profile: Path):
        to_browser, self.writes = os.pipe()
        self.reads, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        # bash puts the two pipes where the browser looks for them.
        shell = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$0" "$@"'
        words = [BROWSER, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, *words, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.held, self.number = b"", 0

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.writes, json.dumps(message).encode("utf-8") + b"\0")
        while True:
            while b"\0" not in self.held:
                data = os.read(self.reads, 2**16)
                assert data, "the browser ended"
                self.held += data
            line, _, self.held = self.held.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address: str) -> "Tab":
        target = self.call("Target.createTarget", url=address)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        tab.wait("document.readyState === 'complete' && state.model === 'tiny'")
        return tab

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.writes)
        os.close(self.reads)


class Tab:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.browser.call(
            "Runtime.evaluate", self.session, expression=script, returnByValue=True
        )
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while (
            self.run(f"Boolean(window.at || typeof at === 'function') && ({condition})") is not True
        ):
            assert time.monotonic() < end, f"not in time: {condition}"
            time.sleep(0.05)

    def send(self, text: str) -> None:
        self.run(f"at('text').value = {json.dumps(text)}; at('send').click()")

    def texts(self) -> list[str]:
        """Return the messages that are shown."""
        return self.run("[...document.querySelectorAll('.message')].map((m) => m.textContent)")

    def picture(self, name: str) -> None:
        """Save a picture where MINIGPT_PICTURES names a folder: for eyes, not for the test."""
        if folder := os.environ.get("MINIGPT_PICTURES"):
            import base64

            data = self.browser.call("Page.captureScreenshot", self.session)["data"]
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))

    def resize(self, width: int, height: int) -> None:
        self.browser.call(
            "Emulation.setDeviceMetricsOverride",
            self.session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=True,
        )


@pytest.fixture(scope="module")
def model():
    return wild_model(block_size=300)


def sound(texts: list[str]) -> list[str]:
    """Leave out U+FFFD: how many of them bytes without meaning become is each decoder's choice."""
    return [text.replace("\ufffd", "") for text in texts]


@contextlib.contextmanager
def browsing(model, folder: Path, seconds: float = 0.0) -> Iterator[tuple[Browser, str, Engine]]:
    """Run a browser and a server whose steps take a while."""
    engine = Engine(model, TOKENIZER, n_slot=2)
    read = engine.read
    engine.read = lambda: (time.sleep(seconds), read())[1]
    with serving(engine) as client:
        browser = Browser(folder)
        try:
            yield browser, f"http://127.0.0.1:{client.port}/", engine
        finally:
            browser.close()


def test_the_page_streams_keeps_and_shows_probabilities(model, tmp_path):
    with browsing(model, tmp_path) as (browser, address, _):
        tab = browser.open(address)
        tab.run("at('probabilities').click()")
        tab.send("red <b>ball</b>")
        tab.wait("!state.running && state.messages.length === 2")
        answer = TOKENIZER.decode(solo(model, "red <b>ball</b>", max_new_tokens=100))
        assert sound(tab.texts()) == sound(["red <b>ball</b>", answer])
        assert tab.run("document.querySelectorAll('.message *').length") == tab.run(
            "document.querySelectorAll('.token').length"
        )  # what looks like markup is text
        tab.run("document.querySelectorAll('.token')[1].click()")
        rows = tab.run("[...document.querySelectorAll('#detail div')].map((r) => r.textContent)")
        assert len(rows) == 5
        assert all("%" in row for row in rows)
        assert tab.run("document.querySelectorAll('#detail .chosen').length") == 1
        tab.picture("probabilities")
        kept = tab.run("state.messages.map((m) => m.content)")
        assert kept == ["red <b>ball</b>", answer]
        tab.run("at('probabilities').click()")  # a reload shows texts
        # A reload keeps the conversation, and so does a second tab.
        tab.run("window.old = true; location.reload()")
        tab.wait("!window.old && state.model === 'tiny' && at('log').children.length === 2")
        assert tab.texts() == kept
        other = browser.open(address)
        assert other.texts() == kept
        other.run("at('clear').click()")
        tab.wait("state.messages.length === 0")
        assert tab.texts() == other.texts() == []


def test_stop_keeps_what_was_written_and_frees_the_slot(model, tmp_path):
    with browsing(model, tmp_path, seconds=0.1) as (browser, address, engine):
        tab = browser.open(address)
        tab.send("where is tom")
        tab.wait("state.running && document.querySelectorAll('.message')[1].textContent.length > 2")
        assert tab.run("at('send').hidden") is True
        tab.run("at('stop').click()")
        tab.wait("!state.running && at('status').textContent === 'Stopped.'")
        answer = TOKENIZER.decode(solo(model, "where is tom", max_new_tokens=100))
        shown = tab.texts()[1]
        assert shown
        assert answer.startswith(shown)
        assert len(shown) < len(answer)
        end = time.monotonic() + 5
        while engine.active and time.monotonic() < end:
            time.sleep(0.05)
        assert not engine.active


def test_a_phone_and_the_dark(model, tmp_path):
    with browsing(model, tmp_path) as (browser, address, _):
        tab = browser.open(address)
        tab.resize(360, 640)
        tab.send("a" * 60)
        tab.wait("!state.running && state.messages.length === 2")
        assert tab.run("document.documentElement.scrollWidth <= 360") is True
        low = tab.run("at('send').getBoundingClientRect().bottom")
        assert 0 < low <= 640
        light = tab.run("getComputedStyle(document.body).backgroundColor")
        tab.picture("phone")
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.call("Emulation.setEmulatedMedia", tab.session, features=dark)
        style = "getComputedStyle(document.body)"
        colors = tab.run(f"[{style}.backgroundColor, {style}.color]")
        assert (light, colors[0]) == ("rgb(255, 255, 255)", "rgb(22, 24, 28)")
        assert colors[1] == "rgb(230, 230, 230)"
        tab.picture("dark")
