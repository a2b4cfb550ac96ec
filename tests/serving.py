"""A small model that can chat, and a server for it on a free port of this machine."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from minigpt.chat import SPECIAL, encode_prompt, end_id
from minigpt.engine import Engine
from minigpt.generate import generate
from minigpt.gpt import GPT, GPTConfig
from minigpt.sampling import SampleConfig
from minigpt.tokenizer import BPETokenizer

TEXTS = ["Where is Tom? In the park with a red ball.", "汤姆在哪里？在公园里。"]
TOKENIZER = BPETokenizer.train(TEXTS * 3, 300, special_tokens=SPECIAL)
BLOCK = 80


def wild_model(block_size: int = BLOCK, **options: Any) -> GPT:
    """Return a model whose weights are large enough for texts that differ from prompt to prompt."""
    torch.manual_seed(3)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 24}
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=block_size, **sizes | options)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=2 * parameter.size(-1) ** -0.5)
    return model


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat_ids(text: str) -> tuple[int, ...]:
    return tuple(encode_prompt(user(text), TOKENIZER))


def chat_stops() -> frozenset[int]:
    return frozenset({TOKENIZER.eot_id, end_id(TOKENIZER)})


def solo(model: GPT, text: str, **settings: Any) -> list[int]:
    """Return the ids that `generate` answers a message with, alone."""
    config = SampleConfig(**{"temperature": 0.0, "max_new_tokens": 30} | settings)
    return generate(model, [chat_ids(text)], config, chat_stops())[0]


class Client:
    """Send requests as they are; a connection for each."""

    def __init__(self, port: int):
        self.port = port

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer."""
        data = json.dumps(body).encode("utf-8") if isinstance(body, dict | list) else body
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, 30)) as link:
            link.request(method, path, data, headers or {})
            answer = link.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def ask(self, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of what a POST is answered with."""
        status, _, data = self.send("POST", path, {"model": "tiny", **fields})
        return status, json.loads(data)

    def health(self) -> dict[str, Any]:
        return json.loads(self.send("GET", "/health")[2])


def wait_until(holds: Any, seconds: float = 10.0) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def serving(engine: Engine, api_key: str = "", **limits: Any) -> Iterator[Client]:
    """Run a server in a thread."""
    from minigpt.serve import Limits, Server, Service, check_access, open_socket

    service = Service(engine, "tiny", Limits(**limits))
    server = Server(service, service.app(api_key, check_access("127.0.0.1", api_key)))
    listening = open_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started), "the server did not start"
    try:
        yield Client(port)
    finally:
        server.should_exit = True
        thread.join(15)
        listening.close()
        assert not thread.is_alive()
