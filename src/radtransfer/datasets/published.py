"""The published data sets: their pages, licences and citations, and the download of those that are on figshare.

Names, sizes and MD5 of the files are what figshare's API says when it is asked (https://docs.figshare.com); none are
written here, where they would age.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import urllib3

from radtransfer.artifacts import check_free, staged
from radtransfer.datasets.roots import clean
from radtransfer.errors import RadtransferError, near
from radtransfer.progress import track

API = "https://api.figshare.com/v2/articles"
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
MAX_RATIO = 20
"""How many times larger than their archive unpacked images may be; radiographs are packed already."""
MAX_ENTRIES = 1_000_000
BLOCK = 1 << 20


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: how the commands call it: its layout.
        title: its own name.
        folder: its folder below a data root, as in the configurations that come along.
        licence: the licence it is published under.
        citation: what to cite.
        page: where it is published.
        article: its number on figshare, where `fetch` gets it; 0: it is not there.
        by_hand: what to do where `fetch` cannot get it.
    """

    name: str
    title: str
    folder: str
    licence: str
    citation: str
    page: str
    article: int = 0
    by_hand: str = ""


SETS = {
    each.name: each
    for each in (
        Published(
            "fracatlas",
            "FracAtlas",
            "FracAtlas",
            "CC BY 4.0",
            "Abedeen et al., FracAtlas, Scientific Data 10 (2023), doi 10.1038/s41597-023-02432-4",
            "https://doi.org/10.6084/m9.figshare.22363012",
            article=22363012,
        ),
        Published(
            "grazpedwri",
            "GRAZPEDWRI-DX",
            "GRAZPEDWRI-DX",
            "CC BY 4.0",
            "Nagy et al., GRAZPEDWRI-DX, Scientific Data 9 (2022) 222, doi 10.1038/s41597-022-01328-z",
            "https://doi.org/10.6084/m9.figshare.14825193",
            article=14825193,
        ),
        Published(
            "iqothnccd",
            "IQ-OTH/NCCD",
            "IQ-OTHNCCD",
            "CC BY 4.0",
            "Alyasriy and AL-Huseiny, The IQ-OTH/NCCD lung cancer dataset, Mendeley Data, doi 10.17632/bhmdr45bh2",
            "https://doi.org/10.17632/bhmdr45bh2",
            by_hand="download all files from the page and unpack them, so that `Normal cases`, `Bengin cases` and "
            "`Malignant cases` lie in the folder",
        ),
        Published(
            "mura",
            "MURA v1.1",
            "MURA-v1.1",
            "Stanford's research use agreement: no commercial use, not to be passed on",
            "Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs, "
            "arXiv 1712.06957",
            "https://stanfordmlgroup.github.io/competitions/mura/",
            by_hand="register on the page, agree to the terms, and unpack the archive that you are sent, so that "
            "`train` and `valid` lie in the folder",
        ),
    )
}


@dataclass(frozen=True)
class Part:
    """A file of an article on figshare: name, bytes, MD5 and where it is."""

    name: str
    size: int
    md5: str
    url: str


def find(name: str) -> Published:
    """A published data set by its name.

    Raises:
        RadtransferError: there is none of that name.
    """
    if name not in SETS:
        raise RadtransferError(f"unknown published data set {name!r}; {near(name, SETS)}")
    return SETS[name]


def terms(layout: str) -> dict[str, str]:
    """Licence and citation of the data set that a layout is of; none of a layout for images of one's own."""
    known = SETS.get(layout)
    return {"licence": known.licence, "citation": known.citation} if known else {}


def parts(published: Published, api: str = API) -> list[Part]:
    """The files of a data set, as figshare lists them.

    Raises:
        RadtransferError: figshare does not answer, or not as it should.
    """
    url = f"{api}/{published.article}"
    try:
        with _answer(url, {}) as answer:
            text = answer.read(64 << 20)
        found = [
            Part(
                clean(str(each["name"]), url),
                int(each["size"]),
                str(each["supplied_md5"] or each["computed_md5"]),
                str(each["download_url"]),
            )
            for each in json.loads(text)["files"]
            if not each.get("is_link_only")
        ]
    except urllib3.exceptions.HTTPError as error:
        raise RadtransferError(f"{url}: cannot be reached ({error}); try later, or look at {published.page}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RadtransferError(f"{url}: not the answer that was expected ({type(error).__name__}: {error})") from None
    if not found or any("/" in part.name for part in found):
        raise RadtransferError(f"{url}: lists no files, or files in folders; look at {published.page}")
    return found


def fetch(published: Published, data_root: Path, api: str = API) -> Path:
    """Download a data set, check it and unpack it.

    What is downloaded lies in ``.<folder>.download`` until all is there, so that a download that broke off goes on.

    Args:
        published: a data set on figshare.
        data_root: folder to put it into, under its published name.
        api: URL of figshare's articles.

    Returns:
        The data set's folder.

    Raises:
        RadtransferError: it is there already, it is to be had by hand only, the download fails, a file has another
            size or MD5 than figshare says, or an archive is not safe to unpack.
    """
    final = data_root / published.folder
    check_free(final)
    if not published.article:
        raise RadtransferError(f"{published.title}: cannot be fetched; {published.by_hand}: {final}. {published.page}")
    listed = parts(published, api)
    downloads = data_root / f".{published.folder}.download"
    downloads.mkdir(parents=True, exist_ok=True)
    missing = sum(part.size for part in listed if not (downloads / part.name).exists())
    if missing > (free := shutil.disk_usage(downloads).free):
        raise RadtransferError(f"{downloads}: {missing} bytes are to be downloaded and {free} are free; make room")
    files = [_download(part, downloads / part.name) for part in listed]
    with staged(final) as staging:
        for path in files:
            if zipfile.is_zipfile(path):
                unpack(path, staging if path.stem == published.folder else staging / path.stem)
            else:
                shutil.copyfile(path, staging / path.name)
    shutil.rmtree(downloads)
    return final


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into a folder; a top folder that has the archive's own name is left out.

    Raises:
        RadtransferError: it is damaged, holds links, names that lead elsewhere or double names, or would unpack to more
            than :data:`MAX_RATIO` times its size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [each for each in opened.infolist() if not each.is_dir()]
            total, most = sum(each.file_size for each in entries), MAX_RATIO * archive.stat().st_size
            if not entries or total > most or len(entries) > MAX_ENTRIES:
                raise RadtransferError(
                    f"{archive.name}: {len(entries)} files of {total} bytes, expected at most {MAX_ENTRIES} of {most}"
                )
            topped = all(each.filename.startswith(f"{archive.stem}/") for each in entries)
            for each in track(entries, f"unpack {archive.name}", len(entries)):
                name = each.filename[len(archive.stem) + 1 :] if topped else each.filename
                if each.flag_bits & 1 or stat.S_IFMT(each.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise RadtransferError(
                        f"{archive.name}: {name!r} is encrypted, or no file; get the data set by hand"
                    )
                target = folder / clean(name, archive.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile reads no more than the size that counted above, and compares the CRC.
                with opened.open(each) as stream, target.open("xb") as out:
                    shutil.copyfileobj(stream, out, BLOCK)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        FileExistsError,
        NotADirectoryError,
    ) as error:
        raise RadtransferError(f"{archive.name}: cannot be unpacked ({error}); get the data set by hand") from None


def _download(part: Part, final: Path) -> Path:
    """Download a file, or the rest of it; its size and MD5 are as listed."""
    if final.exists():
        return final
    partial = final.with_name(f"{final.name}.part")
    with partial.open("ab") as out:
        for wait in (0.0, *WAITS):
            time.sleep(wait)
            try:
                _append(part, out)
                break
            except urllib3.exceptions.HTTPError as error:
                failed = error
        else:
            raise RadtransferError(
                f"{part.url}: broke off at {out.tell()} of {part.size} bytes ({failed}); start again to go on"
            )
    with partial.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    size = partial.stat().st_size
    if (size, found) != (part.size, part.md5):
        partial.unlink()
        raise RadtransferError(
            f"{part.url}: expected {part.size} bytes with MD5 {part.md5}, got {size} with {found}; start again"
        )
    partial.replace(final)
    return final


def _append(part: Part, out: IO[bytes]) -> None:
    """Append what is missing of a file, no more than its listed size."""
    at = out.seek(0, os.SEEK_END)
    if at >= part.size:
        return
    with _answer(part.url, {"Range": f"bytes={at}-"} if at else {}) as answer:
        if answer.status == 200:  # all of it, whatever was asked for
            at = out.truncate(0)
        while at < part.size and (block := answer.read1(min(BLOCK, part.size - at))):
            at += out.write(block)
        if at < part.size:
            raise urllib3.exceptions.ProtocolError("the answer ended early")
    out.flush()


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
    """A web server's answer, asked for again while it fails.

    Raises:
        RadtransferError: it refuses.
        urllib3.exceptions.HTTPError: it cannot be reached, or the answer breaks off.
    """
    patience = urllib3.Retry(total=len(WAITS), backoff_factor=WAITS[0], status_forcelist=(429, 500, 502, 503, 504))
    with urllib3.PoolManager(retries=patience, timeout=60) as pool:
        answer = pool.request("GET", url, headers=headers, preload_content=False)
        try:
            if answer.status not in (200, 206):
                raise RadtransferError(f"{url}: answered {answer.status} {answer.reason}; try later, or get it by hand")
            yield answer
        finally:
            answer.close()
