"""The tokenizers against the `tokenizers` library, and against every text and byte."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import tokenizers

from minigpt import tokenizer as module
from minigpt.bpe import BYTE_SYMBOLS, PATTERN
from minigpt.streaming import TextStream
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import (
    END_OF_TEXT,
    UNKNOWN,
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
)
from minigpt.vocabulary import number_tokens

SAMPLE = (
    "The cat's hat, the CAT'S mat: 1234 cats!\n\n  I'm   here...\r\n\tdéjà vu — naïve café\n"
    "我们在公园里看见一只猫。猫在公园里睡觉。🙂🙂 👩‍👩‍👧 مرحبا hello hello hello\n" * 4
)
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>")
SCALARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([SAMPLE], 400, SPECIAL)


@pytest.fixture(scope="module")
def char() -> CharTokenizer:
    return CharTokenizer.train([SAMPLE], SPECIAL)


@pytest.fixture(params=["bpe", "char"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


def library_load(tokenizer: Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    """Save, and load with the library, told to take special tokens in a text as text."""
    tokenizer.save(folder / "tokenizer.json")
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.encode_special_tokens = True
    return engine


# --- learning ---


def test_vocab_size_below_the_bytes_is_refused():
    with pytest.raises(ConfigError, match=r"vocab_size 100 is too small.*at least 257"):
        BPETokenizer.train(["abc"], 100)


@pytest.mark.parametrize(
    "train", [lambda: BPETokenizer.train([], 300), lambda: CharTokenizer.train([""])]
)
def test_training_on_no_text_is_refused(train):
    with pytest.raises(DataError, match=r"no text.*give at least one text"):
        train()


@pytest.mark.parametrize(
    "names", [["end", END_OF_TEXT], ["<||>", END_OF_TEXT], ["<|x|>"], [END_OF_TEXT] * 2]
)
def test_special_tokens_that_a_merge_could_produce_are_refused(names):
    with pytest.raises(ConfigError, match=r"give|write it as"):
        BPETokenizer.train(["abc"], 300, names)


# --- encoding ---


@pytest.mark.parametrize("cores", [1, 64])
def test_a_batch_has_the_same_ids_whoever_encodes_it(bpe, cores, monkeypatch):
    """Words are encoded by us where cores are few, Chinese and all the rest by the library."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    texts = [*SAMPLE.split("\n"), "", "hello " * 50, "猫" * 50, END_OF_TEXT, "Où est l'été ?"]
    ours = []
    monkeypatch.setattr(
        bpe, "encode", lambda text: ours.append(text) or Tokenizer.encode(bpe, text)
    )
    assert bpe.encode_batch(texts) == [Tokenizer.encode(bpe, text) for text in texts]
    assert ("hello " * 50 in ours) == (cores == 1)
    assert "猫" * 50 not in ours
    assert bpe.encode_batch([]) == []


@pytest.mark.parametrize("repeat", [1, 100])
def test_ids_equal_the_librarys(any_tokenizer, repeat, tmp_path):
    engine = library_load(any_tokenizer, tmp_path)
    text = SAMPLE * repeat + "unseen: Ω≈ç√∫ ﷽ ﬀ 𝒳"
    ids = any_tokenizer.encode(text)
    assert ids == engine.encode(text).ids
    assert ids == any_tokenizer.encode_batch([text])[0]
    assert engine.decode(ids, skip_special_tokens=False) == any_tokenizer.decode(ids)


def test_ids_equal_tiktokens(bpe):
    """A third engine: given our tokens in the order of learning, tiktoken makes the same ids."""
    tiktoken = pytest.importorskip("tiktoken")
    first = len(SPECIAL)
    ranks = {token: rank for rank, token in enumerate(bpe.token_bytes[first:])}
    engine = tiktoken.Encoding(
        "ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )
    for text in (
        SAMPLE,
        "Où est l'été ? " * 9,
        "雨果拿着一个绿色的手偶。他很高兴。",
        "🙂🎈👩\u200d👧 " * 5,
    ):
        assert [token - first for token in bpe.encode(text)] == engine.encode_ordinary(text)


def text_files(data_dir: Path) -> list[Path]:
    binary = {".gz", ".zip", ".bz2"}
    return sorted(p for p in data_dir.rglob("*") if p.is_file() and p.suffix not in binary)


def assert_ids_equal_on(files: list[Path], characters: int | None, tmp_path: Path) -> None:
    texts = [file.read_text(encoding="utf-8", errors="replace")[:characters] for file in files]
    tokenizer = BPETokenizer.train([text[:20_000] for text in texts], 4096)
    engine = library_load(tokenizer, tmp_path)
    for file, text in zip(files, texts, strict=True):
        expected = engine.encode_batch_fast([text], add_special_tokens=False)[0].ids
        assert tokenizer.encode(text) == expected, file
        assert tokenizer.encode_batch([text]) == [expected], file
        assert tokenizer.decode(expected) == text, file


@pytest.mark.slow
def test_ids_equal_the_librarys_on_the_start_of_every_data_file(data_dir, tmp_path):
    files = text_files(data_dir)
    assert len(files) > 50
    assert_ids_equal_on(files, 20_000, tmp_path)


@pytest.mark.soak
def test_ids_equal_the_librarys_on_every_data_file(data_dir, tmp_path):
    assert_ids_equal_on(text_files(data_dir), None, tmp_path)


# --- round trips ---


def random_text(rng: random.Random) -> str:
    pool = rng.choice([SCALARS, SCALARS[:0x250], " \n\t'st1!" + SAMPLE[:80]])
    return "".join(rng.choices(pool, k=rng.randint(0, 12)))


def assert_round_trips(tokenizer: BPETokenizer, pairs: list[int], strings: int) -> None:
    for pair in pairs:
        data = pair.to_bytes(2, "big")
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    rng = random.Random(1)
    for _ in range(strings):
        text = random_text(rng)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        data = rng.randbytes(rng.randint(0, 9)) + text.encode("utf-8")[1:]
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_B12_text_and_bytes_round_trip(bpe):
    assert_round_trips(bpe, random.Random(0).sample(range(1 << 16), 10_000), 5_000)


@pytest.mark.soak
def test_B12_all_byte_pairs_and_all_characters_round_trip(bpe):
    assert_round_trips(bpe, list(range(1 << 16)), 400_000)
    for character in SCALARS:
        assert bpe.decode(bpe.encode(character)) == character


def test_bytes_of_a_text_have_the_ids_of_the_text(any_tokenizer):
    assert any_tokenizer.encode_bytes(SAMPLE.encode("utf-8")) == any_tokenizer.encode(SAMPLE)


# --- bad input ---


@pytest.mark.parametrize("text", ["ab\ud800", "ab\udc80c"])
def test_lone_surrogate_names_its_index(any_tokenizer, text):
    for encode in (any_tokenizer.encode, lambda t: any_tokenizer.encode_batch(["ok", t])):
        with pytest.raises(DataError, match=r"lone surrogate U\+D.*index 2.*replace"):
            encode(text)
    with pytest.raises(DataError, match=r"index 2"):
        BPETokenizer.train([text], 300)


def test_lone_surrogate_in_the_librarys_share_of_a_batch_names_its_index(bpe):
    assert len("中文\ud800".encode("utf-8", "replace")) >= 2 * 3, "Chinese goes to the library"
    with pytest.raises(DataError, match=r"lone surrogate U\+D800.*index 2.*replace"):
        bpe.encode_batch(["ok", "中文\ud800"])


def assert_no_special_from_text(tokenizer: Tokenizer, injections: int) -> None:
    rng = random.Random(2)
    special = set(tokenizer.special_tokens.values())
    texts = []
    for n in range(injections):
        name = SPECIAL[n % len(SPECIAL)]
        before, after = random_text(rng), random_text(rng)
        cut = rng.randint(0, len(name))
        texts += [before + name + after, (before + name[:cut]) + (name[cut:] + after)]
        ids = tokenizer.encode(texts[-2])
        assert special.isdisjoint(ids) or isinstance(tokenizer, CharTokenizer)
        assert special.isdisjoint(set(ids) - {tokenizer.special_tokens.get(UNKNOWN)})
        assert tokenizer.encode_bytes(texts[-2].encode("utf-8")) == ids
        glued = tokenizer.encode(before + name[:cut]) + tokenizer.encode(name[cut:] + after)
        assert special.isdisjoint(set(glued) - {tokenizer.special_tokens.get(UNKNOWN)})
    for ids in tokenizer.encode_batch(texts):
        assert special.isdisjoint(set(ids) - {tokenizer.special_tokens.get(UNKNOWN)})


def test_user_text_never_becomes_a_special_token(any_tokenizer):
    assert_no_special_from_text(any_tokenizer, 2_500)


@pytest.mark.soak
def test_user_text_never_becomes_a_special_token_100_000(bpe):
    assert_no_special_from_text(bpe, 100_000)


def test_learned_on_text_full_of_special_tokens():
    tokenizer = BPETokenizer.train([END_OF_TEXT * 500 + " " + "<|endoftext|>\n" * 500], 400)
    ids = tokenizer.encode(END_OF_TEXT * 3)
    assert tokenizer.eot_id not in ids
    assert tokenizer.decode(ids) == END_OF_TEXT * 3
    assert tokenizer.encode_batch([END_OF_TEXT * 3]) == [ids]


def test_special_tokens_where_allowed(any_tokenizer):
    eot = any_tokenizer.eot_id
    ids = any_tokenizer.encode(f"a{END_OF_TEXT}t<|user|>", allowed_special=[END_OF_TEXT])
    assert ids == [*any_tokenizer.encode("a"), eot, *any_tokenizer.encode("t<|user|>")]
    assert any_tokenizer.decode(ids[:3]) == f"a{END_OF_TEXT}t"


@pytest.mark.parametrize("allowed", [["<|nonsense|>"], END_OF_TEXT])
def test_unknown_allowed_special_is_refused(bpe, allowed):
    with pytest.raises(ConfigError, match=r"not special tokens.*give a list"):
        bpe.encode("a", allowed_special=allowed)


def test_memory_of_chunks_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 10)
    tokenizer = BPETokenizer.train([SAMPLE], 400)
    tokenizer.encode(SAMPLE + "x" * 5000)
    assert len(tokenizer._remembered) == 10
    assert max(map(len, tokenizer._remembered)) <= 32


def test_two_swapped_merges_change_the_fingerprint(bpe, tmp_path):
    merges = list(bpe.merges)
    assert bpe.merged_ids[-2] not in merges[-1]  # the last two are independent
    merges[-2:] = merges[:-3:-1]
    other = BPETokenizer(number_tokens(merges, bpe.special_tokens))
    bpe.save(tmp_path / "good.json")
    other.save(tmp_path / "other.json")
    good, swapped = tmp_path / "good.json", tmp_path / "other.json"
    assert good.stat().st_size == swapped.stat().st_size
    assert load_tokenizer(good).fingerprint != load_tokenizer(swapped).fingerprint
    assert load_tokenizer(good).encode(SAMPLE) == bpe.encode(SAMPLE)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "JSONDecodeError"),
        (lambda text: text[: len(text) // 2], "JSONDecodeError"),
        (lambda text: "[1, 2]", "TypeError"),
        (lambda text: '{"model": {}, "decoder": {}}', "KeyError"),
        (lambda text: text.replace('"<|endoftext|>": 0', '"<|endoftext|>": 7'), "has id 7 and"),
        (lambda text: text.replace('"id": 0', '"id": 3'), "has id 0 and, as added token, 3"),
        (lambda text: text.replace('"Ġ": 225', '"Ġ": 30'), "id 30 belongs to 2 tokens"),
        (lambda text: text.replace('"Ġ": 225', '"Ġ": -1'), "id -1"),
        (lambda text: text.replace('"Ġ": 225', '"Ġ": 10000000000'), "id 10000000000"),
        (lambda text: text.replace("p{L}", "p{Q}", 1), "pattern"),
        (lambda text: text.replace('"<|user|>"', '"<|im_end|>"'), "a name stands twice|has id"),
    ],
)
def test_damaged_file_is_refused_by_name(bpe, damage, reason, tmp_path):
    path = tmp_path / "tokenizer.json"
    text = damage(bpe.to_json())
    assert text != bpe.to_json()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"not a tokenizer.json.*({reason}).*json again.*train"):
        load_tokenizer(path)


@pytest.mark.parametrize("part", ["pre_tokenizer", "decoder", "normalizer", "model"])
def test_a_file_of_characters_with_other_parts_is_refused(char, part, tmp_path):
    content = json.loads(char.to_json())
    other = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    content[part] = content["model"] | {"merges": [["a", "b"]]} if part == "model" else other
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=rf"its {part} is not that of a vocabulary of characters"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file.*missing\.json"):
        load_tokenizer(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path / "binary.json")


@pytest.mark.parametrize("bad", [-1, 10**6, True, 1.0, "1", None])
def test_bad_id_is_named_with_the_vocabulary_size(any_tokenizer, bad):
    size = any_tokenizer.vocab_size
    with pytest.raises(DataError, match=rf"id {bad!r} is outside the vocabulary of {size} tokens"):
        any_tokenizer.decode([5, bad])
    with pytest.raises(DataError, match=r"give whole numbers from 0"):
        TextStream(any_tokenizer).push(bad)


def test_numpy_ids_decode_in_range_only(any_tokenizer):
    np = pytest.importorskip("numpy")
    ids = np.array(any_tokenizer.encode("the cat"), dtype=np.uint16)
    assert any_tokenizer.decode(ids) == "the cat"
    for bad in (np.int64(-1), np.uint16(65535), np.bool_(True), np.float32(1)):
        with pytest.raises(DataError, match=r"outside the vocabulary"):
            any_tokenizer.decode([bad])


def test_truth_values_of_torch_are_no_ids(any_tokenizer):
    torch = pytest.importorskip("torch")
    assert any_tokenizer.decode(torch.tensor(any_tokenizer.encode("cat"))) == "cat"
    with pytest.raises(DataError, match=r"outside the vocabulary"):
        any_tokenizer.decode([torch.tensor(True)])


def test_two_merges_that_give_one_token_are_named():
    a, b, c = (1 + list(BYTE_SYMBOLS).index(byte) for byte in b"abc")
    merges = [(a, b), (b, c), (257, c), (a, 258)]
    with pytest.raises(DataError, match="two merges give the token b'abc'"):
        number_tokens(merges, {"<|endoftext|>": 0})


# --- characters and files ---


def test_unknown_characters_become_unknown(char):
    ids = char.encode("cat Ω")
    assert ids[-1] == char.unknown_id
    assert char.decode(ids) == "cat " + UNKNOWN
    assert char.encode_bytes(b"cat\xff")[-1] == char.unknown_id


def test_files_written_today_keep_their_fingerprints():
    """A run stores the fingerprint of its vocabulary: another text of the file ends its resuming.

    Both were made by the version before vocabularies became data.
    """
    bpe = BPETokenizer.train(["abc ab ab é中"], 262, [END_OF_TEXT, "<|user|>"])
    assert bpe.fingerprint == "a973b067ab0a12f4926bfd1c54100710c653fe95cbc0281c24147e4e2eb0f4fb"
    char = CharTokenizer.train(["ab é中"])
    assert char.fingerprint == "ffad7c69a571bd6f03bd675a39c53cb4236bad9a2dea58ec32761a9f5519cc88"


def test_character_ids_are_in_order_of_code_points():
    tokenizer = CharTokenizer.train(["cab", "中a"])
    assert tokenizer.special_tokens == {END_OF_TEXT: 0, UNKNOWN: 1}
    assert tokenizer.encode("abc中") == [2, 3, 4, 5]


def test_saved_and_loaded_tokenizer_is_the_same(any_tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    any_tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(any_tokenizer)
    assert loaded.special_tokens == any_tokenizer.special_tokens
    assert loaded.vocab_size == any_tokenizer.vocab_size
    assert loaded.encode(SAMPLE) == any_tokenizer.encode(SAMPLE)
    assert loaded.fingerprint == any_tokenizer.fingerprint
    assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "use",
    [
        lambda: BPETokenizer.train("one text", 270),
        lambda: CharTokenizer.train("one text"),
        lambda: BPETokenizer.train(["one text"], 270).encode_batch("one text"),
        lambda: CharTokenizer.train(["one text"]).encode_batch("one text"),
    ],
)
def test_one_text_where_a_list_is_wanted_is_refused(use):
    with pytest.raises(ConfigError, match=r"one text where a list is wanted.*\[text\]"):
        use()
