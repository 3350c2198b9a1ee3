"""The connection to KFP's API server by ``kfp.Client``, and what goes wrong with it, in our words."""

from __future__ import annotations

import io
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp
import urllib3
from kfp.client.token_credentials_base import TokenCredentialsBase
from kfp_server_api import ApiException

from radtransfer.errors import RadtransferError

HOST = "RADTRANSFER_KFP_HOST"
TOKEN = "RADTRANSFER_KFP_TOKEN"  # noqa: S105 - names of variables
TOKEN_FILE = "RADTRANSFER_KFP_TOKEN_FILE"  # noqa: S105
NAMESPACE = "RADTRANSFER_KFP_NAMESPACE"
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt at what the server failed at."""
PASSING = (429, 500, 502, 503, 504)
NOWHERE = "http://localhost"
"""Where kfp.Client turns to when neither a host nor a kubeconfig says better."""
UNSENT = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
T = TypeVar("T")


class ApiError(RadtransferError):
    """The API server refused, failed or could not be reached.

    Attributes:
        status: of the answer; 0: there was none.
        unsure: what was asked for may have been done all the same.
    """

    def __init__(self, message: str, status: int = 0, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unsure = unsure


@dataclass(frozen=True)
class Server:
    """Where an API server is and how to get in.

    Attributes:
        host: its URL; empty: what kfp.Client finds (``KF_PIPELINES_ENDPOINT``, the cluster it runs in, kubeconfig).
        namespace: the user's, in an installation for several users; empty: an installation for one.
        token: bearer token; empty: none.
        token_file: file that holds one and is read anew for every request, since such tokens are renewed.
        timeout: seconds to wait for an answer.

    Raises:
        RadtransferError: from the constructor: ``host`` is no URL or holds a password, there are two tokens, or the
            token is none.
    """

    host: str = ""
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.host:
            parts = urlsplit(self.host)
            if "@" in self.host:
                raise RadtransferError(f"--host: holds a user or password; leave it out and give a token by {TOKEN}")
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise RadtransferError(
                    f"--host {self.host}: expected the URL of the API server, http(s)://HOST[:PORT][/PATH], without # "
                    "and what follows"
                )
        if self.token and self.token_file:
            raise RadtransferError(
                f"both {TOKEN} and a token file ({self.token_file}) are given; leave one of them out"
            )
        if self.secret and urlsplit(self.host).scheme == "http" and urlsplit(self.host).hostname not in LOOPBACK:
            print(f"radtransfer: warning: the token goes to {self.host} unencrypted; use https", file=sys.stderr)

    @property
    def secret(self) -> str:
        """The token as it is now, empty where there is none.

        Raises:
            RadtransferError: there is one, and it cannot be read or is none.
        """
        if self.token_file:
            try:
                return _token(self.token_file.read_text(encoding="utf-8"), f"token file {self.token_file}")
            except (OSError, UnicodeDecodeError) as error:
                raise RadtransferError(f"token file {self.token_file}: cannot be read ({error})") from None
        return _token(self.token, TOKEN) if self.token else ""


def _token(text: str, where: str) -> str:
    text = text.strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise RadtransferError(
            f"{where}: expected a token, one word of printable characters, e.g. `kubectl create token`"
        )
    return text


class _Token(TokenCredentialsBase):
    """Hands a server's token to each request."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def refresh_api_key_hook(self, config: Any) -> None:
        config.api_key["authorization"] = self._server.secret
        config.api_key_prefix["authorization"] = "Bearer"


class Api:
    """A connection, seen to work.

    Args:
        server: where to.

    Attributes:
        client: the ``kfp.Client``; each call goes through :meth:`ask`.
        host: URL of the API server.
        namespace: what to hand to calls that take a namespace; None: the installation has but one user.

    Raises:
        RadtransferError: it cannot be reached, is no KFP API server, refuses the token, or the namespace does not fit.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.host = server.host
        self._reached = False
        self._what = "connecting"
        self._health: Any = None  # kfp.Client asks by itself unless it remembers a namespace
        api = self

        class Client(kfp.Client):
            """Asks whether the server is well once, in our time and not in five times five seconds."""

            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                api._prepare(self)
                api._health = self._healthz_api.healthz_service_get_healthz()
                return api._health

        def connect() -> Client:
            warnings.simplefilter("ignore", FutureWarning)
            credentials = _Token(server) if server.secret else None
            client = Client(host=server.host or None, credentials=credentials)
            api._prepare(client)
            return client

        self.client = self.ask("connecting", connect)
        health = self._health or self.ask("connecting", self.client.get_kfp_healthz)
        self.namespace = server.namespace or None
        if health.multi_user and not server.namespace:
            raise RadtransferError(
                f"{self.host}: this installation of Kubeflow Pipelines is for several users; name your namespace by "
                f"--namespace or {NAMESPACE}"
            )
        if health.multi_user is False and server.namespace:
            raise RadtransferError(
                f"{self.host}: this installation of Kubeflow Pipelines is for one user and has no namespaces of users; "
                f"leave --namespace ({NAMESPACE}) out"
            )

    def link(self, place: str) -> str:
        """Address of a page of the UI, which the API's host serves too, as far as is known."""
        return f"{self.client._get_url_prefix().rstrip('/')}/#/{place}"

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Call kfp.Client, whose own prints are kept back.

        Args:
            what: for errors, what is being done, e.g. ``"listing runs"``.
            call: what to call.

        Raises:
            ApiError: the server refused, failed or could not be reached.
        """
        self._what = what
        try:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                return call()
        except ApiException as error:
            raise self._refused(error) from None
        except UNSENT as error:
            raise ApiError(
                f"{self._where()}: cannot be reached ({_plain(error)}); look at --host ({HOST}), the network, and "
                "whether a `kubectl port-forward` is still up"
            ) from None
        except urllib3.exceptions.ReadTimeoutError:
            raise ApiError(
                f"{self._where()}: no answer within {self._server.timeout:g} s; try again, or wait longer (--timeout)",
                unsure=True,
            ) from None
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{self._where()}: the connection broke ({_plain(error)}); try again", unsure=True) from None

    def _where(self) -> str:
        return f"{self.host or 'the API server'}: {self._what}"

    def _prepare(self, client: Any) -> None:
        """Give all requests of a client a time limit, and several attempts where that is safe."""
        rest = client._healthz_api.api_client.rest_client
        if hasattr(rest, "_radtransfer"):
            return
        rest._radtransfer = True
        self.host = client._existing_config.host.rstrip("/")
        if not self._server.host and self.host == NOWHERE:
            raise RadtransferError(
                f"no API server of Kubeflow Pipelines is known: name its URL by --host or {HOST}, or the cluster by a "
                "kubeconfig (KUBECONFIG)"
            )
        if self._server.secret:  # a kubeconfig that has a token would win
            client._existing_config.refresh_api_key_hook = _Token(self._server).refresh_api_key_hook
        rest.pool_manager.connection_pool_kw["retries"] = False  # here is the one place that tries again
        send = rest.request

        def request(method: str, url: str, **given: Any) -> Any:
            given["_request_timeout"] = (min(10.0, self._server.timeout), self._server.timeout)
            for wait in (*WAITS, None):
                try:
                    answer = send(method, url, **given)
                except ApiException as error:
                    self._reached = True
                    again = error.status == 429 or (method == "GET" and error.status in PASSING)
                    if wait is None or not again:
                        raise
                except urllib3.exceptions.HTTPError as error:
                    # A server that was never reached is more likely misnamed than gone.
                    if wait is None or not (self._reached and (method == "GET" or isinstance(error, UNSENT))):
                        raise
                else:
                    self._reached = True
                    return self._json(answer)
                time.sleep(wait)
            raise AssertionError("the last attempt returns or raises")

        rest.request = request

    def _json(self, answer: Any) -> Any:
        kind = answer.getheader("content-type") or ""
        if "json" not in kind:
            raise ApiError(
                f"{self._where()}: this is no API server of Kubeflow Pipelines, it answers with "
                f"{kind.partition(';')[0] or 'something else than JSON'}; look at the path of --host ({HOST}): often "
                "https://HOST/pipeline; a login page means that a token is missing",
                answer.status,
            )
        return answer

    def _refused(self, error: ApiException) -> ApiError:
        status = int(error.status or 0)
        said = self._said(error)
        where = self._where()
        if status == 400 and "authoriz" in said.lower():  # what uploads answer in place of 403
            status = 403
        if status == 401:
            message = "the token is missing, wrong or expired" if self._server.secret else "a token is needed"
            advice = f"; give a fresh one by {TOKEN} or --token-file, e.g. from `kubectl create token`"
            return ApiError(f"{where}: {message}{advice} ({said})", status)
        if status == 403:
            place = (
                f"in namespace {self._server.namespace!r}, if there is one of that name" if self.namespaced else "here"
            )
            return ApiError(
                f"{where}: not allowed {place}; look at --namespace ({NAMESPACE}), at the token ({TOKEN}, "
                f"--token-file) and at the rights of its owner ({said})",
                status,
            )
        if 300 <= status < 400:
            return ApiError(
                f"{where}: sends us elsewhere (status {status}), as to a login page; give a token by {TOKEN} or "
                f"--token-file, or look at --host ({HOST})",
                status,
            )
        if status == 0:
            return ApiError(f"{where}: no safe connection ({said}); look at the certificate and at --host ({HOST})")
        if status in PASSING:
            return ApiError(
                f"{where}: the server failed (status {status}: {said}); try again later, and look at the log of the "
                "pod ml-pipeline",
                status,
                unsure=status != 429,
            )
        return ApiError(f"{where}: refused (status {status}: {said})", status)

    @property
    def namespaced(self) -> bool:
        """Whether a namespace was named."""
        return bool(self._server.namespace)

    def _said(self, error: ApiException) -> str:
        """What the server said, in a line, without our token, which it might repeat."""
        text = error.body or str(error.reason)
        try:
            told = json.loads(text)
            text = next((str(told[key]) for key in ("message", "error", "error_message") if told.get(key)), text)
        except (ValueError, AttributeError):
            pass
        line = " ".join(str(text).split())
        secret = self._server.secret
        line = line.replace(secret, "...") if secret else line
        return line if len(line) <= 300 else f"{line[:300]}..."


def _plain(error: Exception) -> str:
    """Without the name of a Python object."""
    return re.sub(r"^\w+\(.*?\): ", "", str(error))
