"""Know files that are no text by their first bytes, and say what to do with each.

MAGIC is the one table of them. Whoever opens a file as text asks `foreign_kind` first.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

LONGEST = 16  # bytes that any entry looks at


class Kind(NamedTuple):
    """What a file is, and what its owner can do with it."""

    name: str
    remedy: str


ARCHIVE = "let its name end in {} so that it is unpacked"
TEXT = "give its text as a .txt, .jsonl or .csv file"
MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", Kind("a zip archive", ARCHIVE.format(".zip"))),
    (b"PK\x05\x06", Kind("an empty zip archive", "give an archive with files in it")),
    (b"\x1f\x8b", Kind("a gzip file", ARCHIVE.format(".gz"))),
    (b"BZh", Kind("a bzip2 file", ARCHIVE.format(".bz2"))),
    (b"\xfd7zXZ\x00", Kind("an xz file", ARCHIVE.format(".xz"))),
    (b"\x28\xb5\x2f\xfd", Kind("a zstd file", "unpack it first, with unzstd")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it first")),
    (b"Rar!", Kind("a RAR archive", "unpack it first")),
    (b"%PDF", Kind("a PDF file", "copy its text into a .txt file, or convert it with pdftotext")),
    (b"{\\rtf", Kind("a rich text file", "save it as plain text")),
    (b"\xd0\xcf\x11\xe0", Kind("an old Office file", "save it as CSV or as plain text")),
    (b"PAR1", Kind("a parquet file", "let its name end in .parquet")),
    (b"ARROW1", Kind("an arrow file", "let its name end in .arrow")),
    (b"SQLite format 3", Kind("an SQLite database", "export the table as CSV")),
    (b"\x89HDF", Kind("an HDF5 file", TEXT)),
    (b"\x93NUMPY", Kind("a numpy array", TEXT)),
    (b"\x80\x02", Kind("a pickle", TEXT)),
    (b"\x80\x03", Kind("a pickle", TEXT)),
    (b"\x80\x04\x95", Kind("a pickle", TEXT)),
    (b"\x80\x05\x95", Kind("a pickle", TEXT)),
    (b"GGUF", Kind("a model's weights (GGUF)", TEXT)),
    (b"\x89PNG", Kind("a picture", TEXT)),
    (b"\xff\xd8\xff", Kind("a picture", TEXT)),
    (b"GIF8", Kind("a picture", TEXT)),
    (b"RIFF", Kind("a sound or video file", TEXT)),
    (b"ID3", Kind("a sound file", TEXT)),
    (b"OggS", Kind("a sound file", TEXT)),
    (b"fLaC", Kind("a sound file", TEXT)),
    (b"\x7fELF", Kind("a program", TEXT)),
    (b"MZ\x90\x00", Kind("a program", TEXT)),
)
INSIDE_ZIP = {  # a name in it -> what it is
    "xl/workbook.xml": Kind("an Excel file", "save it as CSV"),
    "word/document.xml": Kind("a Word file", "save it as plain text (.txt)"),
    "ppt/presentation.xml": Kind("a PowerPoint file", "save its text as plain text (.txt)"),
    "META-INF/container.xml": Kind("an e-book (EPUB)", "convert it to plain text (.txt)"),
    "content.xml": Kind("an OpenDocument file", "save it as CSV or as plain text"),
}


def foreign_kind(path: Path, head: bytes) -> Kind | None:
    """Return what a file is whose first bytes are `head`, or None where it may be a text."""
    found = next((kind for magic, kind in MAGIC if head.startswith(magic)), None)
    return (office_kind(path) or found) if head.startswith(b"PK\x03\x04") else found


def office_kind(path: Path) -> Kind | None:
    """Return which document of an office a zip archive is, if it is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return None
    return next((kind for name, kind in INSIDE_ZIP.items() if name in names), None)
