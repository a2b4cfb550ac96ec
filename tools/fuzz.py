"""Throw random input at the package; none may end in a traceback, or in a fault of the server.

    python tools/fuzz.py tables --count 1000
    python tools/fuzz.py commands --count 1000
    python tools/fuzz.py prompts --count 300 --seed 7
    python tools/fuzz.py requests --count 2000

Each case is a function of the seed and its number. A case fails where anything but one of the
package's own errors comes out, or where it takes longer than 10 seconds. The same functions run in
the tests, with fewer cases.
"""

import argparse
import contextlib
import csv
import functools
import http.client
import io
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from minigpt.api import Model, load
from minigpt.batching.examples import ExampleConfig, load_examples, recognized
from minigpt.commands import COMMANDS, main
from minigpt.data.cleaning import CleanConfig, clean_files
from minigpt.data.corpus import read_documents
from minigpt.data.decoding import ReadCounts
from minigpt.support.errors import MinigptError

SLOWEST = 10.0  # seconds that one case may take
COLUMNS = [
    "text",
    "label",
    "prompt",
    "answer",
    "answers",
    "messages",
    "conversations",
    "chosen",
    "rejected",
    "question",
    "choices",
    "context",
    "system",
    "history",
    "weight",
    "split",
    "data",
    "paragraphs",
    "translation",
    "instruction",
    "output",
    "id",
    "0",
    "answerKey",
    "A",
    "B",
    "C",
    "D",
]
WORDS = (
    "a",
    "b good one",
    "",
    "null",
    "1",
    "<|endoftext|>",
    "\ud83d",
    "x,y;z\tq",
    '"q"',
    "红球 红",
)
LINES = ("a\n", "__label__x y\n", "1 a\tb\t1\n", "[", '{"a":', "<html>", '"', "\0", "\r")
SUFFIXES = ("jsonl", "json", "csv", "tsv", "txt", "ndjson", "x")
# Commands that train, serve a notebook or reach for the network get flags that stop them at once.
HARMLESS = {"generate", "chat", "evaluate", "tokenizer", "data", "doctor", "progress", "train"}
FLAGS = [
    "--checkpoint",
    "--out",
    "--data",
    "--text",
    "--max-steps",
    "--prompt",
    "--message",
    "--max-new-tokens",
    "--seed",
    "--temperature",
    "--top-k",
    "--top-p",
    "--n-beam",
    "--stop",
    "--device",
    "--dtype",
    "--field",
    "--separator",
    "--encoding",
    "--stride",
    "--metric",
    "--per-task",
    "--vocab-size",
    "--block-size",
    "--n-layer",
    "--n-head",
    "--batch-size",
    "--resume",
    "--config",
    "--preset",
    "--nothing",
    "--help",
    "--debug",
    "-h",
    "-x",
]
VALUES = (
    "0",
    "-1",
    "1",
    "3",
    "1e400",
    "nan",
    "",
    " ",
    "auto",
    "cpu",
    "cuda:9",
    "little",
    "little-base",
    "nowhere",
    ".",
    "..",
    "\0",
    "a" * 5000,
    "--",
    "红",
    "\ud800",
    "[",
    "{}",
    "None",
    "True",
)


def random_value(rng: random.Random, depth: int = 0) -> object:
    """Return something that JSON can hold, of any shape."""
    kind = rng.randrange(12)
    if kind < 4 or depth > 3:
        return rng.choice(WORDS)
    if kind == 4:
        return rng.choice([None, True, False, 0, 1, 1.0, -3, 1e400, 10**30])
    if kind < 8:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        role = rng.choice(["user", "assistant", "tool", "bot", 3, None])
        return {"role": role, "content": random_value(rng, depth + 1)}
    if kind == 9:
        speaker = rng.choice(["human", "gpt", "system"])
        return [{"from": speaker, "value": random_value(rng, depth + 1)} for _ in range(2)]
    names = ("text", "label") if kind == 10 else rng.sample(COLUMNS, rng.randrange(4))
    return {name: random_value(rng, depth + 1) for name in names}


def random_file(rng: random.Random) -> bytes:
    """Return the bytes of a table, of JSON, or of something that only begins like one."""
    rows = [
        {name: random_value(rng) for name in rng.sample(COLUMNS, rng.randrange(1, 5))}
        for _ in range(rng.randrange(1, 6))
    ]
    match rng.randrange(5):
        case 0:
            text = json.dumps(rows)
        case 1:
            text = "\n".join(json.dumps(row) for row in rows)
        case 2:
            buffer = io.StringIO()
            table = csv.writer(buffer, delimiter=rng.choice(",;\t|"))
            table.writerow(rng.sample(COLUMNS, 3))
            for _ in rows:
                table.writerow([str(random_value(rng)) for _ in range(rng.choice([3, 3, 3, 2]))])
            text = buffer.getvalue()
        case 3:
            text = json.dumps({"data": rows, rng.choice(COLUMNS): random_value(rng)})
        case _:
            text = "".join(rng.choice(LINES) for _ in range(8))
    raw = bytearray(text.encode("utf-8", "surrogatepass") or b"x")
    if rng.random() < 0.1:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def read_everything(rng: random.Random, folder: Path) -> None:
    """Read one random file in every way that a command has."""
    path = folder / f"file.{rng.choice(SUFFIXES)}"
    path.write_bytes(random_file(rng))
    config, counts = ExampleConfig(skip_bad=rng.random() < 0.5), ReadCounts()
    ways: tuple[Callable[[], object], ...] = (
        lambda: recognized(load_examples(path, config, "train", counts)[0], counts),
        lambda: list(read_documents(path)),
        lambda: list(read_documents(path, errors="replace")),
        lambda: clean_files(path, CleanConfig(near=0)),
    )
    for read in ways:
        with contextlib.suppress(MinigptError):
            read()


def run_command(rng: random.Random, folder: Path) -> None:
    """Run one random command line in an empty folder; its exit code is 0, 1 or 2."""
    name = rng.choice([*HARMLESS, rng.choice([*COMMANDS, "nonsense", "--help", ""])])
    words = [name] if name in HARMLESS else [name, "--help"]
    for _ in range(rng.randrange(5)):
        words.append(rng.choice(FLAGS))
        words += [rng.choice(VALUES)] if rng.random() < 0.7 else []
    if name in ("train", "evaluate"):  # neither may begin to work
        words += ["--data", "nowhere"]
    out, err = io.StringIO(), io.StringIO()
    sys.stdin = io.StringIO("")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        os.chdir(before)
        sys.stdin = sys.__stdin__
    if code not in (0, 1, 2) or ("Traceback" in err.getvalue() and "--debug" not in words):
        raise AssertionError(f"{words}: exit {code}, {err.getvalue()[-500:]}")


def write_on(rng: random.Random, folder: Path) -> None:
    """Let the shipped model go on from one random prompt, and answer it."""
    pieces = (*WORDS, "\n", " ", "Once", "<|user|>", "<|end|>", "\x00", "😀", "e\u0301", "a" * 300)
    prompt = "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
    model = shipped()
    settings = {
        "max_new_tokens": rng.choice([0, 1, 5]),
        "temperature": rng.choice([0.0, 0.3, 1.0, 50.0]),
        "top_p": rng.choice([1.0, 0.5, 1e-9]),
        "seed": rng.randrange(10**6),
    }
    with contextlib.suppress(MinigptError):
        text = model.write(prompt, stop=rng.choice([(), ("e",), ("\n", "红")]), **settings)
        assert isinstance(text, str)
    with contextlib.suppress(MinigptError):
        assert isinstance(model.chat([{"role": "user", "content": prompt}], **settings), str)


@functools.cache
def shipped() -> Model:
    """Return the model that comes with the package, opened once."""
    return load()


CHAT = "/v1/chat/completions"
GREEDY = {"model": "little", "temperature": 0, "max_tokens": 5}
GREEDY["messages"] = [{"role": "user", "content": "Tell me a story."}]
FIELDS = (
    *GREEDY,
    *("prompt", "stream", "stream_options", "stop", "seed", "top_p", "top_k", "min_p", "n"),
    *("logprobs", "top_logprobs", "logit_bias", "presence_penalty", "repetition_penalty", "tools"),
    *("max_completion_tokens", "user", "response_format", "temperatur", ""),
)


def send_request(rng: random.Random, folder: Path) -> None:
    """Send a request that is more or less broken; the server must refuse it, and be as before."""
    port, greedy = served()
    body: object = dict(GREEDY)
    for _ in range(rng.randrange(4)):
        body |= {rng.choice(FIELDS): random_value(rng)}  # type: ignore[operator]
    data = json.dumps(body if rng.random() < 0.9 else random_value(rng)).encode("utf-8")
    path = rng.choice([CHAT, CHAT, CHAT, "/v1/completions", "/v1/models", "/health", "/", "/%00"])
    length = rng.choice(["", "-1", "x", str(10**20)]) if rng.random() < 0.1 else str(len(data))
    head = f"{rng.choice(['POST', 'POST', 'POST', 'GET', 'PUT', 'X'])} {path} HTTP/1.1\r\n"
    head += f"Host: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    message = bytearray(head.encode("utf-8") + data)
    for _ in range(rng.choice([0, 0, 0, 1])):
        message[rng.randrange(len(message))] = rng.randrange(256)
    is_cut = rng.random() < 0.05
    if is_cut:
        del message[rng.randrange(len(message)) :]
    answer = exchange(port, bytes(message), is_cut)
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    if rng.random() < 0.05:
        assert ask_greedily(port) == greedy, "the greedy answer has changed"


def exchange(port: int, message: bytes, hangs_up: bool) -> bytes:
    """Send bytes, perhaps hang up, and return what comes back until the server hangs up."""
    link, answer = socket.create_connection(("127.0.0.1", port), SLOWEST), b""
    with link, contextlib.suppress(ConnectionError):
        link.sendall(message)
        if hangs_up:
            link.shutdown(socket.SHUT_WR)
        while data := link.recv(65536):
            answer += data
    return answer


@functools.cache
def served() -> tuple[int, str]:
    """Serve the shipped model until the process ends; return the port and a greedy answer."""
    from minigpt.engine import Engine
    from minigpt.serve import Limits, Server, Service, open_socket

    engine = Engine(shipped().model, shipped().tokenizer, n_slot=4)
    service = Service(engine, "little", Limits(body_seconds=1.0, header_seconds=1.0))
    listening = open_socket("127.0.0.1", 0)
    server = Server(service, service.app())
    run = {"sockets": [listening]}
    threading.Thread(target=server.run, kwargs=run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    port = listening.getsockname()[1]
    return port, ask_greedily(port)


def ask_greedily(port: int) -> str:
    """Return what the server answers to a question that is as it should be."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST)
    with contextlib.closing(link):
        link.request("POST", CHAT, json.dumps(GREEDY))
        return json.loads(link.getresponse().read())["choices"][0]["message"]["content"]


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "tables": read_everything,
    "commands": run_command,
    "prompts": write_on,
    "requests": send_request,
}


def faults(kind: str, count: int, seed: int = 0) -> list[str]:
    """Run some cases; return a line for each that failed or was slow."""
    found = []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            began = time.perf_counter()
            try:
                KINDS[kind](random.Random(f"{kind} {seed} {number}"), Path(name))
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                line = f"{kind} {seed} {number}: {type(error).__name__}: {error}"
                found.append(f"{line} ({Path(where.filename).name}:{where.lineno})")
            if (seconds := time.perf_counter() - began) > SLOWEST:
                found.append(f"{kind} {seed} {number}: {seconds:.0f} s")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lines = faults(given.kind, given.count, given.seed)
    print("\n".join([*lines, f"{given.kind}: {given.count} cases, {len(lines)} faults"]))
    sys.exit(bool(lines))
