"""A stand-in for the API server of Kubeflow Pipelines, that holds every request and answer against its OpenAPI."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema
import yaml

OPENAPI = json.loads((Path(__file__).parent / "kfp-openapi.json").read_text(encoding="utf-8"))
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
"""Where a kubeconfig's cluster has the service."""
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
OPERATIONS = OPENAPI["definitions"]["V2beta1PredicateOperation"]["enum"]
NUMBERS = {1: "EQUALS", 2: "NOT_EQUALS", 9: "IS_SUBSTRING"}
"""Numbers of operations in filter.proto, which JSON of protocol buffers may have in place of names."""


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stub:
    """The server.

    Attributes:
        url: where it listens.
        problems: what in requests (or in its own answers) the OpenAPI does not know; must be empty.
        asked: operation of each request that was let in, in order.
        faults: for an operation what to do in place of answering, one after another: a status, ``hang``, ``drop``
            (close the connection), ``html``, or ``late`` (do it, and then fail with 500).
        token: that is asked for; empty: none.
        namespaces: of an installation for several users; empty: it is for one.
        script: states that a run goes through, one for each time it is looked at: its own, then those of its tasks.
        pipelines, versions, experiments, runs, recurring: what it holds, by id.
        files: what was uploaded, by version id.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.token = ""
        self.namespaces: set[str] = set()
        self.script: list[tuple[str, dict[str, str]]] = []
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self._made = 0
        self._released = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub._handle(self)

            do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[Stub]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def count(self, operation: str) -> int:
        """How often something was asked for."""
        return self.asked.count(operation)

    def add_run(self, name: str, state: str = "SUCCEEDED", seconds: float = 90, **more: Any) -> str:
        """A run that somebody else made."""
        run = {"run_id": str(uuid.uuid4()), "display_name": name, "state": state, "storage_state": "AVAILABLE"}
        created = self._now()
        run |= {"created_at": created.isoformat(), "finished_at": datetime.fromtimestamp(0, UTC).isoformat()}
        if state in ("SUCCEEDED", "FAILED"):
            run["finished_at"] = (created + timedelta(seconds=seconds)).isoformat()
        self.runs[run["run_id"]] = run | more
        return run["run_id"]

    def _now(self) -> datetime:
        self._made += 1
        return BEGAN + timedelta(minutes=self._made)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        path = re.sub("^/+", "/", path.removeprefix(PROXY))
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        try:
            name, spec, ids = self._operation(handler.command, path)
            if self.token and handler.headers.get("authorization") != f"Bearer {self.token}":
                raise RefusalError(401, "Request header error: there is no valid user identity")
            query = self._query(name, spec, parse_qsl(parts.query, keep_blank_values=True))
            content = self._body(name, spec, handler.headers, body)
            self.asked.append(name)
            fault = self.faults[name].pop(0) if self.faults[name] else None
            if fault == "drop":
                handler.connection.close()
                return
            if fault == "hang":
                self._released.wait(20)
                return
            if fault == "html":
                self._send(handler, 200, "text/html; charset=utf-8", b"<html>Log in</html>")
                return
            if isinstance(fault, int):
                raise RefusalError(fault, "the database is away")
            answer = getattr(self, f"_{name}")(ids, query, content)
            self._check(answer, spec["responses"]["200"]["schema"], f"answer of {name}")
            if fault == "late":
                raise RefusalError(500, "the database went away")
            self._send(handler, 200, "application/json", json.dumps(answer).encode())
        except RefusalError as refusal:
            told = {"error": str(refusal), "code": 2, "message": str(refusal), "details": []}
            self._send(handler, refusal.status, "application/json", json.dumps(told).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass
        except Exception as error:
            self.problems.append(f"{handler.command} {handler.path}: {type(error).__name__}: {error}")
            self._send(handler, 400, "application/json", json.dumps({"message": "not by the OpenAPI"}).encode())

    def _send(self, handler: BaseHTTPRequestHandler, status: int, kind: str, content: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any], dict[str, str]]:
        # Paths without placeholders first: `upload` is no pipeline id.
        for template in sorted(OPENAPI["paths"], key=lambda each: "{" in each):
            found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", template), path)
            if found and method.lower() in OPENAPI["paths"][template]:
                spec = OPENAPI["paths"][template][method.lower()]
                return spec["operationId"], spec, found.groupdict()
        raise ValueError("no such path and method in the OpenAPI")

    def _query(self, name: str, spec: dict[str, Any], given: list[tuple[str, str]]) -> dict[str, Any]:
        known = {each["name"]: each for each in spec["parameters"] if each["in"] == "query"}
        query: dict[str, Any] = {}
        for key, value in given:
            if key not in known or key in query:
                raise ValueError(f"{name}: query parameter {key!r} is unknown or there twice")
            query[key] = int(value) if known[key]["type"] == "integer" else value
            if value not in known[key].get("enum", [value]):
                raise ValueError(f"{name}: query parameter {key}={value!r}: expected one of {known[key]['enum']}")
        missing = [key for key, each in known.items() if each["required"] and key not in query]
        if missing:
            raise ValueError(f"{name}: query parameters {missing} are missing")
        if query.get("filter"):
            query["filter"] = self._filter(name, query["filter"])
        return query

    def _filter(self, name: str, text: str) -> list[dict[str, Any]]:
        """The predicates; JSON of protocol buffers has names in either case, and enumerations by name or number."""
        told = json.loads(text)
        for predicate in told["predicates"]:
            for key in [key for key in predicate if key != key.lower()]:
                predicate[re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key)] = predicate.pop(key)
            predicate["operation"] = NUMBERS.get(predicate["operation"], predicate["operation"])
        self._check(told, {"$ref": "#/definitions/V2beta1Filter"}, f"filter of {name}")
        return list(told["predicates"])

    def _body(self, name: str, spec: dict[str, Any], headers: Any, body: bytes) -> Any:
        wanted = {each["in"]: each for each in spec["parameters"] if each["in"] in ("body", "formData")}
        if "body" in wanted:
            if not headers["Content-Type"].startswith("application/json"):
                raise ValueError(f"{name}: content type {headers['Content-Type']}")
            content = json.loads(body)
            self._check(content, wanted["body"]["schema"], f"body of {name}")
            return content
        if "formData" in wanted:
            message = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
            if message.get_content_type() not in spec["consumes"] or not message.is_multipart():
                raise ValueError(f"{name}: content type {headers['Content-Type']}")
            parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
            if set(parts) != {wanted["formData"]["name"]}:
                raise ValueError(f"{name}: form fields {set(parts)}")
            return parts[wanted["formData"]["name"]].get_payload(decode=True)
        if body and body != b"null":
            raise ValueError(f"{name}: has a body")
        return None

    def _check(self, value: Any, schema: dict[str, Any], what: str) -> None:
        whole = schema | {"definitions": OPENAPI["definitions"]} if "$ref" not in schema else None
        whole = whole or {"allOf": [schema], "definitions": OPENAPI["definitions"]}
        try:
            jsonschema.validate(value, whole, cls=jsonschema.Draft4Validator)
        except jsonschema.ValidationError as error:
            raise ValueError(f"{what}: {error.json_path}: {error.message}") from None

    def _allowed(self, namespace: str | None) -> None:
        if self.namespaces and namespace not in self.namespaces:
            raise RefusalError(403, f"User 'someone' is not authorized in namespace {namespace}: PermissionDenied")
        if not self.namespaces and namespace:
            raise RefusalError(400, "Invalid input error: In single-user mode, namespace must be empty")

    def _page(self, things: list[dict[str, Any]], query: dict[str, Any], key: str) -> dict[str, Any]:
        for predicate in query.get("filter") or []:
            equal = predicate["operation"] == "EQUALS"
            assert equal or predicate["operation"] == "NOT_EQUALS"
            things = [each for each in things if (each[predicate["key"]] == predicate["string_value"]) == equal]
        field, _, order = query.get("sort_by", "").partition(" ")
        if field:
            things = sorted(things, key=lambda each: each[field], reverse=order == "desc")
        begin, size = int(query.get("page_token") or 0), query.get("page_size") or 20
        answer: dict[str, Any] = {"total_size": len(things)}
        if things[begin : begin + size]:
            answer[key] = things[begin : begin + size]
        if len(things) > begin + size:
            answer["next_page_token"] = str(begin + size)
        return answer

    def _healthz_service_get_healthz(self, *_: Any) -> dict[str, Any]:
        return {"multi_user": bool(self.namespaces)}

    def _experiment_service_list_experiments(self, _: Any, query: dict[str, Any], __: Any) -> dict[str, Any]:
        self._allowed(query.get("namespace"))
        return self._page(list(self.experiments.values()), query, "experiments")

    def _experiment_service_create_experiment(self, _: Any, __: Any, content: dict[str, Any]) -> dict[str, Any]:
        self._allowed(content.get("namespace"))
        made = content | {"experiment_id": str(uuid.uuid4()), "created_at": self._now().isoformat()}
        self.experiments[made["experiment_id"]] = made
        return made

    def _pipeline_service_list_pipelines(self, _: Any, query: dict[str, Any], __: Any) -> dict[str, Any]:
        self._allowed(query.get("namespace"))
        return self._page(list(self.pipelines.values()), query, "pipelines")

    def _pipeline_service_list_pipeline_versions(self, ids: Any, query: dict[str, Any], __: Any) -> dict[str, Any]:
        of = [each for each in self.versions.values() if each["pipeline_id"] == ids["pipeline_id"]]
        return self._page(of, query, "pipeline_versions")

    def _pipeline_service_get_pipeline_version(self, ids: dict[str, str], *_: Any) -> dict[str, Any]:
        found = self.versions.get(ids["pipeline_version_id"])
        if not found or found["pipeline_id"] != ids["pipeline_id"]:
            raise RefusalError(404, "pipeline version not found")
        return found

    def _upload_pipeline(self, _: Any, query: dict[str, Any], content: bytes) -> dict[str, Any]:
        self._allowed(query.get("namespace"))
        if any(each["name"] == query["name"] for each in self.pipelines.values()):
            raise RefusalError(409, "the pipeline already exists")
        made = {"pipeline_id": str(uuid.uuid4()), "name": query["name"], "display_name": query["name"]}
        made |= {"description": query.get("description", ""), "created_at": self._now().isoformat()}
        self.pipelines[made["pipeline_id"]] = made
        self._add_version(made["pipeline_id"], query, content)  # which the server describes like the pipeline
        return made

    def _upload_pipeline_version(self, _: Any, query: dict[str, Any], content: bytes) -> dict[str, Any]:
        if query["pipelineid"] not in self.pipelines:
            raise RefusalError(404, "pipeline not found")
        return self._add_version(query["pipelineid"], query, content)

    def _add_version(self, pipeline: str, query: dict[str, Any], content: bytes) -> dict[str, Any]:
        if any(each["pipeline_id"] == pipeline and each["name"] == query["name"] for each in self.versions.values()):
            raise RefusalError(409, "the pipeline version already exists")
        pipeline_spec, *platform = yaml.load_all(content, Loader=yaml.CSafeLoader)
        spec = {"pipeline_spec": pipeline_spec, "platform_spec": platform[0]} if platform else pipeline_spec
        made = {"pipeline_id": pipeline, "pipeline_version_id": str(uuid.uuid4()), "name": query["name"]}
        made |= {"display_name": query["name"], "description": query.get("description", "")}
        made |= {"created_at": self._now().isoformat(), "pipeline_spec": spec}
        self.versions[made["pipeline_version_id"]] = made
        self.files[made["pipeline_version_id"]] = content
        return made

    def _run_service_list_runs(self, _: Any, query: dict[str, Any], __: Any) -> dict[str, Any]:
        if "experiment_id" not in query:
            self._allowed(query.get("namespace"))
        runs = [each for each in self.runs.values() if query.get("experiment_id") in (None, each.get("experiment_id"))]
        return self._page(runs, query, "runs")

    def _run_service_create_run(self, _: Any, __: Any, content: dict[str, Any]) -> dict[str, Any]:
        reference = content["pipeline_version_reference"]
        known = self.versions[reference["pipeline_version_id"]]
        assert known["pipeline_id"] == reference["pipeline_id"] and content["experiment_id"] in self.experiments
        return self.runs[self.add_run(content["display_name"], "PENDING", **copy.deepcopy(content))]

    def _run_service_get_run(self, ids: dict[str, str], *_: Any) -> dict[str, Any]:
        run = self.runs.get(ids["run_id"])
        if run is None:
            raise RefusalError(404, "run not found")
        if self.script:
            state, tasks = self.script.pop(0)
            run["state"] = state
            details = run.setdefault("run_details", {"task_details": []})["task_details"]
            for name, now in tasks.items():
                task = next((each for each in details if each["display_name"] == name), None)
                if task is None:
                    task = {"run_id": run["run_id"], "task_id": str(uuid.uuid4()), "display_name": name}
                    details.append(task)
                task["state"], _, message = now.partition(": ")
                if message:
                    task["error"] = {"code": 2, "message": message}
        return run

    def _recurring_run_service_list_recurring_runs(self, _: Any, query: dict[str, Any], __: Any) -> dict[str, Any]:
        self._allowed(query.get("namespace"))
        return self._page(list(self.recurring.values()), query, "recurringRuns")

    def _recurring_run_service_create_recurring_run(self, _: Any, __: Any, content: dict[str, Any]) -> dict[str, Any]:
        known = self.versions[content["pipeline_version_reference"]["pipeline_version_id"]]
        assert known["pipeline_id"] == content["pipeline_version_reference"]["pipeline_id"]
        assert content["experiment_id"] in self.experiments
        assert len(content["trigger"]["cron_schedule"]["cron"].split()) == 6  # of five KFP makes something else
        made = {"recurring_run_id": str(uuid.uuid4()), "created_at": self._now().isoformat()} | content
        self.recurring[made["recurring_run_id"]] = made
        return made

    def _recurring_run_service_delete_recurring_run(
        self, ids: dict[str, str], query: dict[str, Any], _: Any
    ) -> dict[str, Any]:
        self._recurring(ids)
        del self.recurring[ids["recurring_run_id"]]
        for run in self.runs.values():  # Kubernetes ends what belongs to something deleted
            if run.get("recurring_run_id") == ids["recurring_run_id"] and query.get("propagation_policy") != "ORPHAN":
                run["state"] = "CANCELED"
        return {}

    def _recurring_run_service_enable_recurring_run(self, ids: dict[str, str], *_: Any) -> dict[str, Any]:
        self._recurring(ids)["mode"] = "ENABLE"
        return {}

    def _recurring_run_service_disable_recurring_run(self, ids: dict[str, str], *_: Any) -> dict[str, Any]:
        self._recurring(ids)["mode"] = "DISABLE"
        return {}

    def _recurring(self, ids: dict[str, str]) -> dict[str, Any]:
        if ids["recurring_run_id"] not in self.recurring:
            raise RefusalError(404, "recurring run not found")
        return self.recurring[ids["recurring_run_id"]]


def patiently(condition: Any, seconds: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
