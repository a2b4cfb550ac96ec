"""Public data and your own: `data list | download | verify | prepare`."""

import dataclasses
import functools
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from tqdm import tqdm

from minigpt.commands.arguments import parse
from minigpt.data.cleaning import CleanConfig, Cleaned, clean_files, to_lines
from minigpt.data.discovery import find_files
from minigpt.data.download import Progress
from minigpt.data.formats import DataFile
from minigpt.data.sources import (
    DataSet,
    SourceFile,
    fetch_file,
    find_file,
    find_source,
    is_here,
    is_set,
    load_sources,
    places,
)
from minigpt.support.errors import ConfigError, MinigptError
from minigpt.support.files import atomic_write, check_writable, sha256_file

OUTPUTS = ("train.jsonl", "validation.jsonl", "datasheet.md")


@dataclass(frozen=True)
class ListSources:
    """List public data sets with a clear license, or show all about those that are named."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Data sets to show with license, citation and files."""
    task: str = ""
    """Only those for one task, such as translation."""


@dataclass(frozen=True)
class Download:
    """Download data sets, check size and SHA-256, and keep them in the cache."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Data sets to get; data list shows them."""


@dataclass(frozen=True)
class Verify:
    """Check the bytes of downloaded files against their SHA-256."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Data sets to check; none: all that are here."""


@dataclass(frozen=True)
class Prepare:
    """Clean texts, remove repeats, split, and write train.jsonl, validation.jsonl, datasheet.md."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders, patterns in quotes, archives, or the name of one downloaded data set."""
    out: Path
    """Folder to write to."""
    overwrite: bool = False
    """Replace what an earlier run wrote into that folder."""
    cleaning: CleanConfig = field(default_factory=CleanConfig)


ACTIONS = {"list": ListSources, "download": Download, "verify": Verify, "prepare": Prepare}


def main(words: list[str]) -> int:
    """Run one of the actions."""
    if not words or words[0] not in ACTIONS:
        choices = "|".join(ACTIONS)
        if words and words[0] in ("-h", "--help"):
            print(f"usage: python -m minigpt data {choices} [options]; each has its --help")
            return 0
        what = f"no action {words[0]!r}" if words else "no action given"
        raise ConfigError(what, "data", f"write data {choices}")
    action = words[0]
    command = parse(ACTIONS[action], f"data {action}", words[1:])
    return {"list": show, "download": get, "verify": verify, "prepare": prepare}[action](command)


# --- public data ---


def show(command: ListSources) -> int:
    """Print a table of the data sets, or everything about some."""
    if command.names:
        for name in command.names:
            describe(find_source(name))
        return 0
    sources = [s for s in load_sources().values() if command.task in ("", s.task)]
    if not sources:
        tasks = ", ".join(sorted({source.task for source in load_sources().values()}))
        raise ConfigError(f"no data set for {command.task!r}", "--task", f"choose from {tasks}")
    print(f"{'name':<18}{'task':<20}{'language':<10}{'MB':>6}  here  license")
    for source in sources:
        here = "yes" if is_here(source) else "-"
        language = source.language if len(source.language) < 10 else "many"
        size = f"{source.bytes / 1e6:.1f}"
        row = f"{source.name:<18}{source.task:<20}{language:<10}{size:>6}  {here:<6}"
        print(row + source.license)
    print("data list NAME shows more; data download NAME gets one; each keeps its own license")
    return 0


def describe(source: DataSet) -> None:
    """Print everything about one data set."""
    print(f"{source.name}: {source.title} ({source.task}, {source.language})")
    print(f"  license  {source.license}")
    print(f"  stated   {source.license_stated}")
    print(f"  cite     {source.citation}")
    print(f"  format   {source.format} {', '.join(source.fields)}".rstrip())
    for file in source.files:
        print(f"  {file.path}  {file.bytes:,} bytes  {file.split}".rstrip())
        print(f"    {file.url}\n    SHA-256 {file.sha256}")


def get(command: Download) -> int:
    """Download what is named; go on after a failure, and exit 1 if there was one."""
    sources = [find_source(name) for name in command.names]
    if not sources:
        raise ConfigError("no data set named", "data download", "see the names with: data list")
    failed = 0
    for source in sources:
        for file in source.files:
            try:
                print(f"{file.path}: {get_file(file)}")
            except MinigptError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
        print(f"{source.name}: license {source.license}; cite: {source.citation}")
    if failed:
        print(f"{failed} files could not be downloaded", file=sys.stderr)
    return 1 if failed else 0


def get_file(file: SourceFile) -> Path:
    """Return a verified copy of a file, with a bar while it is on its way."""
    if found := find_file(file):
        return found
    with tqdm(desc=file.path, total=file.bytes, unit="B", unit_scale=True, leave=False) as bar:
        return fetch_file(file, progress_to(bar))


def progress_to(bar: tqdm) -> Progress:
    """Return a function that moves a bar."""

    def move(done: int, total: int) -> None:
        bar.update(done - bar.n)

    return move


def verify(command: Verify) -> int:
    """Print one line for each file; exit 1 if one is damaged, or missing though it was named."""
    sources = [find_source(name) for name in command.names] or list(load_sources().values())
    checked = bad = 0
    for file in (file for source in sources for file in source.files):
        present = [path for path in places(file) if path.is_file()]
        if not present and not command.names:
            continue
        checked += 1
        found = find_file(file)
        state = "ok" if found else "DAMAGED" if present else "missing"
        bad += found is None
        print(f"{state:<8} {found or (present or places(file))[-1]}")
    if not checked:
        print("nothing is here yet: data download NAME gets a data set")
    if bad:
        print(f"{bad} of {checked} files are not right: data download gets them", file=sys.stderr)
    return 1 if bad else 0


# --- text of one's own ---


def prepare(command: Prepare) -> int:
    """Clean, remove repeats, split, write, and print what each step removed."""
    files, config, source = choose(command)
    check_out(command, files)
    watch = functools.partial(tqdm, desc="comparing", unit=" documents", leave=False)
    cleaned = clean_files(files, config, watch)
    sheet = datasheet(cleaned, config, files, source)
    command.out.mkdir(parents=True, exist_ok=True)
    contents = (to_lines(cleaned.train), to_lines(cleaned.validation), sheet)
    for name, content in zip(OUTPUTS, contents, strict=True):
        atomic_write(command.out / name, content)
    print("\n".join(step_rows(cleaned)))
    print(f"{len(cleaned.train):,} documents to train on, {len(cleaned.validation):,} to validate")
    print(f"written to {command.out}: {', '.join(OUTPUTS)}")
    return 0


def choose(command: Prepare) -> tuple[list[DataFile], CleanConfig, DataSet | None]:
    """Return the files to read and how: those of a data set, or those of the paths given."""
    words = command.paths
    if not words:
        raise ConfigError("no files given", "data prepare", "give files, folders or a data set")
    source = find_source(words[0]) if len(words) == 1 and is_set(words[0]) else None
    config = known_config(source, command.cleaning) if source else command.cleaning
    return find_files(words), config, source


def known_config(source: DataSet, given: CleanConfig) -> CleanConfig:
    """Return the settings with what is known of a data set in place of the defaults."""
    known = {"field": source.text_fields, "separator": source.separator}
    default = CleanConfig()
    free = {name for name in known if getattr(given, name) == getattr(default, name)}
    return dataclasses.replace(given, **{name: known[name] for name in free if known[name]})


def check_out(command: Prepare, files: list[DataFile]) -> None:
    """Raise ConfigError where writing would harm other files, or what is read."""
    out = command.out
    check_writable(out)
    inputs = [Path(word) for word in command.paths if Path(word).is_dir()]
    if any(out.resolve().is_relative_to(folder.resolve()) for folder in inputs):
        what = "--out lies in a folder that is read"
        raise ConfigError(what, str(out), "choose a folder beside it, or the next run reads both")
    written = [out / name for name in OUTPUTS if (out / name).exists()]
    if any(
        path.resolve() in [other.resolve() for other in written]
        for path in [file.path for file in files]
    ):
        raise ConfigError("a file is read and written", str(out), "choose another --out")
    if written and not command.overwrite:
        remedy = "choose another --out, or replace it with --overwrite"
        raise ConfigError(f"{written[0].name} is already there", str(out), remedy)


def step_rows(cleaned: Cleaned) -> list[str]:
    """Return a table of the steps: what each one left, and what it removed."""
    rows = [f"{'step':<32}{'documents':>12}{'characters':>14}{'removed':>10}"]
    for before, step in zip([cleaned.steps[0], *cleaned.steps], cleaned.steps, strict=False):
        row = f"{step.name:<32}{step.documents:>12,}{step.characters:>14,}"
        row += f"{before.documents - step.documents:>10,}"
        rows.append(row + (f"  ({step.changed:,} changed)" if step.changed else ""))
    counts = cleaned.counts
    if counts.skipped or counts.replaced:
        rows.append(f"{counts.skipped} bad records skipped, {counts.replaced} bytes replaced")
    return rows


def datasheet(
    cleaned: Cleaned, config: CleanConfig, data: list[DataFile], source: DataSet | None
) -> str:
    """Return a page that says where the data come from and what was done to them."""
    origin = "Files of the user's own; their license is not known to this tool."
    if source:
        origin = f"{source.title} (`{source.name}`). {source.citation}\n\n"
        origin += f"License: {source.license}. {source.license_stated}"
    paths = [file.path for file in data]
    files = "\n".join(f"- `{p.name}`, {p.stat().st_size:,} bytes, {sha256_file(p)}" for p in paths)
    settings = "\n".join(f"- {k}: {v!r}" for k, v in dataclasses.asdict(config).items())
    sides = (cleaned.train, cleaned.validation)
    hashes = [hashlib.sha256(to_lines(side).encode("utf-8")).hexdigest() for side in sides]
    results = "\n".join(
        f"- `{name}`, {len(side):,} documents, {sha256}"
        for name, side, sha256 in zip(OUTPUTS, sides, hashes, strict=False)
    )
    steps = "\n".join(step_rows(cleaned))
    return (
        f"# Datasheet\n\n{origin}\n\n## Read (with SHA-256)\n\n{files}\n\n"
        f"## Settings\n\n{settings}\n\n## Steps\n\n```\n{steps}\n```\n\n"
        f"## Written (with SHA-256)\n\n{results}\n\n"
        f"{cleaned.overlap:.1%} of the validation text stands, line by line, in the training text "
        "too.\n"
    )
