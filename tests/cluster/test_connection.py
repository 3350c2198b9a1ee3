"""What goes wrong between us and the API server, and what is said of it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml

from radtransfer_pipelines.cluster import connection
from radtransfer_pipelines.cluster.connection import Api, ApiError, Server
from tests.cluster.conftest import Command
from tests.cluster.kfp_stub import PROXY, Stub


def test_a_wrong_host_is_told_at_once(radtransfer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WAITS", (60.0,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = radtransfer("runs", "--host", url)
    assert done.code == 2 and done.err.startswith(f"radtransfer: error: {url}: connecting: cannot be reached (")
    assert "RADTRANSFER_KFP_HOST" in done.err and "object at 0x" not in done.err


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("localhost:8080", "expected the URL"),
        ("https://", "expected the URL"),
        ("https://host/#/pipelines", "without # and what follows"),
        ("https://me:hunter2@host", "holds a user or password"),
    ],
)
def test_a_host_is_a_url(radtransfer: Command, host: str, said: str) -> None:
    done = radtransfer("runs", "--host", host)
    assert done.code == 2 and said in done.err and "hunter2" not in done.err


def test_no_host_and_no_kubeconfig(radtransfer: Command) -> None:
    done = radtransfer("runs")
    assert done.code == 2 and "no API server of Kubeflow Pipelines is known" in done.err and done.out == ""


def test_a_kubeconfig_names_the_cluster(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": stub.url}}],
        "users": [{"name": "u", "user": {"token": "of-the-kubeconfig"}}],
    }
    (tmp_path / "no-kubeconfig").write_text(yaml.safe_dump(config))
    stub.token = "of-the-kubeconfig"
    api = Api(Server())
    assert api.host == stub.url + PROXY
    stub.token = "ours"
    with pytest.raises(ApiError, match="a token is needed"):
        Api(Server())
    assert Api(Server(token="ours")).host == stub.url + PROXY


def test_a_page_that_is_no_api_is_told(stub: Stub, radtransfer: Command) -> None:
    stub.faults["healthz_service_get_healthz"] = ["html"]
    done = radtransfer("runs")
    assert done.code == 2 and "this is no API server" in done.err and "text/html" in done.err


@pytest.mark.parametrize(("status", "said"), [(302, "login page"), (404, "refused (status 404: the database is away)")])
def test_other_answers_are_told(stub: Stub, radtransfer: Command, status: int, said: str) -> None:
    stub.faults["healthz_service_get_healthz"] = [status]
    done = radtransfer("runs")
    assert done.code == 2 and said in done.err and stub.count("healthz_service_get_healthz") == 1


def test_no_token_a_wrong_one_and_a_right_one(
    stub: Stub, radtransfer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.token = "secret-of-today"
    done = radtransfer("runs")
    assert done.code == 2 and "a token is needed; give a fresh one by RADTRANSFER_KFP_TOKEN" in done.err
    monkeypatch.setenv(connection.TOKEN, "secret-of-yesterday")
    done = radtransfer("runs")
    assert done.code == 2 and "the token is missing, wrong or expired" in done.err and "yesterday" not in done.err
    monkeypatch.setenv(connection.TOKEN, "secret-of-today\n")
    assert radtransfer("runs").code == 0
    place = tmp_path / "token"
    done = radtransfer("runs", "--token-file", str(place))
    assert done.code == 2 and "leave one of them out" in done.err and "secret-of-today" not in done.err
    monkeypatch.delenv(connection.TOKEN)
    done = radtransfer("runs", "--token-file", str(place))
    assert done.code == 2 and f"token file {place}: cannot be read" in done.err
    place.write_text("two words")
    done = radtransfer("runs", "--token-file", str(place))
    assert done.code == 2 and "expected a token, one word" in done.err and "two words" not in done.err
    place.write_text("secret-of-today\n")
    assert radtransfer("runs", "--token-file", str(place)).code == 0


def test_a_token_file_is_read_anew(stub: Stub, tmp_path: Path) -> None:
    """Service accounts' tokens are renewed every hour, and a run takes longer."""
    place = tmp_path / "token"
    place.write_text("first")
    stub.token = "first"
    api = Api(Server(stub.url, token_file=place))
    stub.token = "second"
    with pytest.raises(ApiError, match="expired"):
        api.ask("listing runs", api.client.list_runs)
    place.write_text("second")
    assert api.ask("listing runs", api.client.list_runs).runs is None


def test_a_token_does_not_go_over_the_net_unencrypted_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "secret" not in repr(Server("http://kfp.example", token="secret"))
    assert "unencrypted" in capsys.readouterr().err
    for host in ("https://kfp.example", "http://localhost:8080"):
        Server(host, token="secret")
    assert capsys.readouterr().err == ""


def test_what_the_server_repeats_of_the_token_is_not_shown(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(Server(stub.url, token="hush"))
    body = json.dumps({"message": "bad value hush\nfor " + "x" * 400})
    error = type("Error", (), {"status": 400, "reason": "", "body": body})()
    said = str(api._refused(error))
    assert "hush" not in said and "bad value ... for" in said and len(said) < 500 and "\n" not in said


def test_namespaces(stub: Stub, radtransfer: Command) -> None:
    done = radtransfer("runs", "--namespace", "mine")
    assert done.code == 2 and "is for one user and has no namespaces" in done.err
    stub.namespaces = {"mine"}
    done = radtransfer("runs")
    assert done.code == 2 and "name your namespace by --namespace" in done.err
    done = radtransfer("runs", "--namespace", "mnie")
    assert done.code == 2 and "not allowed in namespace 'mnie', if there is one of that name" in done.err
    assert radtransfer("runs", "--namespace", "mine").code == 0


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_what_passes_is_tried_again(stub: Stub, radtransfer: Command, fault: int | str) -> None:
    stub.faults["run_service_list_runs"] = [fault] * 3
    assert radtransfer("runs").code == 0 and stub.count("run_service_list_runs") == 4
    stub.faults["run_service_list_runs"] = [fault] * 4
    done = radtransfer("runs")
    assert done.code == 2 and "listing runs" in done.err and stub.count("run_service_list_runs") == 8


def test_a_server_that_does_not_answer_is_given_up(stub: Stub, radtransfer: Command) -> None:
    stub.faults["run_service_list_runs"] = ["hang"]
    assert radtransfer("runs", "--timeout", "1").code == 0
    stub.faults["healthz_service_get_healthz"] = ["hang"]
    done = radtransfer("runs", "--timeout", "1")
    assert done.code == 2 and "no answer within 1 s" in done.err and "--timeout" in done.err


def test_the_stub_lets_nothing_pass_that_the_openapi_does_not_know() -> None:
    """Or the other tests would show little."""
    import urllib3

    with Stub().serving() as server:
        ask = urllib3.PoolManager().request
        wrong = [
            ("GET", "/apis/v2beta1/pipelines?name=x", None),
            ("GET", "/apis/v1beta1/runs", None),
            ("DELETE", "/apis/v2beta1/runs/1", None),
            ("POST", "/apis/v2beta1/experiments", {"name": "x"}),
            ("POST", "/apis/v2beta1/runs", {"display_name": "x", "runtime_config": {"parameters": []}}),
            ("GET", '/apis/v2beta1/runs?filter={"predicates":[{"op":"EQUALS"}]}', None),
            ("GET", "/apis/v2beta1/runs?page_size=many", None),
            ("POST", "/apis/v2beta1/pipelines/upload", {"name": "x"}),
        ]
        for number, (method, path, body) in enumerate(wrong, start=1):
            answer = ask(method, server.url + path, json=body) if body else ask(method, server.url + path)
            assert answer.status == 400 and len(server.problems) == number, path
        assert ask("POST", f"{server.url}/apis/v2beta1/experiments", json={"display_name": "x"}).status == 200
