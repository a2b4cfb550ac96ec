"""OpenAI's forms: what is understood, what is refused and by which name, what answers look like."""

import pytest
from serving import BLOCK, TOKENIZER, chat_ids, user

from minigpt.engine import Piece, TokenScore
from minigpt.openai_api import ApiError, Writer, read_request
from minigpt.tokenizer import CharTokenizer


def read(kind="chat", **fields):
    usual = {"messages": user("red ball")} if kind == "chat" else {"prompt": "red ball"}
    body = {"model": "tiny", **usual, **fields}
    return read_request(body, kind, "tiny", TOKENIZER, BLOCK)


def test_a_chat_is_understood():
    asked = read(
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_completion_tokens=9,
        stop="end",
        logprobs=True,
        top_logprobs=4,
        presence_penalty=1,
        frequency_penalty=-1.5,
        logit_bias={"17": -100},
        stream=True,
        stream_options={"include_usage": True},
        user="somebody",
        metadata={"a": "b"},
        n=1,
        tools=[],
        response_format={"type": "text"},
        max_tokens=None,
    )
    sampling = asked.request.sampling
    assert asked.request.prompt == chat_ids("red ball")
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 7)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1.5)
    assert (sampling.logit_bias, sampling.max_new_tokens) == (((17, -100),), 9)
    assert (asked.request.stop, asked.request.top_logprobs) == (("end",), 4)
    assert (asked.streams, asked.tells_usage) == (True, True)


def test_defaults_are_openais():
    chat, completion = read(), read("completion")
    assert chat.request.sampling.temperature == completion.request.sampling.temperature == 1
    assert chat.request.sampling.max_new_tokens == BLOCK - len(chat_ids("red ball"))
    assert completion.request.sampling.max_new_tokens == 16
    assert chat.request.top_logprobs is completion.request.top_logprobs is None
    assert read().request.sampling.seed != read().request.sampling.seed
    assert chat.request.stop_ids > completion.request.stop_ids == {TOKENIZER.eot_id}


def test_content_in_parts_and_the_role_of_a_developer():
    parts = [{"type": "text", "text": "red "}, {"type": "text", "text": "ball"}]
    assert read(messages=[{"role": "user", "content": parts}]) == read_same(user("red ball"))
    developer = [{"role": "developer", "content": "Be brief."}, *user("a")]
    system = [{"role": "system", "content": "Be brief."}, *user("a")]
    assert read(messages=developer, seed=1).request == read(messages=system, seed=1).request


class read_same:
    """Equal to what was read from the same messages, but for the seed."""

    def __init__(self, messages):
        self.prompt = read(messages=messages).request.prompt

    def __eq__(self, other):
        return other.request.prompt == self.prompt


def test_prompts_as_text_and_as_ids():
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("red ball")]
    for prompt in ("red ball", ["red ball"], ids, [ids]):
        assert read("completion", prompt=prompt).request.prompt == tuple(ids)
    assert read("completion", prompt="").request.prompt == (TOKENIZER.bos_id,)


REFUSED = [
    ("chat", {"tools": [{"type": "function"}]}, 400, "tools"),
    ("chat", {"n": 2}, 400, "n"),
    ("chat", {"response_format": {"type": "json_object"}}, 400, "response_format"),
    ("chat", {"messages": "hello"}, 400, "messages"),
    ("chat", {"messages": []}, 400, "messages"),
    ("chat", {"messages": ["hello"]}, 400, "messages"),
    ("chat", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
    ("chat", {"messages": [{"role": "user"}]}, 400, "messages"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ("chat", {"messages": [{"role": "user", "content": [7]}]}, 400, "messages"),
    ("chat", {"messages": user("\ud800")}, 400, "messages"),
    ("chat", {"model": "gpt-9"}, 404, "model"),
    ("chat", {"model": 7}, 400, "model"),
    ("chat", {"temperature": 2.1}, 400, "temperature"),
    ("chat", {"temperature": -0.1}, 400, "temperature"),
    ("chat", {"temperature": "hot"}, 400, "temperature"),
    ("chat", {"temperature": True}, 400, "temperature"),
    ("chat", {"temperature": float("inf")}, 400, "temperature"),
    ("chat", {"top_p": 0}, 400, "top_p"),
    ("chat", {"top_p": 1.5}, 400, "top_p"),
    ("chat", {"seed": -1}, 400, "seed"),
    ("chat", {"seed": 10**30}, 400, "seed"),
    ("chat", {"presence_penalty": 2.5}, 400, "presence_penalty"),
    ("chat", {"frequency_penalty": -3}, 400, "frequency_penalty"),
    ("chat", {"logit_bias": {"cat": 1}}, 400, "logit_bias"),
    ("chat", {"logit_bias": {"17": 101}}, 400, "logit_bias"),
    ("chat", {"logit_bias": {"17": "much"}}, 400, "logit_bias"),
    ("chat", {"logit_bias": [1]}, 400, "logit_bias"),
    ("chat", {"stop": ["a"] * 5}, 400, "stop"),
    ("chat", {"stop": [""]}, 400, "stop"),
    ("chat", {"stop": 7}, 400, "stop"),
    ("chat", {"stream": "yes"}, 400, "stream"),
    ("chat", {"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ("chat", {"logprobs": 3}, 400, "logprobs"),
    ("chat", {"top_logprobs": 3}, 400, "top_logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    ("chat", {"max_tokens": 0}, 400, "max_tokens"),
    ("chat", {"max_tokens": 1.5}, 400, "max_tokens"),
    ("chat", {"max_completion_tokens": 10**9}, 400, "max_completion_tokens"),
    ("chat", {"messages": user("ball " * BLOCK)}, 400, "messages"),
    ("chat", {"prompt": "hello"}, 400, "prompt"),
    ("completion", {"logprobs": 6}, 400, "logprobs"),
    ("completion", {"logprobs": True}, 400, "logprobs"),
    ("completion", {"echo": True}, 400, "echo"),
    ("completion", {"suffix": "end"}, 400, "suffix"),
    ("completion", {"best_of": 3}, 400, "best_of"),
    ("completion", {"prompt": ["a", "b"]}, 400, "prompt"),
    ("completion", {"prompt": []}, 400, "prompt"),
    ("completion", {"prompt": [1, "a"]}, 400, "prompt"),
    ("completion", {"prompt": 7}, 400, "prompt"),
    ("completion", {"prompt": "ball " * BLOCK}, 400, "prompt"),
]


@pytest.mark.parametrize(("kind", "fields", "status", "param"), REFUSED)
def test_what_is_refused_is_named(kind, fields, status, param):
    with pytest.raises(ApiError) as caught:
        read(kind, **fields)
    error = caught.value
    assert (error.status, error.param) == (status, param)
    assert error.body()["error"]["type"] == "invalid_request_error"
    assert error.message
    assert "\n" not in error.message
    assert len(error.message) <= 300


def test_a_misspelled_field_names_its_neighbor():
    with pytest.raises(ApiError, match="did you mean temperature") as caught:
        read(temprature=1)
    assert caught.value.code == "unknown_parameter"


def test_the_room_is_exact():
    n = len(chat_ids("red ball"))
    assert read(max_tokens=BLOCK - n).request.sampling.max_new_tokens == BLOCK - n
    with pytest.raises(ApiError, match=f"ask for {BLOCK - n} at most") as caught:
        read(max_tokens=BLOCK - n + 1)
    assert caught.value.code == "context_length_exceeded"


def test_a_model_of_texts_cannot_chat():
    tokenizer = CharTokenizer.train(["red ball"])
    with pytest.raises(ApiError, match="/v1/completions"):
        read_request({"model": "m", "messages": user("ball")}, "chat", "m", tokenizer, BLOCK)
    body = {"model": "m", "prompt": "ball"}
    assert read_request(body, "completion", "m", tokenizer, BLOCK).request.prompt


@pytest.mark.parametrize("body", [None, [], "text", 7])
def test_a_body_must_be_an_object(body):
    with pytest.raises(ApiError, match="no JSON object"):
        read_request(body, "chat", "tiny", TOKENIZER, BLOCK)


def test_a_log_probability_is_a_number_of_json_and_offsets_go_on():
    asked = read("completion", logprobs=1, stream=True)
    writer = Writer(asked, "tiny", TOKENIZER)
    a, b = TOKENIZER.encode("a")[0], TOKENIZER.encode("b")[0]
    score = TokenScore(a, float("-inf"), ((b, -0.5),))
    first = writer.part(Piece("a", (score,), 1))[0]["choices"][0]["logprobs"]
    second = writer.part(Piece("a", (score,), 2))[0]["choices"][0]["logprobs"]
    assert first["token_logprobs"] == [-9999.0]
    assert first["top_logprobs"] == [{"b": -0.5}]
    assert (first["text_offset"], second["text_offset"]) == ([0], [1])


def test_a_stream_ends_with_its_reason_then_its_usage():
    asked = read(stream=True, stream_options={"include_usage": True})
    writer = Writer(asked, "tiny", TOKENIZER)
    chunks = [
        *writer.first(),
        *writer.part(Piece("a", (), 1)),
        *writer.part(Piece("b", (), 2, "stop")),
    ]
    assert len({chunk["id"] for chunk in chunks}) == 1
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert reasons == [None, None, None, "stop"]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "ab"
    n = len(chat_ids("red ball"))
    total = {"prompt_tokens": n, "completion_tokens": 2, "total_tokens": n + 2}
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], total)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
