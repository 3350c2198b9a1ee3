"""What docs/tutorial.md says, on a made export: DICOM files of phantoms and a table."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import AllTransferSyntaxes
from typer.main import get_command

from radtransfer.cli import app
from radtransfer.configfile import load
from radtransfer.datasets import phantoms
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.preprocess.dicom import readable
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store
from tests.preprocess.test_dicom import dicom

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def export(root: Path) -> set[str]:
    """``hospital/`` as the tutorial has it: DICOM files with names, and a table with ids as text; returns the ids."""
    phantoms.make_phantoms(root / "ph", 60, ("humerus", "knee"), size=96, seed=3)
    (root / "hospital" / "images").mkdir(parents=True)
    rows = []
    with (root / "ph" / phantoms.TABLE).open(newline="", encoding="utf-8") as stream:
        drawn = [row for row in csv.DictReader(stream) if row["part"] == "humerus"]
    patients = {name: f"00{71000 + 7 * k}" for k, name in enumerate(sorted({row["patient"] for row in drawn}))}
    for number, row in enumerate(drawn):
        pixels = np.asarray(Image.open(root / "ph" / row["file"])).astype(np.uint16) * 16
        file = f"images/{number:04d}.dcm"
        tags = {"PatientID": patients[row["patient"]], "BitsStored": 12, "HighBit": 11, "Modality": "DX"}
        dicom(root / "hospital" / file, pixels, PhotometricInterpretation="MONOCHROME1", **tags)
        finding = "fracture" if row["label"] == "fractured" else "no fracture"
        rows.append([file, finding, patients[row["patient"]], f"A-{row['study']}"])
    with (root / "hospital" / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "finding", "patient", "accession"])
        table.writerows(rows)
    return {cell for row in rows for cell in row[2:]}


def test_the_configuration_reads_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    text = TUTORIAL.read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    (tmp_path / "hospital.yaml").write_text(block[1], encoding="utf-8")
    config = load(tmp_path / "hospital.yaml")
    ids = export(tmp_path / "data")
    data = config.model_dump(include={"target_layout", "target_path", "target_part", "target_table", "image_size"})
    preprocess(
        data_root=tmp_path / "data", source_layout="phantoms", source_path="ph", source_parts=["knee"],
        test_fraction=0.2, validation_fraction=0.2, max_images=0, seed=0,
        target_out=tmp_path / "target", source_out=tmp_path / "source", **data,
    )  # fmt: skip
    store = Store.open(tmp_path / "target")
    assert len(store.manifest) == 60 and store.content["grouping"] == "patient" and not store.content["rejected"]
    assert store.content["classes"] == {"0": "no fracture", "1": "fracture"}
    assert store.content["flags"] == {"dicom": 60, "inverted": 60}
    written = b"".join(path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file())
    assert len(ids) > 20 and not any(word.encode() in written for word in (*ids, "Secret"))


def test_every_command_of_the_tutorial_is_there() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    found = re.findall(r"radtransfer ([\w-]+)(?: ([a-z]+))?", TUTORIAL.read_text(encoding="utf-8"))
    assert len(found) >= 5
    for command, sub in found:
        assert command in commands, command
        if command == "datasets":
            assert sub in commands["datasets"].commands, sub


def test_the_transfer_syntaxes_of_the_tutorial_are_those_that_are_read() -> None:
    line = TUTORIAL.read_text(encoding="utf-8").partition("transfer syntaxes `")[2].partition("Others")[0]
    named, before = set(), ""
    for number in re.findall(r"[.\d]+(?=`)", line):  # .51 follows 1.2.840.10008.1.2.4.50
        before = number if number.startswith("1") else before.rpartition(".")[0] + number
        named.add(before)
    assert named == {str(syntax) for syntax in AllTransferSyntaxes if readable(syntax)}
