"""Runs that go wrong, and data that must not leak: nothing half-written, no patient's data in any output."""

from __future__ import annotations

import csv
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from radtransfer import cli
from radtransfer.cache import VARIABLE as CACHE
from radtransfer.datasets.phantoms import draw, make_phantoms
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.preprocess.store import Store
from tests.preprocess.test_dicom import dicom

PHANTOMS = """
name: n
target_layout: phantoms
target_path: ph
target_part: hand
source_layout: phantoms
source_path: ph
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_phantoms(root / "ph", 40, ("hand", "knee"), size=80, seed=2)
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    asked = [
        f"--{side}-{key}={value}"
        for side in ("target", "source")
        for key, value in (("layout", "phantoms"), ("path", "ph"))
    ]
    outputs = ["--target-out", str(out / "target"), "--source-out", str(out / "source")]
    return [
        "preprocess",
        "--data-root",
        str(root),
        *asked,
        "--target-part",
        "hand",
        "--image-size",
        "512",
        *outputs,
        *more,
    ]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    code = "from radtransfer.cli import main; main()"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=pipe, stderr=pipe, text=True)


def test_a_run_killed_while_it_decodes_leaves_no_store_and_the_next_one_cleans_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    out = tmp_path / "out"
    with started(command(root, out)) as process:
        end = time.monotonic() + 60
        while not any(path.is_file() for path in tmp_path.glob("cache/decoded/*/*")) and time.monotonic() < end:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert {path.name.partition("-")[0] for path in out.iterdir() if path.is_dir()} == {
        ".source.partial",
        ".target.partial",
    }
    with started(command(root, out)) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sorted(path.name for path in out.iterdir()) == ["source", "target"]
    assert not list((tmp_path / "cache/decoded").iterdir())
    assert len(Store.open(out / "target").images) == 40


def test_of_two_runs_that_write_the_same_stores_one_wins_whole(root: Path, tmp_path: Path) -> None:
    with started(command(root, tmp_path, "--seed=1")) as first, started(command(root, tmp_path, "--seed=2")) as second:
        said = [process.communicate(timeout=120)[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 2], said
    loser = said[codes.index(2)]
    assert "another process is writing it" in loser or "already exists" in loser
    assert "Traceback" not in loser and len(loser.splitlines()) == 1
    seeds = {Store.open(tmp_path / role).artifact.made["settings"]["seed"] for role in ("target", "source")}
    assert seeds == {codes.index(0) + 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_full_disk_and_a_read_only_one_stop_a_run_in_one_line(root: Path, small_disk: Path) -> None:
    for words in ("the disk is full (No space left on device), nothing was kept", "Read-only file system"):
        with started(command(root, small_disk)) as process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 2 and words in said and f"{small_disk}/" in said
        assert "Traceback" not in said and list(small_disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)


IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientAge",
    "PatientSex",
    "PatientAddress",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientMotherBirthName",
    "PatientTelephoneNumbers",
    "PatientComments",
    "AdditionalPatientHistory",
    "MedicalRecordLocator",
    "MilitaryRank",
    "EthnicGroup",
    "Occupation",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "ImageComments",
    "RequestedProcedureDescription",
    "AdmissionID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)


def marked(number: int) -> dict[str, str]:
    """A value for each of :data:`IDENTIFYING` that stands nowhere else, in the form that its kind of value asks for."""
    values = {}
    for place, name in enumerate(IDENTIFYING):
        own = 100 * number + place
        values[name] = {
            "DA": f"19{own % 90 + 10}{own // 90 % 12 + 1:02d}{own // 1080 % 28 + 1:02d}",
            "TM": f"235{own % 10}{own % 60:02d}.{own:06d}",
            "DT": f"1931020304{own % 60:02d}07.{own:06d}",
            "AS": f"{own % 900 + 100}Y",
            "UI": f"1.2.826.7.{7_000_000 + own}",
            "CS": f"ZQ{own:06d}",
        }.get(dictionary_VR(tag_for_keyword(name)), f"Zq{own:06d}x")
    return values


def identifying(place: Path) -> set[str]:
    """Make a data set of DICOM files, sound and damaged, whose every identifying text is one of those returned."""
    secrets: set[str] = set()
    place.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(60):
        part, label = ("hand", "knee")[number % 2], number // 2 % 2
        pixels, _ = draw(part, bool(label), 0.3, 64, anatomy_seed=(5, number), view_seed=(5, number, 0))
        tags = marked(number)
        path = dicom(place / f"Zqfile{number:04d}.dcm", pixels, **tags)
        dataset = pydicom.dcmread(path)
        private = dataset.private_block(0x0029, "ZQPRIVATE", create=True)
        private.add_new(1, "LO", f"Zqprivate{number:04d}")
        dataset.BurnedInAnnotation = "YES" if number == 40 else "NO"
        if number == 41:
            dataset.BitsStored = 99
        if number == 42:
            del dataset.PixelData
        dataset.save_as(path)
        if number == 43:
            path.write_bytes(path.read_bytes()[:-900])
        # Three digits of an age, or a date of digits alone, could stand in any figure.
        secrets |= {value for name, value in tags.items() if name != "PatientAge" and not value.isdigit()}
        secrets |= {value for value in tags.values() if value.isdigit() and len(value) == 8}
        secrets |= {f"Zqprivate{number:04d}", path.stem, f"Zqpid{number:04d}", f"Zqstudy{number:04d}", "ZQPRIVATE"}
        rows.append(
            {
                "path": path.name, "finding": ("normal", "fracture")[label], "region": part,
                "pid": f"Zqpid{number:04d}", "accession": f"Zqstudy{number:04d}",
            }
        )  # fmt: skip
    rows[44]["finding"] = "unsure"
    with (place / "labels.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return secrets


def left_in(out: Path) -> dict[str, str]:
    """Names and contents of all files below a folder."""
    names = {f"name of {path.name}": str(path.relative_to(out)) for path in out.rglob("*")}
    return names | {str(path): path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()}


def found(secrets: set[str], everything: dict[str, str]) -> list[tuple[str, str]]:
    """Where which of the texts stands."""
    lowered = {where: text.lower() for where, text in everything.items()}
    return [(where, secret) for where, text in lowered.items() for secret in secrets if secret.lower() in text]


def columns() -> str:
    """What the table of :func:`identifying` holds, as a configuration says it."""
    return (
        "{table: labels.csv, file: path, label: finding, positive: [fracture], negative: [normal], body_part: region, "
        "patient: pid, study: accession}"
    )


def test_nothing_of_a_patient_is_in_any_output(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every identifying tag, table cell and file name holds text of its own, which is looked for in all outputs."""
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    caplog.set_level(logging.DEBUG)
    data = tmp_path / "data"
    secrets = identifying(data / "own")
    config = tmp_path / "run.yaml"
    sides = "".join(
        f"{side}_layout: table\n{side}_path: own\n{side}_table: {columns()}\n" for side in ("target", "source")
    )
    config.write_text(f"name: n\ntarget_part: hand\n{sides}")
    out = tmp_path / "out"
    outputs = ["--target-out", str(out / "target"), "--source-out", str(out / "source")]
    tables = [
        f"--{side}-{key}={value}"
        for side in ("target", "source")
        for key, value in (("layout", "table"), ("path", "own"), ("table", columns()))
    ]
    step = ["preprocess", "--data-root", str(data), *tables, "--target-part", "hand", "--image-size", "48"]
    check = ["datasets", "check", "--config", str(config), "--data-root", str(data), "--out", str(out / "report")]
    fails = [
        [*step, *outputs, "--on-problem", f"{problem}=fail"] for problem in ("burnt_in_text", "unreadable", "unplaced")
    ]
    wrong = [*step, *outputs, "--max-images", "2"]
    capfd.readouterr()
    for arguments, code in (*((one, 2) for one in fails), (wrong, 2), ([*step, *outputs], 0), (check, 0)):
        monkeypatch.setattr(sys, "argv", ["radtransfer", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert int(stopped.value.code or 0) == code, arguments
    said = capfd.readouterr()
    everything = {"stdout": said.out, "stderr": said.err, "log": caplog.text}
    stores = [Store.open(out / role) for role in ("target", "source")]
    for store in stores:
        everything[f"manifest of {store.content['role']}"] = store.manifest.to_csv()  # Parquet packs its columns
    everything |= left_in(out)
    assert not found(secrets, everything)
    assert str(data) not in "".join(text for where, text in everything.items() if where.startswith(str(out)))
    rejected = {one["problem"] for store in stores for one in store.content["rejected"]}
    assert rejected == {"burnt_in_text", "unreadable", "unplaced"}
    assert sum(store.content["files_found"] for store in stores) == 60
    assert "with the problem 'burnt_in_text'" in said.err
    assert pd.concat([store.manifest for store in stores])["patient_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert np.all([store.images.any() for store in stores])
