"""The command line: light to start, named as the library is, and plain in its errors."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest

from radtransfer import cli
from radtransfer.cli import steps
from radtransfer.cli.explain import OF_FILES
from radtransfer.cli.explain import explain as explain_command
from radtransfer.config import RunConfig
from radtransfer.configfile import entries
from radtransfer.datasets.pseudonym import VARIABLE, Pseudonyms
from radtransfer.errors import RadtransferError
from radtransfer.registry.judge import Prediction
from radtransfer_pipelines.graph import SUBMISSION

STEPS = {
    "preprocess": "radtransfer.preprocess.run",
    "pretrain": "radtransfer.training.steps",
    "finetune": "radtransfer.training.steps",
    "extract": "radtransfer.fusion.extract",
    "fuse": "radtransfer.fusion.fuse",
    "classify": "radtransfer.fusion.classify",
    "stress": "radtransfer.robustness.stress",
    "evaluate": "radtransfer.evaluation.evaluate",
    "explain": "radtransfer.explain.run",
    "register": "radtransfer.registry.bundle",
    "report": "radtransfer.evaluation.report",
}
RENAMED = {"epochs": ("pretrain_epochs", "finetune_epochs"), "init": ("in_domain_init",)}
RENAMED |= {"extra_steps": ("equal_steps",)}  # none: the control is off


def radtransfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from radtransfer.cli import main; main()", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["predict", "--help"],
        ["explain", "--help"],
        ["submit", "--help"],
        ["no-such-command"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Counted in modules, not in seconds: torch alone costs several."""
    code = (
        "import sys, json\nfrom radtransfer.cli import main\n"
        f"sys.argv = ['radtransfer', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in loaded
    assert not loaded & {
        "torch",
        "timm",
        "kfp",
        "pandas",
        "numpy",
        "sklearn",
        "matplotlib",
        "scipy",
        "radtransfer_pipelines",
    }


def parameters_of(step: str) -> dict[str, inspect.Parameter]:
    """Those of a step's command; `explain` has others for image files."""
    command = explain_command if step == "explain" else getattr(steps, step)
    others = {"context", *OF_FILES} if step == "explain" else set()
    return {name: one for name, one in inspect.signature(command).parameters.items() if name not in others}


@pytest.mark.parametrize("step", sorted(STEPS))
def test_step_commands_take_what_the_library_takes(step: str) -> None:
    library = inspect.signature(getattr(importlib.import_module(STEPS[step]), step)).parameters
    assert set(parameters_of(step)) == set(library)


def test_defaults_are_those_of_a_configuration() -> None:
    for step in STEPS:
        for name, parameter in parameters_of(step).items():
            if parameter.default in (inspect.Parameter.empty, None):
                continue
            if name == "registry":  # not of the configuration, but of the submission
                assert parameter.default == SUBMISSION[name][1] == ""
                continue
            fields = [key for key in RENAMED.get(name, (name,)) if key in RunConfig.model_fields]
            if name == "images_per_outcome":
                fields = ["explain_images"]
            if name in ("epochs", "task", "boxes"):
                fields = [f"{step}_{name}"]
            assert fields, name
            assert RunConfig.model_fields[fields[0]].default == parameter.default, (step, name)


def test_what_the_user_can_put_right_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = radtransfer("fuse", "--features", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("radtransfer: error: ") and "nothing" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_path_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    run = ("run", "--data-root", str(tmp_path), "--out", str(tmp_path / "out"))
    done = radtransfer(*run, "--config", str(tmp_path))
    assert done.returncode == 2 and f"{tmp_path}: Is a directory" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "file").write_text("")
    done = radtransfer("datasets", "phantoms", "--out", str(tmp_path / "file" / "phantoms"))
    assert done.returncode == 2 and "Not a directory" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Typer answers it by itself, without a word."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("radtransfer.fusion.fuse.fuse", interrupted)
    assert invoke(monkeypatch, "fuse", "--features", "a", "--out", "b") == 130
    assert capsys.readouterr().err == (
        "radtransfer: interrupted; a `run` goes on where it was when it is started again\n"
    )


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for prediction: scores by file name, none for files named `broken`, `blank` and `far`."""
    asked: dict[str, Any] = {}
    far = "unlike the training images (distance 2.50, limit 1.50)"

    def predict(**keywords: Any) -> Iterator[Prediction]:
        asked.update(keywords)
        for image in keywords["images"]:
            match image.stem:
                case "refused":
                    raise RadtransferError("bundle: tampered with")
                case "broken":
                    yield Prediction(image, reason="cut off")
                case "blank":
                    yield Prediction(image, unfit="blank")
                case "far":
                    yield Prediction(image, 0.5, unfit=far, distance=2.5)
                case stem:
                    label: Literal["abnormal", "normal"] = "abnormal" if float(stem) > 0.4 else "normal"
                    yield Prediction(image, float(stem), label, distance=1.25)

    monkeypatch.setattr("radtransfer.registry.predict.predict", predict)
    return asked


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["radtransfer", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_predict_prints_one_row_an_image_in_order(
    predictor: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = invoke(monkeypatch, "predict", "--bundle", "b", "0.9.png", "a, b/0.123456789.dcm", "--format", "csv")
    assert code == 0
    assert capsys.readouterr().out == (
        "image,score,label,unfit,distance\n"
        "0.9.png,0.900000,abnormal,,1.250000\n"
        '"a, b/0.123456789.dcm",0.123457,normal,,1.250000\n'
    )
    assert predictor["bundle"] == Path("b") and predictor["explain_dir"] is None


def test_predict_leaves_out_no_image_that_it_could_not_read(
    predictor: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = invoke(monkeypatch, "predict", "--bundle", "b", "0.9.png", "broken.png", "0.1.png", "--explain", "e")
    said = capsys.readouterr()
    assert code == 1
    assert said.out.splitlines() == [
        "image,score,label,unfit,distance",
        "0.9.png,0.900000,abnormal,,1.250000",
        "broken.png,,,,",
        "0.1.png,0.100000,normal,,1.250000",
    ]
    assert "broken.png: cut off" in said.err and "unfit" not in said.err
    assert predictor["explain_dir"] == Path("e")


def test_predict_keeps_unfit_images_with_their_reasons_and_counts_them(
    predictor: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("blank.png", "0.9.png", "far.png", "a/blank.png")
    assert invoke(monkeypatch, "predict", "--bundle", "b", *given) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1:4] == [
        "blank.png,,,blank,",
        "0.9.png,0.900000,abnormal,,1.250000",
        'far.png,0.500000,,"unlike the training images (distance 2.50, limit 1.50)",2.500000',
    ]
    assert said.err == (
        "radtransfer: 3 of 4 images are unfit for this model and have no label: 2 blank, 1 unlike the training images\n"
    )
    assert invoke(monkeypatch, "predict", "--bundle", "b", *given, "broken.png", "--format", "json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows] == [*given, "broken.png"]
    nothing = {"score": None, "label": None, "unfit": None, "distance": None, "reason": None}
    assert rows[1] == nothing | {"image": "0.9.png", "score": 0.9, "label": "abnormal", "distance": 1.25}
    assert rows[0] == nothing | {"image": "blank.png", "unfit": "blank"}
    assert rows[4] == nothing | {"image": "broken.png", "reason": "cut off"}
    assert (rows[2]["score"], rows[2]["label"], rows[2]["distance"]) == (0.5, None, 2.5)


@pytest.fixture
def explainers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Stand-ins for what `explain` calls: what each was given."""
    asked: dict[str, dict[str, Any]] = {}
    for name, function in (("files", "files.explain_files"), ("step", "run.explain")):
        monkeypatch.setattr(f"radtransfer.explain.{function}", lambda name=name, **given: asked.update({name: given}))
    return asked


STEP = ("--target-store", "t", "--evaluation", "e", "--classifiers", "c", "--models", "m", "--models", "n")


def test_explain_has_two_forms(
    explainers: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--samples", "50", "--seed", "7", "--threads", "3", "--no-gradcam")
    assert invoke(monkeypatch, "explain", "--bundle", "b", "a.png", "b.dcm", "--out", "o", *options) == 0
    assert capsys.readouterr().out == f"{Path('o/index.html')}\n"
    assert explainers == {
        "files": {"bundle": Path("b"), "images": [Path("a.png"), Path("b.dcm")], "lime_samples": 50}
        | {"with_gradcam": False, "seed": 7, "threads": 3, "out": Path("o")}
    }
    explainers.clear()
    assert invoke(monkeypatch, "explain", *STEP, "--lime-samples", "60", "--out", "o") == 0
    assert explainers == {
        "step": {"target_store": Path("t"), "evaluation": Path("e"), "classifiers": [Path("c")]}
        | {
            "models": [Path("m"), Path("n")],
            "images_per_outcome": 2,
            "lime_samples": 60,
            "quality_images": 16,
            "seed": 0,
            "threads": 2,
        }
        | {"out": Path("o")}
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--bundle", "b"), "--bundle alone will not do; name the image files to explain"),
        (("a.png",), "image files alone will not do; name the bundle with --bundle"),
        (
            ("--bundle", "b", "a.png", "--evaluation", "e"),
            "--evaluation for the test images of a run; leave one of them",
        ),
        (("--bundle", "b", "a.png", "--images-per-outcome", "2"), "--images-per-outcome for the test images of a run"),
        ((*STEP, "--no-gradcam"), "--gradcam/--no-gradcam is for image files, --target-store for"),
        (STEP[2:], "--target-store missing for the test images of a run; or name --bundle and image files"),
        ((), "--target-store, --evaluation, --classifiers, --models missing"),
    ],
)
def test_explain_says_what_does_not_go_together(
    explainers: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    assert invoke(monkeypatch, "explain", *given, "--out", "o") == 2
    assert said in capsys.readouterr().err and not explainers


def test_explain_names_a_missing_image(tmp_path: Path) -> None:
    done = radtransfer("explain", "--bundle", str(tmp_path), str(tmp_path / "gone.png"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "gone.png: no such file" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_predict_takes_all_cpus_of_the_process_unless_told(
    predictor: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radtransfer.limits.cpus", lambda: 7)
    for options, threads in (([], 7), (["--threads", "0"], 7), (["--threads", "3"], 3)):
        assert invoke(monkeypatch, "predict", "--bundle", "b", "0.9.png", *options) == 0
        assert predictor["threads"] == threads
    assert invoke(monkeypatch, "predict", "--bundle", "b", "0.9.png", "--threads", "-1") == 2


def test_a_reader_that_has_left_is_no_error_to_tell_of() -> None:
    """Output smaller than the buffer is written at the very end, where Python itself would complain."""
    code = "import sys; sys.stdin.readline(); from radtransfer.cli import main; main()"
    command = [sys.executable, "-c", code, "datasets", "list"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_predict_refuses_a_bundle_with_code_2(
    predictor: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(monkeypatch, "predict", "--bundle", "b", "refused.png") == 2
    assert "tampered" in capsys.readouterr().err


def test_datasets_list_names_every_layout() -> None:
    from radtransfer.datasets import LAYOUTS

    done = radtransfer("datasets", "list")
    assert done.returncode == 0
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == list(LAYOUTS)
    assert all(len(line.split(": ", 1)[1]) > 20 for line in done.stdout.splitlines()) and "`" not in done.stdout


def test_the_version_is_told() -> None:
    done = radtransfer("--version")
    assert (done.returncode, done.stdout) == (0, f"radtransfer {metadata.version('radtransfer')}\n")


def test_every_entry_of_a_configuration_is_explained() -> None:
    assert [name for name, field in RunConfig.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "{table: t.csv, file: f, label: l, positive: ['1'], negative: ['0']}",
            "own: no table 't.csv' inside this folder; known: none",
        ),
        ("{table: t.csv, file: f, label: l, positive: [1], negative: ['0']}", "put it in quotes"),
        ("table: [", "--target-table: not valid YAML"),
        ("labels.csv", "--target-table: expected a mapping of keys to values, found str"),
    ],
)
def test_preprocess_takes_the_columns_of_a_table(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "own").mkdir()
    options = ["--target-layout", "table", "--target-path", "own", "--target-part", "hand", "--target-table", table]
    options += ["--source-layout", "mura", "--source-path", "own", "--data-root", str(tmp_path)]
    outputs = ["--target-out", str(tmp_path / "t"), "--source-out", str(tmp_path / "s")]
    done = radtransfer("preprocess", *options, *outputs)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_names_lead_back_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    for part in ("WRIST", "HUMERUS"):
        for where in ("train", "valid"):
            path = tmp_path / f"MURA-v1.1/{where}/XR_{part}/patient00007/study1_positive/image1.png"
            path.parent.mkdir(parents=True)
            path.touch()
    for label in ("normal", "abnormal"):
        (tmp_path / "other" / label).mkdir(parents=True)
        (tmp_path / "other" / label / "1.png").touch()
    config = tmp_path / "config.yaml"
    asked = "external: {layout: class_folders, path: other, part: other}"
    config.write_text(f"{Path('configs/mura-wrist.yaml').read_text(encoding='utf-8')}\n{asked}\n", encoding="utf-8")
    done = radtransfer("datasets", "names", "--config", str(config), "--data-root", str(tmp_path))
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert rows[0] == ["name", "file"] and len(rows) == 7, done.stderr
    patient = Pseudonyms.from_environment("MURA").of("patient00007")
    assert all(name == file.replace("patient00007", patient) for name, file in rows[1:])


def test_data_sets_behind_registration_say_what_to_do(tmp_path: Path) -> None:
    said = radtransfer("datasets", "describe", "mura")
    assert said.returncode == 0 and "licence: " in said.stdout and "by hand: " in said.stdout
    done = radtransfer("datasets", "fetch", "mura", "--data-root", str(tmp_path))
    assert done.returncode == 2 and "Traceback" not in done.stderr and not any(tmp_path.iterdir())
    assert said.stdout.split("by hand: ")[1].strip() in done.stderr
    assert "fracatlas" in radtransfer("datasets", "describe", "fracatlass").stderr


def test_gc_lists_what_it_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADTRANSFER_CACHE", str(tmp_path))
    left = tmp_path / "decoded" / "0123"
    left.mkdir(parents=True)
    (left / "log").write_bytes(bytes(100))
    left.with_suffix(".lock").touch()
    for option, state in (["--dry-run"], "would be removed"), ([], "removed"):
        done = radtransfer("datasets", "gc", *option)
        assert done.returncode == 0, done.stderr
        header, row = done.stdout.splitlines()
        assert header == "state,uri,files,bytes,last_used" and row.startswith(f"{state},decoded images of an")
        assert row.split(",")[2:4] == ["1", "100"] and done.stderr.startswith("100 bytes")
        assert left.exists() == bool(option)
    assert radtransfer("datasets", "gc").stdout == "state,uri,files,bytes,last_used\n"


def test_phantoms_are_made_once_and_readable(tmp_path: Path) -> None:
    from radtransfer import datasets

    made = tmp_path / "phantoms"
    options = ["--images-per-part", "4", "--parts", "hand", "--parts", "knee", "--size", "64", "--seed", "3"]
    assert radtransfer("datasets", "phantoms", "--out", str(made), *options).returncode == 0
    assert datasets.read("phantoms", tmp_path, "phantoms").parts == ["hand", "knee"]
    done = radtransfer("datasets", "phantoms", "--out", str(made), *options)
    assert done.returncode == 2 and str(made) in done.stderr


def test_configurations_that_come_along_are_valid() -> None:
    from radtransfer.configfile import load

    folder = Path(__file__).parents[2] / "configs"
    configs = {path.stem: load(path) for path in folder.glob("*.yaml")}
    expected = {"demo", "fracatlas-hand", "fracatlas-hand-quick", "fracatlas-shoulder", "ct-reuse", "mura-humerus"}
    assert set(configs) >= expected | {"mura-wrist"}
    assert all(config.name == stem and config.budget_minutes > 0 for stem, config in configs.items())
    assert configs["ct-reuse"].pipeline == "ct_reuse"


def test_a_wrong_value_is_named_by_where_it_stands(tmp_path: Path) -> None:
    from radtransfer.configfile import load

    config = tmp_path / "own.yaml"
    sides = "".join(f"{side}_layout: mura\n{side}_path: a\n" for side in ("target", "source"))
    config.write_text(f"name: My Run\ntarget_part: hand\n{sides}")
    for overrides, message in (
        ([], "own.yaml: name: 'My Run' is no name; expected up to 41 lower-case letters, digits and hyphens"),
        (["name=a", "seed=many"], "--set seed=many: seed: Input should be a valid integer"),
        (["seed=-1", "name=a"], "--set seed=-1: seed: "),
        (["name=b_c"], "--set name=b_c: name: 'b_c' is no name"),
        (["sed=1"], "--set sed=1: unknown key 'sed'; did you mean seed"),
    ):
        with pytest.raises(RadtransferError, match=f"(^|/){re.escape(message)}"):
            load(config, overrides)


def test_entries_come_out_of_a_mapping_as_what_they_are() -> None:
    asked = {"batch_size": 8.0, "seed": "3", "learning_rate": "0.001", "checkpoints": "s3://b/p"}
    found = entries(asked)
    assert found == {"batch_size": 8, "seed": 3, "learning_rate": 0.001, "checkpoints": "s3://b/p"}
    assert type(found["batch_size"]) is int
    for wrong in ({"batch_size": 8.5}, {"strange": 1}, {"seed": "three"}):
        with pytest.raises(RadtransferError, match=f"pipeline parameter {next(iter(wrong))}"):
            entries(wrong)
