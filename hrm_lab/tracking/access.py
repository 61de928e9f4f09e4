"""Who may talk to a tracking store, as its clients see it: no password in a URI, no server that lets everybody in."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from hrm_lab.config import TrackingConfig
from hrm_lab.errors import ConfigError
from hrm_lab.redaction import redact

log = logging.getLogger("hrm_lab")
PROBE_S = 5.0
HTTPS = "by a TLS proxy (launch/server/README.md)"
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials"


def refuse_password(key: str, uri: str, way_out: str) -> None:
    """A URI ends up in configs, logs, error messages and `ps`: no place for a password.

    Raises:
        ConfigError: when there is one; it shows the URI without it.
    """
    hidden = redact(uri)
    if hidden != uri:
        raise ConfigError(key, hidden, "holds a password, which logs and `ps` would show to everybody", way_out)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine itself on every machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def problems(config: TrackingConfig, uri: str) -> Iterator[ConfigError]:
    """Why jobs elsewhere should not, or could not, log to a server that answers.

    It is asked without a password, and then as this shell and the jobs that it submits would.

    Raises:
        ConfigError: when it does not answer after all.
    """
    status, text = _asked(uri, as_this_shell=False)
    if status == 200 and not config.allow_open_server:
        yield ConfigError(
            "tracking.uri",
            uri,
            "lets everybody in who reaches it, without a password",
            "`hrm-lab server --host ADDRESS` asks for one by itself; on a network that nobody else reaches, "
            "tracking.allow_open_server=true",
        )
    elif status == 403 and "Invalid Host" in text:
        name = urlsplit(uri).netloc
        way_out = f"start it with --allowed-hosts {name}, or call it by a name that it knows"
        yield ConfigError("tracking.uri", uri, f"the server does not answer to the name {name}", way_out)
    elif status in (401, 403):
        status, _ = _asked(uri, as_this_shell=True)
        if status in (401, 403):
            problem = f"the server asks for a username and a password, and refuses those of this shell ({status})"
            yield ConfigError("tracking.uri", uri, problem, CREDENTIALS)
        elif uri.startswith("http:"):
            log.warning("tracking.uri=%s: the password crosses the network readable; way out: https, %s", uri, HTTPS)


def _asked(uri: str, as_this_shell: bool) -> tuple[int, str]:
    """Status and text of the answer to a small question."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    who: Any = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    if not as_this_shell:
        who.username = who.password = who.token = who.auth = who.client_cert_path = None
        who.aws_sigv4 = False
    question = {"max_results": 1}
    path = "/api/2.0/mlflow/experiments/search"
    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            who, path, "POST", max_retries=0, timeout=PROBE_S, raise_on_status=False, json=question
        )
    except MlflowException as error:
        way_out = "for a certificate of your own authority MLFLOW_TRACKING_SERVER_CERT_PATH=FILE; see that it is up"
        raise ConfigError("tracking.uri", uri, f"cannot be asked: {error}", way_out) from error
    return answer.status_code, answer.text
