"""`radtransfer schedule` against the stub of the API server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from radtransfer_pipelines import PIPELINES
from radtransfer_pipelines.cluster import recurring
from tests.cluster.conftest import CONFIG, Command
from tests.cluster.kfp_stub import Stub

CREATE = "recurring_run_service_create_recurring_run"
DELETE = "recurring_run_service_delete_recurring_run"
LIST = "recurring_run_service_list_recurring_runs"


@pytest.fixture
def setting(radtransfer: Command, packages: dict[str, Path]) -> Command:
    """`radtransfer schedule set weekly`, by default on Mondays at four."""

    def call(*arguments: str, package: str = "1", name: str = "weekly", cron: str = "0 4 * * 1") -> Any:
        asked = ["--config", str(CONFIG), "--package", str(packages[package])]
        return radtransfer("schedule", "set", name, "--cron", cron, *asked, *arguments)

    return call


def only(stub: Stub) -> dict[str, Any]:
    (run,) = stub.recurring.values()
    return run


def test_a_schedule_is_made(stub: Stub, setting: Command) -> None:
    done = setting("--param", "registry=/data/registry", "--set", "seed=5", "--service-account", "radtransfer")
    assert done.code == 0, done.err
    run = only(stub)
    assert done.out == f"{run['recurring_run_id']}\n"
    assert f"recurring run made: {stub.url}/#/recurringrun/details/{run['recurring_run_id']}" in done.err
    assert run["display_name"] == "weekly" and run["mode"] == "ENABLE" and run["service_account"] == "radtransfer"
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * 1"}}
    assert run["max_concurrency"] == "1" and run["no_catchup"] is True
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["registry"], parameters["seed"], parameters["data_root"]) == ("/data/registry", 5, "/data")
    (version,) = stub.versions.values()
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert list(stub.experiments) == [run["experiment_id"]]
    assert "cron '0 4 * * 1': in KFP's six fields, seconds first, '0 0 4 * * 1'" in done.err
    assert re.search(r"next: (\d{4}-\d\d-\d\d 04:00:00(, )?){3} UTC\n", done.err)
    assert "the server's time zone rules" in done.err and "summer time" not in done.err
    assert "summer time" in setting(cron="30 2 * * *").err


def test_dry_run_sends_nothing(stub: Stub, setting: Command) -> None:
    done = setting("--dry-run")
    assert done.code == 0 and json.loads(done.out)["data_root"] == "/data" and "next: " in done.err
    assert stub.asked == []


def test_twice_is_once(stub: Stub, setting: Command) -> None:
    first = setting()
    again = setting(cron=" 0  4 * * mon")
    assert again.out == first.out and "recurring run unchanged:" in again.err
    assert only(stub)["recurring_run_id"] == first.out.strip()
    assert (stub.count(CREATE), stub.count(DELETE), stub.count("upload_pipeline")) == (1, 0, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"cron": "0 5 * * 1"},
        {"package": "2"},
        {"arguments": ["--set", "seed=5"]},
        {"arguments": ["--param", "data_version=new"]},
        {"arguments": ["--experiment", "other"]},
        {"arguments": ["--concurrency", "2"]},
        {"arguments": ["--catch-up"]},
        {"arguments": ["--service-account", "other"]},
        {"arguments": ["--pipeline-root", "s3://bucket/runs"]},
    ],
    ids=str,
)
def test_whatever_changed_it_is_replaced(stub: Stub, setting: Command, changed: dict[str, Any]) -> None:
    old = setting().out.strip()
    of_old = stub.add_run("of the old one", "RUNNING", recurring_run_id=old)
    done = setting(*changed.pop("arguments", []), **changed)
    assert done.code == 0 and f"recurring run replaced {old}:" in done.err, done.err
    assert only(stub)["recurring_run_id"] == done.out.strip() != old and only(stub)["mode"] == "ENABLE"
    assert stub.asked.index(CREATE) < stub.asked.index(DELETE)
    assert stub.runs[of_old]["state"] == "RUNNING"  # a training that is under way is not ended


def test_other_schedules_are_left_alone(stub: Stub, setting: Command, radtransfer: Command) -> None:
    monthly = setting(name="monthly", cron="@monthly").out.strip()
    setting()
    setting(cron="0 5 * * 1")
    radtransfer("schedule", "delete", "weekly")
    assert list(stub.recurring) == [monthly]


def test_paused_stays_paused(stub: Stub, setting: Command, radtransfer: Command) -> None:
    setting()
    assert radtransfer("schedule", "pause", "weekly").code == 0 and only(stub)["mode"] == "DISABLE"
    assert "was paused already" in radtransfer("schedule", "pause", "weekly").err
    assert "recurring run unchanged, and paused" in setting().err and only(stub)["mode"] == "DISABLE"
    done = setting(cron="0 5 * * 1")
    assert "and paused: `radtransfer schedule resume weekly`" in done.err and only(stub)["mode"] == "DISABLE"
    assert only(stub)["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * 1"
    done = radtransfer("schedule", "resume", "weekly")
    assert done.code == 0 and only(stub)["mode"] == "ENABLE" and "at once for the last of the times" in done.err
    assert "was not paused" in radtransfer("schedule", "resume", "weekly").err


@pytest.mark.parametrize("was_paused", [False, True])
@pytest.mark.parametrize("command", ["set", "set another", "set the old", "pause", "resume"])
def test_what_was_interrupted_is_put_right_by_the_next_call(
    stub: Stub, setting: Command, radtransfer: Command, command: str, was_paused: bool
) -> None:
    """The process died, or its token expired, when the new one had been made and the old one not yet deleted."""
    old = setting().out.strip()
    if was_paused:
        radtransfer("schedule", "pause", "weekly")
    stub.faults[DELETE] = [401]
    failed = setting(cron="0 5 * * 1")
    (new,) = set(stub.recurring) - {old}
    assert failed.code == 2 and "a token is needed" in failed.err and failed.out == ""
    assert f"The new recurring run {new} is there, and so may be the old one, {old}: say the same again" in failed.err
    assert "a replacement of schedule 'weekly' was interrupted: 2" in radtransfer("schedule", "list").err
    assert "was interrupted: 2" in radtransfer("schedule", "show", "weekly").err
    assert len(stub.recurring) == 2
    if command.startswith("set"):
        cron = {"set": "0 5 * * 1", "set another": "0 6 * * 1", "set the old": "0 4 * * 1"}[command]
        done = setting(cron=cron)
    else:
        cron, done = "0 5 * * 1", radtransfer("schedule", command, "weekly")
    assert done.code == 0 and f"deleted the recurring run {old}, which an interrupted replacement had left" in done.err
    run = only(stub)
    assert run["trigger"]["cron_schedule"]["cron"] == f"0 {cron}"
    assert (run["recurring_run_id"] == new) == (command in ("set", "pause", "resume"))
    paused = {"pause": True, "resume": False}.get(command, was_paused)
    assert run["mode"] == ("DISABLE" if paused else "ENABLE")
    assert "interrupted" not in radtransfer("schedule", "list").err


def test_a_making_of_which_nothing_is_known_is_looked_for(stub: Stub, setting: Command) -> None:
    setting()
    stub.faults[CREATE] = ["late"]
    done = setting(cron="0 5 * * 1")
    assert done.code == 0 and only(stub)["recurring_run_id"] == done.out.strip(), done.err
    stub.faults[CREATE] = [500]
    done = setting(cron="0 6 * * 1")
    assert done.code == 2 and "the server failed (status 500" in done.err and "Say the same again" in done.err
    assert only(stub)["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * 1"
    assert setting(cron="0 6 * * 1").code == 0
    assert only(stub)["trigger"]["cron_schedule"]["cron"] == "0 0 6 * * 1"


@pytest.mark.parametrize("fault", ["late", 503, "drop"])
def test_a_deletion_is_tried_again(stub: Stub, setting: Command, fault: int | str) -> None:
    setting()
    stub.faults[DELETE] = [fault]
    assert setting(cron="0 5 * * 1").code == 0 and stub.count(DELETE) == 2
    assert only(stub)["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * 1"


def test_a_server_that_stays_down(stub: Stub, setting: Command, radtransfer: Command) -> None:
    setting()
    stub.faults[LIST] = [503] * 4
    done = setting(cron="0 5 * * 1")
    assert done.code == 2 and "listing recurring runs: the server failed" in done.err
    stub.faults["recurring_run_service_disable_recurring_run"] = [500]
    done = radtransfer("schedule", "pause", "weekly")
    assert done.code == 2 and "pausing the recurring run: the server failed" in done.err
    assert only(stub)["mode"] == "ENABLE"


def test_an_expired_token(
    stub: Stub, setting: Command, radtransfer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    stub.token = "s3cret"
    monkeypatch.setenv("RADTRANSFER_KFP_TOKEN_FILE", str(token))
    assert setting().code == 0
    stub.token = "renewed"
    for command in (["list"], ["show", "weekly"], ["pause", "weekly"], ["resume", "weekly"], ["delete", "weekly"]):
        done = radtransfer("schedule", *command)
        assert done.code == 2 and "the token is missing, wrong or expired" in done.err and "s3cret" not in done.err
    assert len(stub.recurring) == 1
    monkeypatch.setenv("RADTRANSFER_KFP_TOKEN_FILE", "")
    monkeypatch.setenv("RADTRANSFER_KFP_TOKEN", "renewed")
    done = setting("--param", "data_version=v1-renewed")
    assert done.code == 2 and "holds the token" in done.err and "renewed" not in done.err


def test_somebody_elses_recurring_run_is_not_touched(stub: Stub, setting: Command, radtransfer: Command) -> None:
    setting()
    run = only(stub)
    run["description"] = "made in the UI"
    before = dict(run)
    done = setting()
    assert (
        done.code == 2
        and "that `radtransfer schedule` did not make" in done.err
        and run["recurring_run_id"] in done.err
    )
    for command in ("pause", "resume", "delete", "show"):
        done = radtransfer("schedule", command, "weekly")
        assert done.code == 2 and "there is no schedule with the name 'weekly'" in done.err
    assert only(stub) == before and "no schedules" in radtransfer("schedule", "list").err


def test_all_schedules_are_listed(stub: Stub, setting: Command, radtransfer: Command) -> None:
    for number in range(4):
        setting(name=f"at-{number:02}", cron=f"0 {number} * * *")
    template = dict(next(iter(stub.recurring.values())))
    for number in range(150):  # of others, newer, so that the list has a second page
        more = {"recurring_run_id": f"x{number}", "description": "", "created_at": "2027-01-01T00:00:00Z"}
        stub.recurring[f"x{number}"] = template | more
    radtransfer("schedule", "pause", "at-03")
    done = radtransfer("schedule", "list")
    heading, *rows = done.out.splitlines()
    assert heading.split() == ["name", "cron", "state", "next", "(UTC)", "recurring", "run"]
    assert [row.split()[0] for row in rows] == [f"at-{number:02}" for number in range(4)]
    assert re.search(r"0 2 \* \* \* +enabled +\d{4}-\d\d-\d\d 02:00:00 +[0-9a-f]{8}-", rows[2])
    assert re.search(r"0 3 \* \* \* +paused +[0-9a-f]{8}-", rows[3])


def test_a_schedule_is_shown_whole(stub: Stub, setting: Command, radtransfer: Command) -> None:
    setting("--set", "seed=5", "--concurrency", "3", "--catch-up")
    told = yaml.safe_load(radtransfer("schedule", "show", "weekly").out)
    assert told == json.loads(radtransfer("schedule", "show", "weekly", "--format", "json").out)
    assert told["recurring_run"] == only(stub)["recurring_run_id"] and told["state"] == "enabled"
    assert (told["cron"], told["kfp_cron"]) == ("0 4 * * 1", "0 0 4 * * 1")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d 04:00:00", each) for each in told["next_if_zone_is_utc"])
    assert (told["concurrency"], told["catch_up"], told["parameters"]["seed"]) == (3, True, 5)
    assert told["experiment_id"] in stub.experiments and told["pipeline_version_id"] in stub.versions


def test_deleting(stub: Stub, setting: Command, radtransfer: Command) -> None:
    run = setting().out.strip()
    of_it = stub.add_run("under way", "RUNNING", recurring_run_id=run)
    stub.faults[DELETE] = ["late"]
    done = radtransfer("schedule", "delete", "weekly")
    assert done.code == 0 and f"deleted the recurring run {run}" in done.err and not stub.recurring
    assert stub.runs[of_it]["state"] == "RUNNING"
    assert "there is no schedule" in radtransfer("schedule", "delete", "weekly").err


def test_several_users(stub: Stub, setting: Command, radtransfer: Command) -> None:
    stub.namespaces = {"mine"}
    assert setting("--namespace", "mine").code == 0
    done = setting("--namespace", "theirs")
    assert done.code == 2 and "namespace 'theirs'" in done.err and len(stub.recurring) == 1
    assert "weekly" in radtransfer("schedule", "list", "--namespace", "mine").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "My schedule"}, "'My schedule': expected small letters, digits and hyphens"),
        ({"cron": "0 25 * * *"}, "--cron '0 25 * * *': hour '25': expected 0-23"),
        ({"arguments": ["--data-root", "/mine/data"]}, "data_root /mine/data: a folder of this machine"),
        ({"arguments": ["--image", "registry.example/it:v1"]}, "--package: its image was settled when it was compiled"),
    ],
)
def test_what_does_not_fit_is_told_first(stub: Stub, setting: Command, options: dict[str, Any], said: str) -> None:
    done = setting(*options.pop("arguments", []), **options)
    assert done.code == 2 and said in done.err and stub.asked == []


def test_any_pipeline_is_scheduled_by_its_name(
    stub: Stub, radtransfer: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that no configuration names."""
    monkeypatch.setitem(PIPELINES, "another", PIPELINES["ct_reuse"])
    asked = ["--config", str(CONFIG), "--cron", "@weekly", "--image", "registry.example/it@sha256:1"]
    assert radtransfer("schedule", "set", "weekly", "--pipeline", "another", *asked).code == 0
    (pipeline,) = stub.pipelines.values()
    assert pipeline["name"] == "ct-reuse" and only(stub)["pipeline_version_reference"]["pipeline_id"] in stub.pipelines
    done = radtransfer("schedule", "set", "weekly", "--pipeline", "anothr", *asked)
    assert done.code == 2 and "--pipeline anothr: there is no such pipeline; did you mean another?" in done.err


def test_the_digest_covers_all_that_is_asked_for() -> None:
    """A field that it does not cover would not be replaced when it changes."""
    base: dict[str, Any] = {"name": "n", "cron": "c", "pipeline": "p", "version": "v", "parameters": {"a": 1}}
    base |= {"experiment": "e", "service_account": None, "pipeline_root": None, "concurrency": 1, "catch_up": False}
    other = base | {"parameters": {"a": 2}, "concurrency": 2, "catch_up": True, "service_account": "s"}
    other |= {key: f"{base[key]}2" for key in ("name", "cron", "pipeline", "version", "experiment")} | {
        "pipeline_root": "r"
    }
    digests = {recurring.Wanted(**base | {key: value}).digest for key, value in other.items()}
    assert len(digests | {recurring.Wanted(**base).digest}) == len(base) + 1
