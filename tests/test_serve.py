"""The server: the official client, many clients, strangers, and an end without loss."""

import concurrent.futures
import http.client
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import BLOCK, TOKENIZER, chat_ids, serving, solo, user, wait_until, wild_model

from minigpt.engine import Engine
from minigpt.support.errors import ConfigError

needed = "needs Starlette and uvicorn: pip install minigpt-course[serve]"
pytest.importorskip("starlette", reason=needed)
pytest.importorskip("uvicorn", reason=needed)
serve = importlib.import_module("minigpt.serve")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
ROOT = Path(__file__).resolve().parents[1]
CHAT = "/v1/chat/completions"
QUESTIONS = [
    "red ball",
    "where is tom",
    "汤姆在哪里？",
    "the park",
    "a",
    "with a",
    "公园里。",
    "Tom",
]


@pytest.fixture(scope="module")
def model():
    return wild_model()


@pytest.fixture(scope="module")
def client(model, one_thread):
    with serving(Engine(model, TOKENIZER, n_slot=4)) as client:
        yield client


@pytest.fixture
def slow(model, monkeypatch):
    """An engine of one slot that takes 50 ms for a step."""
    engine = Engine(model, TOKENIZER, n_slot=1, n_waiting=2)
    read = engine.read

    def read_slowly() -> None:
        time.sleep(0.05)
        read()

    monkeypatch.setattr(engine, "read", read_slowly)
    return engine


def greedy(model, text: str, n: int = 30) -> str:
    return TOKENIZER.decode(solo(model, text, max_new_tokens=n))


# ---- the official client


@pytest.fixture
def official(client):
    openai = pytest.importorskip("openai", reason="needs the official client: pip install openai")
    url = f"http://127.0.0.1:{client.port}/v1"
    with openai.OpenAI(
        base_url=url, api_key="none", max_retries=0, _strict_response_validation=True
    ) as official:
        yield official


def test_the_official_client_lists_models(official):
    assert [model.id for model in official.models.list()] == ["tiny"]
    assert official.models.retrieve("tiny").owned_by == "minigpt"


def test_the_official_client_chats(official, model):
    answer = official.chat.completions.create(
        model="tiny",
        messages=user("red ball"),
        temperature=0,
        max_tokens=30,
        logprobs=True,
        top_logprobs=3,
    )
    choice = answer.choices[0]
    ids = solo(model, "red ball")
    assert choice.message.content == TOKENIZER.decode(ids)
    assert choice.finish_reason == ("length" if len(ids) == 30 else "stop")
    assert [bytes(entry.bytes) for entry in choice.logprobs.content] == [
        TOKENIZER.decode_bytes([token]) for token in ids
    ]
    assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
    n = len(chat_ids("red ball"))
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (n, len(ids))
    assert usage.total_tokens == n + len(ids)


def test_the_official_client_streams(official, model):
    with official.chat.completions.create(
        model="tiny",
        messages=user("where is tom"),
        temperature=0,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == greedy(model, "where is tom")
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] in ("stop", "length")
    assert chunks[-1].usage.completion_tokens == len(solo(model, "where is tom"))


def test_the_official_client_completes(official, model):
    answer = official.completions.create(
        model="tiny", prompt="red", temperature=0, max_tokens=8, logprobs=2
    )
    choice = answer.choices[0]
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens <= 8
    again = official.completions.create(
        model="tiny", prompt="red", temperature=0, max_tokens=8, stop=choice.text[2:4]
    )
    assert again.choices[0].text == choice.text[: choice.text.index(choice.text[2:4])]
    assert again.choices[0].finish_reason == "stop"


def test_the_official_client_names_its_errors(official):
    import openai

    with pytest.raises(openai.NotFoundError, match="there is no model"):
        official.chat.completions.create(model="gpt-9", messages=user("a"))
    with pytest.raises(openai.BadRequestError) as caught:
        official.chat.completions.create(model="tiny", messages=user("a"), max_tokens=BLOCK)
    assert caught.value.code == "context_length_exceeded"
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        official.chat.completions.create(model="tiny", messages=user("a"), tools=[tool])


def test_seed_penalties_and_bias_change_the_text_as_generate_does(client, model):
    hot = {"seed": 5, "presence_penalty": 1.0, "frequency_penalty": 0.5, "temperature": 1.2}
    _, answer = client.ask(CHAT, messages=user("red ball"), max_tokens=30, **hot)
    assert answer["choices"][0]["message"]["content"] == TOKENIZER.decode(
        solo(model, "red ball", **hot)
    )
    token = solo(model, "red ball")[0]
    bias = {"logit_bias": {str(token): -100}, "temperature": 0, "max_tokens": 1}
    _, answer = client.ask(CHAT, messages=user("red ball"), **bias, logprobs=True)
    chosen = answer["choices"][0]["logprobs"]["content"][0]["bytes"]
    assert bytes(chosen) != TOKENIZER.decode_bytes([token])


# ---- many clients


def test_eight_clients_at_once_get_their_solo_texts(client, model):
    def ask(text: str) -> str:
        _, answer = client.ask(CHAT, messages=user(text), temperature=0, max_tokens=30)
        return answer["choices"][0]["message"]["content"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(ask, QUESTIONS)) == [greedy(model, text) for text in QUESTIONS]
    assert client.health()["active"] == 0


def events(data: bytes) -> list[dict]:
    """Return the JSON of each server-sent event, the last of which says [DONE]."""
    parts = data.decode("utf-8").split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_the_form_of_a_stream(client, model):
    body = {"model": "tiny", "messages": user("汤姆"), "stream": True, "temperature": 0}
    status, headers, data = client.send("POST", CHAT, body | {"max_tokens": 30})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    chunks = events(data)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == greedy(model, "汤姆")


def open_stream(port: int, n: int = 60) -> tuple[socket.socket, bytes]:
    """Ask for a stream over a bare socket; return it once the first bytes are there."""
    fields = {"messages": user("red ball"), "max_tokens": n, "stream": True, "seed": 1}
    data = json.dumps({"model": "tiny", "logit_bias": no_end(), **fields}).encode("utf-8")
    link = socket.create_connection(("127.0.0.1", port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    link.sendall(head.encode("ascii") + data)
    return link, link.recv(100)


def no_end() -> dict[str, int]:
    return {str(token): -100 for token in TOKENIZER.special_tokens.values()}


@pytest.mark.parametrize("streams", [True, False])
def test_who_hangs_up_leaves_no_slot_taken(slow, streams):
    with serving(slow) as client:
        if streams:
            link, _ = open_stream(client.port)
        else:
            body = {"model": "tiny", "messages": user("a"), "max_tokens": 60}
            link = http.client.HTTPConnection("127.0.0.1", client.port)
            link.request("POST", CHAT, json.dumps(body | {"logit_bias": no_end()}))
        assert wait_until(lambda: slow.active and slow.active[0].n_tokens >= 2)
        link.close()
        assert wait_until(lambda: client.health()["active"] == 0, 2)
        assert slow.n_tokens < 30


def test_a_reader_that_does_not_read_holds_up_nobody(model):
    with serving(Engine(model, TOKENIZER, n_slot=2)) as client:
        links = [open_stream(client.port)[0] for _ in range(3)]
        _, answer = client.ask(CHAT, messages=user("red ball"), temperature=0, max_tokens=30)
        assert answer["choices"][0]["message"]["content"] == greedy(model, "red ball")
        assert wait_until(lambda: client.health()["active"] == 0)
        for link in links:
            link.close()


def test_a_full_queue_is_429_while_health_answers(slow):
    with serving(slow) as client:
        links = [open_stream(client.port)[0] for _ in range(1)]
        assert wait_until(lambda: client.health()["active"] == 1)
        links += [open_stream(client.port)[0] for _ in range(2)]
        body = {"model": "tiny", "messages": user("a"), "max_tokens": 5}
        status, headers, data = client.send("POST", CHAT, body)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(data)["error"]["code"] == "queue_full"
        health = client.health()
        assert (health["status"], health["active"], health["waiting"]) == ("ok", 1, 2)
        for link in links:
            link.close()


def test_an_answer_that_takes_too_long_is_ended(slow):
    with serving(slow, answer_seconds=0.4) as client:
        fields = {"messages": user("a"), "max_tokens": 60, "logit_bias": no_end()}
        status, answer = client.ask(CHAT, **fields)
        assert (status, answer["error"]["code"]) == (504, "timeout")
        _, _, data = client.send("POST", CHAT, {"model": "tiny", "stream": True, **fields})
        assert events(data)[-1]["error"]["code"] == "timeout"
        assert wait_until(lambda: client.health()["active"] == 0, 2)


# ---- bad requests


BAD = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"7", 400),
    (b'"\xff"', 400),
    (b'{"model": "tiny", "temperature": NaN}', 400),
    (b'{"model": "tiny", "seed": ' + b"9" * 9999 + b"}", 400),
    (b"[" * 10**6, 400),
    (b'{"model": "tiny", "tools": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
    (b" " * (2**20 + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), BAD)
def test_a_bad_body_is_the_clients_fault(client, model, body, status):
    got, _, data = client.send("POST", CHAT, body)
    assert got == status
    assert json.loads(data)["error"]["message"]


def test_paths_and_methods_that_do_not_exist(client):
    for method, path, status in (("GET", "/nothing", 404), ("GET", CHAT, 405), ("PUT", "/", 405)):
        got, _, data = client.send(method, path)
        assert got == status
        assert json.loads(data)["error"]["type"] == "invalid_request_error"
    assert client.send("GET", "/v1/models/other")[0] == 404
    assert client.send("GET", "/%2e%2e/serve.py")[0] == 404


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n",
    ],
)
def test_bytes_that_are_no_good_http(client, head):
    with socket.create_connection(("127.0.0.1", client.port), 10) as link:
        try:
            link.sendall(head)
            answer = link.recv(2000)
        except (ConnectionResetError, BrokenPipeError):  # it hung up amid a header without end
            answer = b"HTTP/1.1 400"
    assert re.match(rb"HTTP/1.1 4\d\d", answer), answer
    assert client.health()["status"] == "ok"


@pytest.mark.parametrize(("n", "status"), [(10_000, 200), (20_000, 431), (60_000, 431)])
def test_a_header_that_is_too_large_is_431(client, n, status):
    """20,000 bytes arrive whole; of 60,000 the server refuses to wait for the rest."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * n + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), 10) as link:
        if n < 60_000:
            link.sendall(head)
        else:
            for start in (0, 8_000, 16_000):
                link.sendall(head[start : start + 8_000])
                time.sleep(0.02)
        answer = link.recv(2000)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert client.send("GET", "/health?" + "a" * 20_000)[0] == 431


def test_who_hangs_up_in_the_middle_of_a_body_leaves_no_traceback(client, caplog):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", client.port), 10) as link:
        link.sendall(head.encode("ascii"))
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b""
    assert client.health()["status"] == "ok"
    assert not [record.getMessage() for record in caplog.records]


def test_a_body_that_does_not_come_is_not_waited_for(model):
    with serving(Engine(model, TOKENIZER), body_seconds=0.3, header_seconds=0.3) as client:
        with socket.create_connection(("127.0.0.1", client.port), 10) as link:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{"
            link.sendall(head.encode("ascii"))
            assert link.recv(12) == b"HTTP/1.1 408"
        with socket.create_connection(("127.0.0.1", client.port), 10) as link:
            assert link.recv(1) == b""  # who asks nothing is hung up on


def test_other_hosts_and_other_pages_are_turned_away(client):
    for headers in ({"Host": "attacker.example"}, {"Origin": "http://attacker.example"}):
        status, got, data = client.send("GET", "/v1/models", headers=headers)
        assert status == 403
        assert "access-control-allow-origin" not in got
        assert "attacker.example" in json.loads(data)["error"]["message"]
    own = {"Host": f"localhost:{client.port}", "Origin": f"http://localhost:{client.port}"}
    assert client.send("GET", "/v1/models", headers=own)[0] == 200


def test_a_key_is_asked_for_where_one_is_set(model):
    with serving(Engine(model, TOKENIZER), api_key="geheim-鑰") as client:
        for key in (None, "Bearer wrong", "Bearer "):
            headers = {} if key is None else {"Authorization": key}
            assert client.send("GET", "/v1/models", headers=headers)[0] == 401
        right = {"Authorization": "Bearer geheim-鑰".encode()}
        assert client.send("GET", "/v1/models", headers=right)[0] == 200
        assert client.send("GET", "/")[0] == client.send("GET", "/health")[0] == 200


def test_only_this_machine_may_ask_without_a_key():
    assert "127.0.0.1" in serve.check_access("127.0.0.1", "")
    assert serve.check_access("0.0.0.0", "key") == ()
    with pytest.raises(ConfigError, match="--api-key"):
        serve.check_access("0.0.0.0", "")
    assert [serve.host_name(h) for h in ("LocalHost:80", "[::1]:80", "a")] == [
        "localhost",
        "::1",
        "a",
    ]


def test_a_port_in_use_is_one_line():
    with serve.open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            serve.open_socket("127.0.0.1", port)


# ---- the page


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(client):
    status, headers, data = client.send("GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    html = data.decode("utf-8")
    assets = set(re.findall(r'(?:src|href)="([^"]+)"', html)) - {"data:,"}
    assert assets == {"chat.css", "chat.js"}
    script = (serve.WEB / "chat.js").read_text("utf-8")
    for name in assets:
        assert client.send("GET", "/" + name)[2] == (serve.WEB / name).read_bytes()
        assert "//" not in re.sub(r"(^|\s)//.*", "", (serve.WEB / name).read_text("utf-8"))
    assert "innerHTML" not in script
    ids = set(re.findall(r'id="(\w+)"', html))
    assert set(re.findall(r'at\("(\w+)"\)', script)) <= ids


# ---- the command


def start(*words: str) -> subprocess.Popen:
    """Start the command on a free port; what it prints first is its address."""
    command = [sys.executable, "-m", "minigpt", "serve", "--port", "0", *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM for other processes")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_ends_its_answers_and_then_itself(number, code):
    server = start("--name", "tiny")
    line = server.stdout.readline()
    port = int(re.search(r"127\.0\.0\.1:(\d+)/, API", line)[1])
    link = http.client.HTTPConnection("127.0.0.1", port, 60)
    body = {"model": "tiny", "messages": user("Tell me a story."), "stream": True}
    link.request("POST", CHAT, json.dumps(body | {"max_tokens": 40, "temperature": 0}))
    answer = link.getresponse()
    answer.read(1)
    server.send_signal(number)
    data = b"d" + answer.read()
    _, err = server.communicate(timeout=60)
    assert server.returncode == code, err
    assert "Traceback" not in err
    end = events(data)[-1]
    # On a slow machine the drain's five seconds may be over first; the client is told so.
    assert end.get("error") or end["choices"][0]["finish_reason"] in ("stop", "length")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_without_its_packages_the_command_says_what_to_install(monkeypatch, capsys):
    from helpers import refused

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name == "minigpt.serve"]:
        monkeypatch.delitem(sys.modules, name)
    line = refused(capsys, "serve", "--port", "0")
    assert "pip install minigpt-course[serve]" in line


def test_the_command_refuses_an_open_door(capsys):
    from helpers import refused

    assert "--api-key" in refused(capsys, "serve", "--host", "0.0.0.0")
    assert "65535" in refused(capsys, "serve", "--port", "70000")
