"""Vocabularies of other people: GPT-2's, Llama 3's and Qwen's files give the library's ids."""

import copy
import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, trainers

from minigpt import vocabulary as module
from minigpt.bpe import GPT2_PATTERN, GPT4_PATTERN, PATTERN
from minigpt.storyworld import story
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer, cut_added, load_tokenizer
from minigpt.vocabulary import Unsupported, Vocabulary, number_tokens

TRAINING = [
    "The cat's hat, the CAT'S mat: 1234567 cats!\n\n  I'm   here...\r\n\tdéjà vu, naïve café. " * 6,
    "我们在公园里看见一只猫。猫在公园里睡觉。雨果拿着一个绿色的手偶。" * 6,
    "def f(x):\n    return x + 1000 == 1000  # !=\n\n\nfor i in range(100):\n        print(i)\n"
    * 6,
    "🙂🙂 👩‍👩‍👧 hello hello 2024-10-31 1,000,000 it's we'll I've <think> think " * 6,
    *(text for seed in range(60) for text in (story(seed).english, story(seed).chinese)),
]
NAMES = {  # of the special tokens, then of added tokens that are not special
    "gpt2": (["<|endoftext|>"], []),
    "llama3": (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|python_tag|>"], []),
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "<think>"]),
}
NAMES["qwen-tied"] = NAMES["qwen"]
TEXTS = [
    "",
    " ",
    "The cat sat on the mat. It's THE CAT'S mat; we'll see, I'VE seen.",
    "我们在公园里看见一只绿色的猫。雨伞，手偶！",
    "🙂👩‍👩‍👧 🇫🇷 ❤️ x² ½ ﬁ naïve cafe\u0301 e\u0301\u0301 \u2126 \uac00\u11a8 नमस्ते مرحبا",
    "def f(x):\n    return x + 1000\n\n\n        if x: pass\t\t#  ok   \r\n\r\n",
    "1 12 123 1234 12345 1,234,567.89 ²³ ٣٤",
    "   \n \n\n\t x  \u00a0\u3000 y \x1c z \n",
    "a<think>b</think> <tool_call>\n<|endoftext|> <|im_start|>user\nHi<|im_end|><|im_start|>",
    "<|begin_of_text|>x<|eot_id|><|end_of_text|>  <|python_tag|> 1 <|endof",
    "\u1e4d0 \U0001e4d0 \U00010d4a ab",
]


def split_by(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    return [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def train_like(family: str) -> dict[str, Any]:
    """Return a small tokenizer.json laid out as the family publishes its own."""
    return copy.deepcopy(trained(family))


@functools.cache
def trained(family: str) -> dict[str, Any]:
    special, plain = NAMES[family]
    engine = tokenizers.Tokenizer(models.BPE())
    patterns = {"llama3": GPT4_PATTERN, "qwen": PATTERN, "qwen-tied": PATTERN}
    if family == "gpt2":
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        engine.pre_tokenizer = pre_tokenizers.Sequence(split_by(patterns[family]))
    if family.startswith("qwen"):
        engine.normalizer = tokenizers.normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(TRAINING, trainer)
    normalized = family == "gpt2"
    engine.add_special_tokens([AddedToken(name, normalized=normalized) for name in special])
    engine.add_tokens([AddedToken(name, normalized=False) for name in plain])
    engine.decoder = tokenizers.decoders.ByteLevel()
    content = json.loads(engine.to_str())
    model = content["model"]
    if family == "gpt2":  # its file is older: names in the vocabulary, merges as text
        model["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
        model["continuing_subword_prefix"] = model["end_of_word_suffix"] = ""
        del model["type"], model["ignore_merges"]
    if family == "llama3":
        tie_merges(model)
        model["ignore_merges"] = True
    if family == "qwen-tied":
        tie_merges(model)
    return content


def tie_merges(model: dict[str, Any]) -> None:
    """Write merges as those of Llama 3 are: every pair that makes a token, in the order of ids."""
    vocab = model["vocab"]
    made = {first + second for first, second in model["merges"]}
    model["merges"] = [
        [token[:cut], token[cut:]]
        for token in sorted(made, key=vocab.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    assert len(model["merges"]) >= len(made) + 20


def renumber(content: dict[str, Any], seed: int) -> None:
    """Give all tokens ids in random order: nothing may depend on it."""
    model = content["model"]
    names = [*model["vocab"], *(t["content"] for t in content["added_tokens"])]
    names = list(dict.fromkeys(names))
    random.Random(seed).shuffle(names)
    ids = {name: number for number, name in enumerate(names)}
    model["vocab"] = ids
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]


def library(content: dict[str, Any], takes_special: bool) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer.from_str(json.dumps(content))
    engine.encode_special_tokens = not takes_special
    return engine


def load(content: dict[str, Any], folder: Path) -> BPETokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    assert isinstance(tokenizer, BPETokenizer)
    return tokenizer


def random_texts(count: int) -> list[str]:
    """Return texts put together from pieces of TEXTS and TRAINING, cut anywhere."""
    rng, source = random.Random(1), "".join(TEXTS + [text[:200] for text in TRAINING])
    cuts = [(rng.randrange(len(source)), rng.randrange(1, 12)) for _ in range(6 * count)]
    pieces = [source[start : start + length] for start, length in cuts]
    return ["".join(pieces[6 * n : 6 * n + 6]) for n in range(count)]


def assert_ids_equal(content: dict[str, Any], folder: Path) -> None:
    ours = load(content, folder)
    as_text, as_special = library(content, False), library(content, True)
    texts = TEXTS + random_texts(300)
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]
    for text in texts:
        expected = as_text.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, text
        assert ours.encode_bytes(text.encode("utf-8")) == expected, text
        assert ours.decode(expected) == as_text.decode(expected, skip_special_tokens=False)
        expected = as_special.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, ours.special_tokens) == expected, text
        assert ours.decode(expected) == as_special.decode(expected, skip_special_tokens=False)
    assert ours.vocab_size == as_text.get_vocab_size()


@pytest.mark.parametrize("family", NAMES)
def test_files_of_each_family_give_the_librarys_ids(family, tmp_path):
    assert_ids_equal(train_like(family), tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "qwen-tied"])
def test_ids_may_follow_no_order(family, tmp_path):
    content = train_like(family)
    renumber(content, seed=3)
    assert_ids_equal(content, tmp_path)


@pytest.mark.parametrize("family", NAMES)
def test_what_was_read_is_saved_for_the_library_too(family, tmp_path):
    ours = load(train_like(family), tmp_path)
    ours.save(tmp_path / "again.json")
    again = load_tokenizer(tmp_path / "again.json")
    assert again.fingerprint == ours.fingerprint
    assert again.special_tokens == ours.special_tokens
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    for text in TEXTS:
        ids = ours.encode(text, ours.special_tokens)
        assert again.encode(text, ours.special_tokens) == ids
        assert engine.encode(text, add_special_tokens=False).ids == ids


def test_special_tokens_have_the_ids_of_the_file_and_end_a_text(tmp_path):
    for family, name in {"gpt2": "<|endoftext|>", "llama3": "<|end_of_text|>"}.items():
        content = train_like(family)
        ids = {token["content"]: token["id"] for token in content["added_tokens"]}
        ours = load(content, tmp_path)
        assert ours.special_tokens == ids
        assert ours.eot_id == ids[name] == 900 + list(ids).index(name)
        assert set(ids.values()).isdisjoint(ours.encode("".join(ids)))
        assert ours.encode("".join(ids), allowed_special=ids) == list(ids.values())


def test_a_token_that_is_not_special_is_found_in_any_text(tmp_path):
    ours = load(train_like("qwen"), tmp_path)
    think = next(token.id for token in ours.added if token.content == "<think>")
    assert ours.encode("a<think>")[-1] == think
    with pytest.raises(ConfigError, match=r"not special tokens: \['<think>'\]"):
        ours.encode("a", allowed_special=["<think>"])


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"normalized": True}])
def test_flags_of_added_tokens_are_kept(flags, tmp_path):
    content = train_like("qwen")
    for token in content["added_tokens"]:
        token |= flags
    assert_ids_equal(content, tmp_path)
    ours = load(content, tmp_path)
    engine = library(content, True)
    for text in ("a  <think>\n\n b", "<think>  <think> <|im_end|>\x1c\u3000x", "<think>\u0338"):
        ids = engine.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, ours.special_tokens) == ids, text


def test_the_longest_of_several_names_is_found():
    added = [module.AddedToken("<|x|>", 1), module.AddedToken("<|x|><|x|>", 2)]
    assert list(cut_added("<|x|><|x|><|x|>a", added)) == [2, 1, "a"]


def test_ids_that_the_file_leaves_out_decode_to_nothing(tmp_path):
    content = train_like("gpt2")
    content["model"]["vocab"]["<|endoftext|>"] = content["added_tokens"][0]["id"] = 1000
    ours = load(content, tmp_path)
    assert ours.vocab_size == 1001
    assert ours.decode([900, *ours.encode("cat"), 999]) == "cat"
    assert ours.encode("a<|endoftext|>", ["<|endoftext|>"])[-1] == ours.eot_id == 1000


def test_a_chunk_that_is_a_token_becomes_it_where_merges_are_ignored(tmp_path):
    content = train_like("llama3")
    last = content["added_tokens"][-1]
    content["model"]["vocab"]["Ġzqxj"], last["id"] = last["id"], last["id"] + 1
    ours, engine = load(content, tmp_path), library(content, False)
    for text in ("a zqxj", "a zqxjx", "zqxj"):
        assert ours.encode(text) == engine.encode(text, add_special_tokens=False).ids
        assert ours.encode_batch([text]) == [ours.encode(text)]
    assert ours.encode(" zqxj") == [last["id"] - 1]
    content["model"]["ignore_merges"] = False
    assert len(load(content, tmp_path).encode(" zqxj")) > 1


def test_split_that_keeps_the_matches_is_the_same_as_isolated(tmp_path):
    """GPT-4's converted file says so: everything but the matches is removed, which is nothing."""
    content = train_like("llama3")
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split |= {"behavior": "Removed", "invert": True}
    assert_ids_equal(content, tmp_path)


def test_any_other_pattern_is_taken(tmp_path):
    content = train_like("qwen")
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = r"[\p{L}\p{M}]+|\p{N}{2}"
    assert_ids_equal(content, tmp_path)


def test_a_trained_tokenizer_keeps_its_pattern(tmp_path):
    ours = BPETokenizer.train(TRAINING, 500, pattern=GPT2_PATTERN)
    ours.save(tmp_path / "tokenizer.json")
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path / "tokenizer.json")
    for text in TRAINING:
        ids = engine.encode(text).ids
        assert ours.encode(text) == again.encode(text) == ids
    assert any(len(token) > 1 and token.isdigit() for token in ours.token_bytes)


def change(content: dict[str, Any], place: str, value: Any) -> None:
    *parts, last = place.split(".")
    for part in parts:
        content = content[int(part) if part.isdigit() else part]
    content[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("model.type", "Unigram", r"model\.type is 'Unigram'"),
        ("model.dropout", 0.1, r"model\.dropout is 0\.1"),
        ("model.continuing_subword_prefix", "##", r"model\.continuing_subword_prefix is '##'"),
        ("model.end_of_word_suffix", "</w>", r"model\.end_of_word_suffix is '</w>'"),
        ("model.vocab.▁the", 700, r"model\.vocab: '▁the' is not written in byte symbols"),
        ("normalizer", {"type": "NFKC"}, r"normalizer\.type is 'NFKC'"),
        ("normalizer", {"type": "Lowercase"}, r"normalizer\.type is 'Lowercase'"),
        ("pre_tokenizer", None, r"pre_tokenizer is \[\]"),
        ("pre_tokenizer", {"type": "Whitespace"}, r"pre_tokenizer is \['Whitespace'\]"),
        (
            "pre_tokenizer.pretokenizers.0.behavior",
            "MergedWithNext",
            r".*Split\.behavior and invert",
        ),
        ("pre_tokenizer.pretokenizers.0.pattern", {"String": " "}, r".*Split\.pattern is"),
        ("pre_tokenizer.pretokenizers.1.use_regex", True, r".*ByteLevel\.use_regex is True"),
        ("pre_tokenizer.pretokenizers.1.add_prefix_space", True, r".*add_prefix_space is True"),
        ("decoder", {"type": "Metaspace"}, r"decoder\.type is 'Metaspace'"),
        ("decoder", None, r"decoder\.type is None"),
        ("truncation", {"max_length": 5}, r"truncation is \{"),
        ("padding", {"pad_id": 0}, r"padding is \{"),
        ("added_tokens.0.single_word", True, r"single_word of added token <\|endoftext\|> is True"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_the_name_of_its_field(
    place, value, named, tmp_path
):
    content = train_like("qwen")
    change(content, place, value)
    with pytest.raises(DataError, match=rf"^not supported: {named}.*byte-level tokenizer\.json"):
        load(content, tmp_path)


def test_a_vocabulary_without_a_byte_or_a_merged_token_is_refused(tmp_path):
    content = train_like("qwen")
    del content["model"]["vocab"]["Ā"]
    with pytest.raises(DataError, match=r"model\.vocab: byte 0 is missing"):
        load(content, tmp_path)
    content = train_like("qwen")
    del content["model"]["vocab"]["".join(content["model"]["merges"][-1])]
    with pytest.raises(DataError, match=r"model\.merges, number \d+: no token b'"):
        load(content, tmp_path)


def test_a_vocabulary_that_ends_no_text_works_and_says_so():
    ours = BPETokenizer(number_tokens([], {"<|other|>": 0}))
    assert ours.decode(ours.encode("text")) == "text"
    with pytest.raises(DataError, match=r"no token that ends a text.*<\|other\|>.*<\|endoftext"):
        _ = ours.eot_id


def test_post_processor_is_kept_for_others(tmp_path):
    content = train_like("llama3")
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True} | dict.fromkeys(
        ("trim_offsets", "use_regex"), True
    )
    again = json.loads(load(content, tmp_path).to_json())
    assert again["post_processor"] == content["post_processor"]


def test_a_vocabulary_is_only_data():
    ids = {bytes([byte]): 255 - byte for byte in range(256)} | {b"ab": 256}
    ours = BPETokenizer(Vocabulary(ids, [(b"a", b"b")], pattern=r"[\s\S]+"))
    assert ours.encode("abz") == [256, 255 - ord("z")]
    with pytest.raises(Unsupported, match=r"byte 0 is missing"):
        Vocabulary({}, [])
