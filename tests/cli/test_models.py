"""``radtransfer models``, and ``predict`` of a version: what they print, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from radtransfer import artifacts, cli
from radtransfer.registry.predict import Prediction
from tests.registry.tiny import tiny_bundle, tiny_pretrained

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def invoke(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["radtransfer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return invoke


@pytest.fixture
def registry(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With three versions of one model; the pre-trained models of the first are there too."""
    where = tmp_path / "registry"
    monkeypatch.setenv("RADTRANSFER_REGISTRY", str(where))
    before = tiny_pretrained(tmp_path / "pretrained" / "b1", "b1")
    bundles = [tiny_bundle(tmp_path / "a", "a", [before]), *(tiny_bundle(tmp_path / mark, mark) for mark in "bc")]
    assert call("models", "add", bundles[0], "--pretrained", tmp_path / "pretrained") == (0, "tiny@1\n", "")
    assert [call("models", "add", bundle)[1] for bundle in bundles[1:]] == ["tiny@2\n", "tiny@3\n"]
    return where


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_list_shows_versions_in_order_and_the_champion(registry: Path, call: Call) -> None:
    call("models", "promote", "tiny@2", "--why", "first")
    code, out, _ = call("models", "list")
    assert code == 0
    assert [
        (row["name"], row["version"], row["kind"], row["champion"], row["auroc"], row["data"]) for row in rows(out)
    ] == [
        ("tiny", "1", "bundle", "", "0.8125", "r1"),
        ("tiny", "2", "bundle", "yes", "0.8125", "r1"),
        ("tiny", "3", "bundle", "", "0.8125", "r1"),
        ("tiny-pretrained", "1", "pretrained", "", "", "r1"),
    ]
    assert [row["name"] for row in rows(call("models", "list", "tiny-pretrained")[1])] == ["tiny-pretrained"]


def test_show_answers_from_the_registry_alone(registry: Path, tmp_path: Path, call: Call) -> None:
    """Which images, which code, which configuration, which parents, which figures."""
    call("models", "promote", "tiny@1", "--why", "first", "--figures", '{"auroc": 0.81}', "--by", "mary")
    digest = artifacts.read(tmp_path / "pretrained" / "b1", "model").digest
    for name in ("a", "b", "c"):
        (tmp_path / name).rename(tmp_path / f"gone-{name}")
    code, out, _ = call("models", "show", "tiny@champion", "--format", "json")
    said = json.loads(out)
    assert code == 0 and yaml.safe_load(call("models", "show", "tiny@1")[1]) == said
    assert (
        said["data"]["counts"] == {"test": {"normal": 7, "fractured": 2}} and said["data"]["origin"]["revision"] == "r1"
    )
    assert said["code"] == ["0.1.0+made"] and said["configuration"] == {"seed": 3}
    assert said["parents"] == [{"name": "tiny-pretrained", "number": 1, "models": {"b1": digest}}]
    assert said["metrics"]["auroc"] == {"value": 0.8125, "low": 0.7, "high": 0.9}
    assert said["champion"] is True
    (decision,) = said["decisions"]
    assert (decision["by"], decision["why"], decision["figures"]) == ("mary", "first", {"auroc": 0.81})
    assert (Path(said["at"]) / "bundle.json").is_file()
    assert json.loads(call("models", "show", "tiny", "--format", "json")[1])["number"] == 3


def test_promote_rollback_and_history(registry: Path, call: Call) -> None:
    assert call("models", "promote", "tiny@1", "--why", "first")[1] == "tiny@1 is champion\n"
    assert call("models", "promote", "tiny@newest", "--why", "better", "--instead-of", 1)[1] == "tiny@3 is champion\n"
    assert call("models", "rollback", "tiny", "--why", "alarm")[1] == "tiny@1 is champion\n"
    history = yaml.safe_load(call("models", "history", "tiny")[1])
    assert [(each["action"], each["version"], each["why"]) for each in history] == [
        ("promote", 1, "first"), ("promote", 3, "better"), ("rollback", 1, "alarm")
    ]  # fmt: skip


def test_verify_names_what_is_not_whole_with_exit_code_1(registry: Path, call: Call) -> None:
    assert call("models", "verify") == (
        0, "tiny@1: whole\ntiny@2: whole\ntiny@3: whole\ntiny-pretrained@1: whole\n", ""
    )  # fmt: skip
    call("models", "promote", "tiny@1", "--why", "first")
    version = json.loads((registry / "versions/tiny/000002.json").read_text())["content"]
    path = registry / "files/tiny" / version["id"] / "MODEL_CARD.md"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tinY"))
    code, out, err = call("models", "verify", "tiny")
    assert code == 1 and "tiny@1: whole" in out and "tiny@2" not in out
    assert "MODEL_CARD.md: its sha256 is not the recorded one" in err
    assert call("models", "verify", "tiny@3") == (0, "tiny@3: whole\n", "")
    (registry / "versions/tiny/000001.json").unlink()
    code, _, err = call("models", "verify", "tiny")
    assert code == 1 and "the champion of tiny is version 1, which is not there" in err


def test_gc_says_what_it_does(registry: Path, call: Call) -> None:
    call("models", "promote", "tiny@1", "--why", "first")
    code, out, err = call("models", "gc", "--keep", 1, "--days", 0, "--dry-run")
    assert code == 0 and [(row["state"], row["version"], row["why"]) for row in rows(out)] == [
        ("kept", "1", "champion"),
        ("would be removed", "2", "old"),
        ("kept", "3", "one of the newest 1"),
        ("kept", "1", "one of the newest 1"),
    ]
    assert err.endswith(" bytes would be freed\n") and not err.startswith("0 ")
    assert [row["state"] for row in rows(call("models", "gc", "--keep", 1, "--days", 0)[1])][1] == "removed"
    assert [row["version"] for row in rows(call("models", "list", "tiny")[1])] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "tiny@9"], "there is no tiny@9; there is version 1 to 3"),
        (["show", "tiny@best"], "'tiny@best': expected NAME or NAME@VERSION"),
        (["show", "../tiny"], "'../tiny': expected NAME or NAME@VERSION"),
        (["show", "tiny@champion"], "tiny has no champion"),
        (["list", "tyni"], "there is no model 'tyni'"),
        (["verify", "tyni"], "there is no model 'tyni'"),
        (["promote", "tiny@1", "--why", ""], "a decision needs its reason"),
        (["promote", "tiny@1", "--why", "w", "--figures", "0.8"], "--figures 0.8: expected an object"),
        (["promote", "tiny@1", "--why", "w", "--figures", "{"], "--figures {: not JSON"),
        (["promote", "tiny@1", "--why", "w", "--figures", '{"a": NaN}'], "NaN is no number of JSON"),
        (["rollback", "tiny", "--why", "w"], "tiny has no champion before the present one"),
        (["list", "--registry", "nowhere"], "nowhere: there is no model registry"),
        (["list", "--registry", "https://host/x"], "expected a folder, or s3://BUCKET/PREFIX"),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(registry: Path, call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call("models", *arguments)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_a_version_that_exists_is_not_entered_twice(registry: Path, tmp_path: Path, call: Call) -> None:
    code, _, err = call("models", "add", tmp_path / "b")
    assert code == 2 and f"is tiny@2 of {registry} already, entered 20" in err and "a version never changes" in err
    assert len(rows(call("models", "list", "tiny")[1])) == 3


def test_predict_takes_a_version(registry: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = []

    def predict(bundle: Path, images: list[Path], **_: Any) -> Iterator[Prediction]:
        cards.append((bundle / "MODEL_CARD.md").read_text())
        yield Prediction(images[0], 0.75, "abnormal")

    monkeypatch.setattr("radtransfer.registry.predict.predict", predict)
    call("models", "promote", "tiny@2", "--why", "first")
    for which in ("champion", "1"):
        code, out, _ = call("predict", "--bundle", f"{registry}#tiny@{which}", "x.png")
        assert code == 0 and out.splitlines()[1] == "x.png,0.750000,abnormal,,"
    assert cards == ["# tiny b\n", "# tiny a\n"]
    code, _, err = call("predict", "--bundle", f"{registry}#tiny@7", "x.png")
    assert code == 2 and "there is no tiny@7" in err
