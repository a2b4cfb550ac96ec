"""Load a server that speaks OpenAI's API, and say what its readers saw.

    python -m minigpt serve
    python tools/load_server.py http://127.0.0.1:8000 --model little
    python tools/load_server.py http://127.0.0.1:8000 --model little --clients 8 --rounds 10 --check

Each reader asks a question, reads the stream to its end and asks the next one. Printed are tokens a
second of all readers together, and the time to the first text. With --check every text must equal
what the same question gets alone (greedy), beside readers that are slow and readers that hang up.
Needs nothing but the standard library, so it runs beside any server.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

QUESTIONS = (
    "Tell me a story.",
    "I would like to hear a story.",
    "Write a story. The topic is quarrel.",
    "Use market, mask and book in a story.",
    "I would like a story that ends well for only one child.",
    "The title is Anna and the White Book. Tell the story.",
    "Write a story. Anna and the book must be in it.",
    "讲一个故事。",
)
HANGS_UP_AFTER = 3  # pieces that a reader in a hurry takes
PAUSE = 0.2  # seconds that a slow reader waits before it takes the next piece


@dataclass(frozen=True)
class Seen:
    """What one reader saw of one answer."""

    question: int
    first: float  # seconds to the first text
    text: str
    n_tokens: int  # as the server counts them; of a server that does not, the pieces


class Load:
    """Readers of one server; how many tokens an answer has at most."""

    def __init__(self, url: str, model: str, max_tokens: int = 60):
        self.address = urlsplit(url).netloc
        self.model, self.max_tokens = model, max_tokens

    def read(self, question: int, pause: float = 0.0, leaves_after: int | None = None) -> Seen:
        """Ask a question and read the stream, slowly or not to its end if that is asked for."""
        messages = [{"role": "user", "content": QUESTIONS[question]}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens}
        body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        start, first, pieces, n_tokens = time.perf_counter(), 0.0, [], None
        link = http.client.HTTPConnection(self.address, timeout=300)
        with contextlib.closing(link):
            headers = {"Content-Type": "application/json"}
            link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = link.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read(300)!r}")
            for chunk in chunks(response):
                n_tokens = (chunk.get("usage") or {}).get("completion_tokens", n_tokens)
                text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
                if text:
                    first = first or time.perf_counter() - start
                    pieces.append(text)
                    time.sleep(pause)
                if leaves_after and len(pieces) >= leaves_after:
                    break
        return Seen(question, first, "".join(pieces), n_tokens or len(pieces))

    def measure(self, clients: int, rounds: int = 1) -> tuple[list[Seen], float]:
        """Ask every question some times, by so many readers; return what they saw, and seconds."""
        questions = list(range(len(QUESTIONS))) * rounds
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            seen = list(pool.map(self.read, questions))
        return seen, time.perf_counter() - start

    def faults(self, clients: int, rounds: int, slow: int = 2, leaving: int = 2) -> list[str]:
        """Load the server with difficult readers beside the others; return what went wrong."""
        alone = [self.read(question).text for question in range(len(QUESTIONS))]
        found = []
        with ThreadPoolExecutor(slow + leaving) as others:
            # They come again and again, for as long as the others read.
            going = [others.submit(self.read, k % len(QUESTIONS), PAUSE) for k in range(slow)]
            for k in range(leaving * rounds):
                question = k % len(QUESTIONS)
                going.append(others.submit(self.read, question, 0.0, HANGS_UP_AFTER))
            for seen in self.measure(clients, rounds)[0]:
                if seen.text != alone[seen.question]:
                    found.append(f"{QUESTIONS[seen.question]!r} got {seen.text!r}")
            for each in going:
                seen = each.result()
                if not alone[seen.question].startswith(seen.text):
                    found.append(f"a difficult reader got {seen.text!r}")
        return found + self.slots_taken()

    def slots_taken(self, seconds: float = 5.0) -> list[str]:
        """Wait until no answer is being written; return a line if that does not come."""
        end = time.monotonic() + seconds
        while (health := self.health())["active"] or health["waiting"]:
            if time.monotonic() > end:
                return [f"{health['active']} slots are taken, {health['waiting']} requests wait"]
            time.sleep(0.05)
        return []

    def health(self) -> dict[str, Any]:
        """Return what minigpt's /health tells."""
        link = http.client.HTTPConnection(self.address, timeout=30)
        with contextlib.closing(link):
            link.request("GET", "/health")
            return json.loads(link.getresponse().read())


def chunks(response: http.client.HTTPResponse) -> Any:
    """Yield the JSON of each server-sent event."""
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def summary(clients: int, seen: Sequence[Seen], seconds: float) -> str:
    """Say in a line what was measured."""
    firsts = sorted(1000 * each.first for each in seen)
    speed = sum(each.n_tokens for each in seen) / seconds
    return (
        f"{clients:3} at a time: {speed:6.1f} tokens per second; first text after "
        f"{statistics.median(firsts):.0f} ms (median), {firsts[-1]:.0f} ms (worst)"
    )


def main() -> int:
    """Load the server that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=1, help="how often each question is asked")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--check", action="store_true", help="compare texts; needs /health")
    given = parser.parse_args()
    load = Load(given.url, given.model, given.max_tokens)
    load.read(0)  # warms up
    found = []
    for clients in given.clients:
        print(summary(clients, *load.measure(clients, given.rounds)), flush=True)
        if given.check:
            found += load.faults(clients, given.rounds)
            print(f"    beside slow readers and readers who hang up: {len(found)} faults")
    print("\n".join(found), end="")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
