"""``REGISTRY#NAME@VERSION``: a version where else a folder is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from radtransfer import artifacts
from radtransfer.configfile import load
from radtransfer.errors import RadtransferError
from radtransfer.registry.champion import promote
from radtransfer.registry.entry import enter
from radtransfer.registry.references import Reference, located
from radtransfer.registry.versions import Registry
from radtransfer.training.control import extra_steps
from tests.registry.tiny import entered, tiny_bundle, tiny_pretrained

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("runs/hand/bundle", None),
        ("runs/hand#2", None),
        ("registry#hand@3", ("registry", "hand", 3)),
        ("/a#b/registry#hand@newest", ("/a#b/registry", "hand", "newest")),
        ("s3://bucket/a/b#hand-pretrained@champion", ("s3://bucket/a/b", "hand-pretrained", "champion")),
    ],
)
def test_a_folder_or_a_version(text: str, found: tuple[str, str, int | str] | None) -> None:
    reference = Reference.parse(text)
    assert (reference and (reference.registry, reference.name, reference.version)) == found


@pytest.mark.parametrize(
    "text", ["s3://bucket/a", "s3://bucket/a#hand", "s3://bucket/a#hand@0", "s3://bucket/a#Hand@1"]
)
def test_an_address_without_a_version_is_refused(text: str) -> None:
    with pytest.raises(RadtransferError, match="expected a folder, or REGISTRY#NAME@VERSION"):
        Reference.parse(text)


def test_a_folder_of_that_very_name_is_meant(tmp_path: Path) -> None:
    (tmp_path / "odd#name@1").mkdir()
    assert Reference.parse(str(tmp_path / "odd#name@1")) is None


def test_a_version_is_had_as_it_was_entered(registry: Registry, where: str, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    for which, mark in (("champion", "a"), ("newest", "b"), ("2", "b")):
        with located(f"{where}#tiny@{which}", "bundle") as folder:
            found = artifacts.read(folder, "bundle", verify=True)
            assert found.digest == artifacts.read(tmp_path / f"bundle-{mark}", "bundle").digest
            assert (folder / "MODEL_CARD.md").read_text() == f"# tiny {mark}\n"
    with (
        pytest.raises(RadtransferError, match=r"tiny@2 is of kind 'bundle', expected 'pretrained'"),
        located(f"{where}#tiny@2", "pretrained"),
    ):
        pass


def test_what_was_changed_in_the_storage_is_refused_and_not_kept(
    registry: Registry, where: str, tmp_path: Path
) -> None:
    """In S3 a changed object has an entity tag of its own, which agrees with it: only the version knows better."""
    (version,) = entered(registry, tmp_path, "a")
    key = f"{version.folder}models/weights"
    found = registry.place.read(key)
    assert found is not None and registry.place.replace(key, bytes(reversed(found[0])), found[1])
    for _ in range(2):
        with (
            pytest.raises(RadtransferError, match=r"models/weights: its sha256 is not the recorded one"),
            located(f"{where}#tiny@1", "bundle"),
        ):
            pass
    changed = registry.place.read(key)
    assert changed is not None and registry.place.replace(key, found[0], changed[1])
    with located(f"{where}#tiny@1", "bundle") as folder:
        assert (folder / "models" / "weights").read_bytes() == found[0]


def test_from_a_bucket_it_is_fetched_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered(Registry.open(bucket, write=True), tmp_path, "a")
    fetched: list[str] = []
    append = "radtransfer.storage.Bucket._append"
    from radtransfer.storage import Bucket

    its = Bucket._append
    monkeypatch.setattr(append, lambda self, wanted, out: (fetched.append(wanted.key), its(self, wanted, out))[1])
    for _ in range(2):
        with located(f"{bucket}#tiny@1", "bundle") as folder:
            artifacts.read(folder, "bundle", verify=True)
    assert len(fetched) == 3


def test_pre_trained_models_are_taken_up_from_a_registry(registry: Registry, where: str, tmp_path: Path) -> None:
    models = [
        tiny_pretrained(tmp_path / name, name, planned_steps=steps, source_steps=steps)
        for name, steps in (("b1", 40), ("b2", 50))
    ]
    enter(registry, tiny_bundle(tmp_path / "bundle"), models)
    reference = f"{where}#tiny-pretrained@1"
    given = {"images": 1, "batch_size": 2, "epochs": 3}
    assert extra_steps("imagenet", "b2", reference, **given) == 50
    with located(reference, "pretrained") as folder:
        assert artifacts.read(folder / "b1", "model", verify=True).digest == artifacts.read(models[0], "model").digest
    with pytest.raises(RadtransferError, match=r"pretrained@1|b3: expected an artifact of kind 'model'"):
        extra_steps("imagenet", "b3", reference, **given)


def test_a_configuration_names_the_number_of_pre_trained_models() -> None:
    """`newest` would mean other models to the second backbone, or tomorrow."""
    assert load(CONFIG, ["pretrained_models=registry#hand-pretrained@2"]).pretrained_models.endswith("@2")
    with pytest.raises(RadtransferError, match=r"pretrained_models: .*expected the number of a version"):
        load(CONFIG, ["pretrained_models=registry#hand-pretrained@newest"])
    with pytest.raises(RadtransferError, match=r"pretrained_models: .*REGISTRY#NAME@VERSION"):
        load(CONFIG, ["pretrained_models=s3://bucket/registry"])
