"""Train a tokenizer (`tokenizer train`), or look at how one cuts text (`tokenizer show`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minigpt.commands.arguments import parse
from minigpt.commands.bars import Bar
from minigpt.data.corpora import open_corpus
from minigpt.support.errors import ConfigError
from minigpt.support.files import check_writable, refuse_existing
from minigpt.tokenizer import BPETokenizer, CharTokenizer, load_tokenizer


@dataclass(frozen=True)
class TrainTokenizer:
    """Learn a vocabulary from text and save it as a tokenizer.json."""

    out: Path
    """The tokenizer.json to write."""
    data: str = "storyworld"
    """Text: .txt, .md, .jsonl, .json, .csv, .tsv, a folder, an archive, a pattern in quotes, the
    name of a public data set, or storyworld."""
    world: Literal["little", "full"] = "full"
    """Size of storyworld."""
    kind: Literal["bpe", "char"] = "bpe"
    """Byte-level byte-pair encoding, or single characters."""
    vocab_size: int = 1024
    """Number of tokens (bpe)."""
    field: str = "text"
    """Name of the field or column that holds the text (.jsonl, .json, .csv, .tsv)."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop, or put a replacement character."""
    overwrite: bool = False
    """Replace the file if it is there."""
    encoding: str = ""
    """Encoding of the text, such as gb18030 or cp1252 (empty: UTF-8)."""
    separator: str = ""
    """What parts the documents of a plain text, such as '\\n\\n' (empty: <|endoftext|> lines)."""
    skip_bad: bool = False
    """Leave out bad records, up to 1 % of a file."""


@dataclass(frozen=True)
class ShowTokens:
    """Show the tokens of a text, their ids, and how many bytes each stands for."""

    tokenizer: Path
    """A tokenizer.json."""
    text: str
    """The text to cut."""


ACTIONS = {"train": TrainTokenizer, "show": ShowTokens}


def main(words: list[str]) -> int:
    """Run `tokenizer train` or `tokenizer show`."""
    if not words or words[0] not in ACTIONS:
        if words and words[0] in ("-h", "--help"):
            print("usage: python -m minigpt tokenizer train|show [options]; each has its --help")
            return 0
        raise ConfigError("no action given", "tokenizer", f"write tokenizer {' or '.join(ACTIONS)}")
    if words[0] == "train":
        return train(parse(TrainTokenizer, "tokenizer train", words[1:]))
    return show(parse(ShowTokens, "tokenizer show", words[1:]))


def train(command: TrainTokenizer) -> int:
    """Learn, save and describe a tokenizer."""
    check_out(command.out, command.overwrite)
    texts = open_corpus(
        command.data,
        command.field,
        command.errors,
        command.world,
        separator=command.separator,
        encoding=command.encoding,
        skip_bad=command.skip_bad,
    ).texts()
    texts = list(Bar(texts, desc="reading", unit=" texts"))
    if command.kind == "char":
        tokenizer = CharTokenizer.train(texts)
    else:
        tokenizer = BPETokenizer.train(texts, command.vocab_size)
    command.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(command.out)
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    n_tokens = sum(map(len, tokenizer.encode_batch(texts)))
    print(f"{tokenizer.vocab_size} tokens, {n_bytes / n_tokens:.2f} bytes a token here")
    print(f"written to {command.out}")
    return 0


def check_out(out: Path, overwrite: bool) -> None:
    """Make sure that the file can be written, and that no run needs the one that is there."""
    if out.is_dir():
        raise ConfigError("--out is a directory", str(out), "name the file to write")
    from minigpt.runs.run import is_run  # with torch: half a second that `show` need not pay

    if out.name == "tokenizer.json" and is_run(out.parent):
        raise ConfigError("--out is the tokenizer of a run", str(out), "name another file")
    if not overwrite:
        refuse_existing([out], "choose another --out, or add --overwrite")
    check_writable(out.parent)


def show(command: ShowTokens) -> int:
    """Print one line a token: id, bytes, text."""
    tokenizer = load_tokenizer(command.tokenizer)
    ids = tokenizer.encode(command.text)
    for token in ids:
        data = tokenizer.token_bytes[token]
        print(f"{token:>6}  {len(data)} bytes  {data.decode('utf-8', errors='backslashreplace')!r}")
    print(f"{len(ids)} tokens for {len(command.text.encode('utf-8'))} bytes")
    return 0
