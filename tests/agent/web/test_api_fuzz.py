"""A real agent answers every request that its OpenAPI document allows, and many that it does not, without an error of
its own: JSON that says what is wrong, never a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from agent_process import AgentProcess, write_line_video
from hypothesis import HealthCheck, Phase, given, settings
from mosquitto_broker import free_port
from mqtt_listener import wait_until
from page_server import API, PASSWORD, Client

EXAMPLES = 10  # of each operation, valid and invalid ones
SLOW = {"/probe/source": 2, "/probe/broker": 2}  # examples: each starts a process or opens a connection
LEFT_OUT = {
    ("get", "/events"),  # never ends
    ("delete", "/session"),  # the others need it
    ("put", "/passwords"),  # a long hash each
}
MAY_WAIT = "/cameras/{camera}/inspect"  # answers 504 if no part comes
RELOADS = "/cameras/{camera}/settings"  # the page ends and starts again; so this is the last operation


@pytest.fixture(scope="module")
def port(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("agent"), free_port()
    video = write_line_video(folder / "line.avi", frames=20)
    source = f"source:\n  source: {video}\n  loop: true\n  fps: 10\n"
    config = f"mqtt:\n  broker: mqtt://127.0.0.1:1\n{source}web:\n  listen: 127.0.0.1:{port}\n"
    with AgentProcess(folder, tiny_bundle, settings=config) as agent:
        agent.wait_for_output("page at http://")
        wait_until(lambda: _answers(port, "/cameras/cam0/live.jpg"))
        visitor = Client(port).open()
        visitor.ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD})
        yield port
        wait_until(lambda: _answers(port, "/session"))
        assert agent.running and "Traceback" not in agent.output, agent.output


def _answers(port: int, path: str) -> bool:
    try:
        return Client(port).ask("GET", path).status == 200
    except OSError:
        return False


def _check(path: str, answer: Any) -> None:
    if answer.status_code >= 400:
        content = json.loads(answer.content)
        assert list(content) == ["error"] and content["error"], (answer.request.url, content)
    assert answer.status_code < 500 or (path == MAY_WAIT and answer.status_code in (503, 504)), (
        answer.request.method,
        answer.request.url,
        answer.request.body,
        answer.status_code,
        answer.content[:500],
    )


def _fuzz(operation: Any, session: requests.Session) -> set[int]:
    """Asks with many requests; gives the status codes."""
    from schemathesis import GenerationMode

    path, answers = operation.path.removeprefix(API), set()

    @settings(
        max_examples=SLOW.get(path, EXAMPLES),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    )
    def ask(case: Any) -> None:
        parameters = case.path_parameters or {}
        if len(str(parameters.get("camera", ""))) % 2:  # else it is never the one that exists
            parameters["camera"] = "cam0"
        try:
            answer = case.call(session=session, timeout=40)
        except requests.ConnectionError:
            if path != RELOADS:
                raise
            return
        answers.add(answer.status_code)
        _check(path, answer)

    ask()
    return answers


def test_no_request_is_answered_with_an_error_of_the_server(port: int) -> None:
    import schemathesis  # takes a second, and every process of the suite reads this file

    admin = Client(port)
    assert admin.log_in().status == 200
    assert admin.cookie is not None and admin.csrf is not None
    session = requests.Session()
    session.trust_env = False  # no proxy
    session.cookies.set("zsad_session", admin.cookie)
    session.headers["X-CSRF-Token"] = admin.csrf
    schema = schemathesis.openapi.from_dict(admin.ask("GET", "/openapi.json").json)
    schema.config.update(base_url=f"http://127.0.0.1:{port}")
    operations = [found.ok() for found in schema.get_all_operations()]
    operations.sort(key=lambda operation: operation.path.endswith(RELOADS))
    asked = {
        (operation.method.lower(), operation.path.removeprefix(API)): _fuzz(operation, session)
        for operation in operations
        if (operation.method.lower(), operation.path.removeprefix(API)) not in LEFT_OUT
    }
    assert len(asked) > 25
    good = [name for name, answers in asked.items() if any(status < 400 for status in answers)]
    assert len(good) > len(asked) / 3, asked  # not everything was refused
