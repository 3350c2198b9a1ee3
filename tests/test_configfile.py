"""Entries of a configuration are changed and all else stays as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from radtransfer.configfile import change
from radtransfer.errors import RadtransferError

TEXT = """\
# A trial.
name: trial   # its name
threads:  2  # of 2

backbones: [a, b]  # threads: 7
on_problem:
  threads: 9
precision: "float32" # said so
"""


def test_values_change_and_comments_and_order_stay(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TEXT)
    path.chmod(0o640)
    change(path, {"threads": 4, "precision": "bfloat16"})
    assert path.read_text() == TEXT.replace("threads:  2", "threads:  4").replace('"float32"', "bfloat16")
    assert path.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1\n", "a: 1\nthreads: 4\n"),
        ("a: 1  # last", "a: 1  # last\nthreads: 4\n"),
        ("a: 1\r\nthreads: 2\r\n", "a: 1\r\nthreads: 4\r\n"),
        ("a: 1\r\n", "a: 1\r\nthreads: 4\r\n"),
        ("\ufeffthreads: 2\n", "\ufeffthreads: 4\n"),
        ("a: ü\nthreads: 16\nb: ü\n", "a: ü\nthreads: 4\nb: ü\n"),
    ],
)
def test_a_missing_value_is_added_and_line_ends_stay(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(before.encode())
    change(path, {"threads": 4})
    assert path.read_bytes().decode() == after
    assert yaml.safe_load(after.lstrip("\ufeff"))["threads"] == 4


def test_a_link_still_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("threads: 2\n")
    link = tmp_path / "link.yaml"
    link.symlink_to("real.yaml")
    change(link, {"threads": 3})
    assert link.is_symlink() and (tmp_path / "real.yaml").read_text() == "threads: 3\n"


@pytest.mark.parametrize(
    "text",
    [
        "{name: a}\n",
        "seed: &some 2\nthreads: *some\n",
        "seed: 1\n---\n",
        "name: a\n...\n",
    ],
)
def test_what_cannot_be_changed_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(RadtransferError, match=re.escape(str(path))):
        change(path, {"threads": 4})
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]
