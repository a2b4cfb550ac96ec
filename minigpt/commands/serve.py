"""Serve a trained model: `serve [--checkpoint RUN] [--port 8000]`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.runs.run import open_run
from minigpt.support.errors import ConfigError, printable, require
from minigpt.support.signals import end_on_signals

KEY_VARIABLE = "MINIGPT_API_KEY"


@dataclass(frozen=True)
class ServeCommand:
    """Serve a trained model: OpenAI's API for programs, and a page to chat with.

    Without --checkpoint this is little, the model that comes with the package. Programs that speak
    OpenAI's API use http://127.0.0.1:8000/v1 as their base URL; the page is at /. Ctrl-C ends it.
    """

    checkpoint: Path = Path("little")
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own needs an API key."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    name: str = ""
    """What the model is called in the API (empty: the last part of --checkpoint)."""
    slots: int = 8
    """Answers that are written at the same time; each takes memory for a whole context."""
    queue: int = 32
    """Requests that may wait for a slot; one more is refused (429)."""
    timeout: float = 120.0
    """Seconds that an answer may take, the wait included."""
    api_key: str = ""
    """Key that clients must send (empty: the variable MINIGPT_API_KEY, or none)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(ServeCommand, "serve", words)
    require(0 <= command.port < 65536, "port", command.port, "0 to 65535")
    require(0 < command.timeout < 1e6, "timeout", command.timeout, "seconds above 0")
    try:
        from minigpt.engine import Engine
        from minigpt.serve import Limits, Server, Service, check_access, open_socket
    except ModuleNotFoundError as error:
        remedy = "pip install minigpt-course[serve]"
        raise ConfigError(f"{error.name} is not installed", "serve", remedy) from None
    key = command.api_key or os.environ.get(KEY_VARIABLE, "")
    hosts = check_access(command.host, key)
    run = open_run(command.checkpoint, command.device)
    for note in run.notes:
        print(note, file=sys.stderr)
    name = command.name or str(command.checkpoint).removeprefix("hf:")
    name = printable(command.name or Path(name).resolve().name or "minigpt")
    engine = Engine(run.model, run.tokenizer, command.slots, command.queue)
    service = Service(engine, name, Limits(answer_seconds=command.timeout))
    with open_socket(command.host, command.port) as listening, end_on_signals():
        host = f"[{command.host}]" if ":" in command.host else command.host
        address = f"http://{host}:{listening.getsockname()[1]}"
        print(f"{name}: chat at {address}/, API at {address}/v1; Ctrl-C ends it", flush=True)
        Server(service, service.app(key, hosts)).run(sockets=[listening])
    return 0
