"""The files of docs/dashboards: what they read is what an agent offers."""

import json
import re
import shutil
import subprocess
import time
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import wait_until
from paho.mqtt.client import topic_matches_sub
from prometheus_client.parser import text_string_to_metric_families
from stats_maker import AGENT

from zsad_agent.messages import Topics
from zsad_agent.monitoring import Metrics
from zsad_agent.spool import Cause

ROOT = Path(__file__).parents[3]
FILES = ROOT / "docs/dashboards"
RULES = FILES / "prometheus-rules.yml"
PROMETHEUS_ITSELF = {"up"}
METRIC = re.compile(r"\b(?:zsad|process)_\w+|\bup\b")
PACKAGES = ("@grafana/schema@13.2.3", "typescript@7.0.2")
# TypeScript takes no text where an enumeration is wanted, so each enumeration becomes its values.
AS_JSON = """import type { Dashboard } from "@grafana/schema";
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[]
  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
export const dashboard: Json<Dashboard> = """


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    return found


def metric_names() -> set[str]:
    text = Metrics(["cam0"], lambda: AGENT).render().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FILES / "grafana.json").read_text(encoding="utf-8"))
    return read


def expressions() -> dict[str, str]:
    """`<panel>: <legend>` -> PromQL, with the variables at their values for everything."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            found[f"{panel['title']}: {target['legendFormat']}"] = re.sub(r"\$(instance|camera)\b", ".*", expression)
    return found


def test_grafana_and_the_alerts_name_only_metrics_of_the_agent() -> None:
    asked = {**expressions(), "rules": RULES.read_text(encoding="utf-8")}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked[variable["name"]] = variable["query"]["query"]
    known = metric_names() | PROMETHEUS_ITSELF
    for where, text in asked.items():
        named = set(METRIC.findall(re.sub(r"#.*", "", text)))
        assert named and named <= known, where


def test_the_panels_of_grafana_have_their_own_ids_and_places() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 36 and found["uid"] == "zsad-agents"
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@pytest.mark.chaos
def test_the_dashboard_has_grafanas_own_types(tmp_path: Path) -> None:
    """Fetches Grafana's published types."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm: apt-get install npm")
    (tmp_path / "package.json").write_text('{"private": true}')
    install = [npm, "install", "--no-audit", "--no-fund", *PACKAGES]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=600)

    def faults(content: str) -> str:
        (tmp_path / "check.ts").write_text(f"{AS_JSON}{content};\n")
        options = "--noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022"
        command = [str(tmp_path / "node_modules/.bin/tsc"), *options.split(), "check.ts"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False).stdout

    text = (FILES / "grafana.json").read_text(encoding="utf-8")
    assert faults(text) == ""
    assert "gridPlace" in faults(text.replace('"gridPos"', '"gridPlace"'))


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in {"instance": "line3:9464", "job": "zsad", **labels}.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


# Alert -> (series that raise it, series that do not), one value a minute; judged after 20 minutes.
RESULTS = "zsad_results_total"
CASES: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    "ZsadAgentDown": ([series("up", "1x17 0x5")], [series("up", "1x20")]),
    "ZsadCameraDown": (
        [series("zsad_camera_up", "1x16 0x5", camera="cam0")],
        [series("zsad_camera_up", "1x18 0x5", camera="cam0")],
    ),
    "ZsadBrokerDisconnected": (
        [series("zsad_broker_connected", "1x16 0x5")],
        [series("zsad_broker_connected", "1x18 0x5")],
    ),
    "ZsadResultsWaiting": (
        [series("zsad_spool_oldest_age_seconds", "0x10 0+60x12")],
        [series("zsad_spool_oldest_age_seconds", "0x16 0+60x5")],
    ),
    "ZsadManyUnknown": (
        [
            series(RESULTS, "0+8x20", camera="cam0", verdict="ok"),
            series(RESULTS, "0+2x20", camera="cam0", verdict="unknown"),
        ],
        [
            series(RESULTS, "0+20x20", camera="cam0", verdict="ok"),
            series(RESULTS, "0+1x20", camera="cam0", verdict="unknown"),
            series(RESULTS, "0x17 3x3", camera="few", verdict="unknown"),
        ],
    ),
    "ZsadResultsLost": (
        [series("zsad_results_given_up_total", "_x18 5x3", cause="count")],
        [series("zsad_results_given_up_total", "5x21", cause="count")],
    ),
    "ZsadPicturesLost": (
        [series("zsad_evidence_dropped_total", "0x18 5x3")],
        [
            series("zsad_evidence_dropped_total", "5x21"),
            series("zsad_attached_images_given_up_total", "1x21", cause="disk"),
        ],
    ),
}


@pytest.mark.parametrize("alert", CASES)
def test_each_alert_is_raised_and_stays_silent(alert: str, promtool: str, tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                    "eval_time": "20m",
                    "exp_samples": [{"labels": "{}", "value": int(raised)}],
                }
            ],
        }
        for given, raised in zip(CASES[alert], (True, False), strict=True)
    ]
    file = tmp_path / "rules-test.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_and_promtool_accepts_the_files(promtool: str) -> None:
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == CASES.keys()
    for command in (["check", "rules", str(RULES)], ["check", "config", str(FILES / "prometheus.yml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def scraped(
    promtool: str, tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker]
) -> Iterator[Callable[[str], Any]]:
    """A real Prometheus with our configuration, every second, and an agent; gives what its API answers to a path."""
    video = write_line_video(tmp_path / "line.avi", 20)
    agent_port, port = free_port(), free_port()
    settings = (
        f"mqtt:\n  broker: {mosquitto().url}\nsource: {{source: {video}, loop: true, fps: 5}}\n"
        f"evidence: {{enabled: true, path: {tmp_path / 'evidence'}}}\nhttp: {{listen: 127.0.0.1:{agent_port}}}\n"
    )
    shutil.copy(RULES, tmp_path)
    text = (
        (FILES / "prometheus.yml").read_text().replace("15s", "1s").replace("localhost:9464", f"127.0.0.1:{agent_port}")
    )
    (tmp_path / "prometheus.yml").write_text(text)
    command = [str(Path(promtool).with_name("prometheus")), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)["data"]

    with AgentProcess(tmp_path, tiny_bundle, settings=settings), (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end_s = time.monotonic() + 60
            while b"Server is ready" not in (tmp_path / "log").read_bytes():
                assert server.poll() is None and time.monotonic() < end_s, (tmp_path / "log").read_text()
                time.sleep(0.1)
            yield ask
        finally:
            server.kill()
            server.wait(10)


def test_each_panel_of_grafana_has_data_of_a_running_agent(scraped: Callable[[str], Any]) -> None:
    def values(expression: str) -> list[float]:
        found = scraped(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return [float(row["value"][1]) for row in found]

    wait_until(lambda: sum(values('rate(zsad_results_total{verdict="anomalous"}[1m])')) > 0, 120)
    found = {name: values(expression) for name, expression in expressions().items()}
    losses = {name for name, numbers in found.items() if not numbers}
    assert losses == {name for name in found if name.startswith("Lost") and "evidence" not in name}, found
    assert all(number == number for numbers in found.values() for number in numbers), found  # none is NaN
    groups = scraped("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert not {rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")}


def field_of(schema: dict[str, Any], path: str) -> tuple[str, bool]:
    """The JSON type of a field of a message, and whether it may be missing or null."""
    node, optional = schema, False
    for name in path.split("."):
        if name == "#":
            assert node["type"] == "array", path
            return "integer", optional
        if node.get("additionalProperties") and "properties" not in node:  # any names, such as causes
            node, optional = node["additionalProperties"], True
            continue
        optional |= name not in node["required"]
        node = node["properties"][name]
        kinds = [node] if "anyOf" not in node else [kind for kind in node["anyOf"] if kind.get("type") != "null"]
        optional |= "anyOf" in node
        (node,) = kinds
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node.get("type", "string"), optional


@pytest.mark.parametrize("message", ["result", "stats"])
def test_telegraf_reads_fields_that_the_messages_have(message: str) -> None:
    config = tomllib.loads((FILES / "telegraf.conf").read_text(encoding="utf-8"))
    topics = Topics("zsad", "line3")
    topic = {"result": topics.result("cam0"), "stats": topics.below("stats")}[message]
    reading = [each for each in config["inputs"]["mqtt_consumer"] if topic_matches_sub(each["topics"][0], topic)]
    (parser,) = reading[0]["json_v2"]
    assert len(reading) == 1 and reading[0]["data_format"] == "json_v2"
    assert reading[0]["qos"] == 1 and reading[0]["persistent_session"] and reading[0]["client_id"]
    schema = json.loads((ROOT / f"agent/messages/{message}.schema.json").read_text())
    assert schema["properties"][parser["timestamp_path"]]["format"] == "date-time"
    names = {"int": "integer", "float": "number", "string": "string", "bool": "boolean"}
    for part in (*parser["tag"], *parser["field"], *parser.get("object", [])):
        kind, optional = field_of(schema, part["path"])
        assert optional == part.get("optional", False), part
        assert kind == names[part.get("type", "string")] or part in parser.get("object", []), part
    labels = [part.get("rename", part["path"].rsplit(".", 1)[-1]) for part in (*parser["tag"], *parser["field"])]
    assert len(labels) == len(set(labels)) and "device_id" in labels


def test_telegraf_keeps_every_cause_of_lost_results() -> None:
    config = tomllib.loads((FILES / "telegraf.conf").read_text(encoding="utf-8"))
    paths = {part["path"] for each in config["inputs"]["mqtt_consumer"] for part in each["json_v2"][0]["field"]}
    of_pictures = {Cause.BROKER}
    assert {f"broker.given_up.{cause}" for cause in set(Cause) - of_pictures} <= paths
