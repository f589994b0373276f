"""The config file read, checked, written and edited, over real sockets with the real check."""

import base64
import hashlib
import json
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from mqtt_listener import wait_until
from page_server import Client, make_server

from zsad_agent.cli.check import faults_in
from zsad_agent.config import load_settings

PICTURE = np.zeros((48, 64, 3), np.uint8)
SECRET = "pass%40word"


@dataclass
class Page:
    client: Client
    path: Path
    state_dir: Path
    reloads: list[None] = field(default_factory=list)
    commanded: set[str] = field(default_factory=set)

    @property
    def text(self) -> str:
        return self.path.read_text()

    def patch(self, of: str = "cam0", /, **settings: Any) -> Any:
        return self.client.ask("PATCH", f"/cameras/{of}/settings", settings)

    def changed(self, of: str = "cam0", /, **settings: Any) -> dict[str, Any]:
        """The file after a change that must be accepted."""
        reloads = len(self.reloads)
        answer = self.patch(of, **settings)
        assert answer.status == 200, answer.body
        assert answer.json == {"sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(), "reload": "asked"}
        wait_until(lambda: len(self.reloads) == reloads + 1)
        found = yaml.safe_load(self.text)
        assert isinstance(found, dict)
        return found


class Pages:
    """Starts pages over a config file."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle
        self.path = folder / "etc" / "agent.yaml"
        self.path.parent.mkdir()

    def open(self, text: str, flags: dict[str, Any] | None = None, *, images: int = 1) -> Iterator[Page]:
        self.path.write_text(text.replace("BUNDLE", str(self.bundle)))
        flags = flags or {}
        state_dir = self.folder / "state"
        state_dir.mkdir()
        config = load_settings(self.path, flags).config
        page = Page(Client(0), self.path, state_dir)
        stations = [
            SimpleNamespace(name=one.name, capture=SimpleNamespace(newest_images=lambda count: [PICTURE] * images))
            for one in config.every_camera
        ]
        commands = SimpleNamespace(
            state=lambda camera, key: {"value": 0, "source": "command" if camera in page.commanded else "config"}
        )
        with make_server(
            state_dir,
            settings=config.model_dump(exclude={"web"}),
            config_path=self.path,
            check_config=lambda path: faults_in(path, flags),
            reload=lambda: page.reloads.append(None),
            stations=stations,
            commands=commands,
        ) as server:
            assert server.port is not None
            page.client = Client(server.port).open()
            yield page


@pytest.fixture
def pages(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Pages:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"]["score"] = {"top_fraction": 0.0, "pool": 1}  # so that a mask can be used
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return Pages(tmp_path, bundle)


ONE = f"""# The line's camera. Ask Ana before you change it.
device_id: line3  # on the label

source:
  source: rtsp://user:{SECRET}@10.0.0.9/s?token=x   # behind the press
  # loop: true
inference:
  bundle: BUNDLE
"""
TWO = """cameras:
    # left
    - name: left
      camera: 0  # by the door
      fps: 5
    - name: right
      source: http://10.0.0.8/
inference: {bundle: BUNDLE}
"""


@pytest.fixture
def page(pages: Pages) -> Iterator[Page]:
    yield from pages.open(ONE)


@pytest.fixture
def two(pages: Pages) -> Iterator[Page]:
    yield from pages.open(TWO)


def test_config_is_read_without_passwords_and_written_back_with_them(page: Page) -> None:
    answer = page.client.ask("GET", "/config")
    found = answer.json
    assert SECRET.encode() not in answer.body and b"token" not in answer.body
    assert (found["path"], found["writable"], found["faults"]) == (str(page.path), True, [])
    assert "rtsp://***@10.0.0.9/s?…   # behind the press" in found["yaml"]
    page.path.chmod(0o640)
    before = page.text
    edited = found["yaml"].replace("line3", "line4")
    written = page.client.ask("PUT", "/config", {"yaml": edited, "sha256": found["sha256"]})
    assert written.status == 200, written.body
    assert page.text == before.replace("line3", "line4")
    assert written.json["sha256"] == hashlib.sha256(page.path.read_bytes()).hexdigest()
    assert stat.S_IMODE(page.path.stat().st_mode) == 0o640
    wait_until(lambda: page.reloads == [None])
    line = page.client.ask("GET", "/audit?limit=1").json[0]
    assert (line["what"], line["before"]) == ("config", found["sha256"][:12])


def test_file_that_has_changed_since_is_not_overwritten(page: Page) -> None:
    found = page.client.ask("GET", "/config").json
    page.path.write_text(page.text + "# by hand\n")
    refused = page.client.ask("PUT", "/config", {"yaml": found["yaml"], "sha256": found["sha256"]})
    assert refused.status == 409 and "has changed since you read it" in refused.error
    assert page.text.endswith("# by hand\n") and not page.reloads


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device_id: [", "1"),
        ("devce_id: x\n", "devce_id"),
        ("source:\n  source: rtsp://***@10.0.0.7/other\n", "write this address in full"),
        ("log_level: LOUD\n", "agent.yaml:1: log_level"),
    ],
)
def test_config_with_a_fault_is_refused_and_leaves_nothing(page: Page, text: str, words: str) -> None:
    before, files = page.text, {path.name for path in page.state_dir.iterdir()}
    checked = page.client.ask("POST", "/config/check", {"yaml": text})
    assert checked.status == 200 and words in " ".join(checked.json["faults"])
    sha256 = page.client.ask("GET", "/config").json["sha256"]
    refused = page.client.ask("PUT", "/config", {"yaml": text, "sha256": sha256})
    assert refused.status == 422 and words in refused.error and str(page.state_dir) not in refused.error
    assert page.text == before and not page.reloads
    assert {path.name for path in page.state_dir.iterdir()} - files <= {"audit.jsonl"}
    assert sorted(path.name for path in page.path.parent.iterdir()) == ["agent.yaml"]


def test_good_config_has_no_faults_and_too_long_a_one_is_refused(page: Page) -> None:
    text = page.client.ask("GET", "/config").json["yaml"]
    assert page.client.ask("POST", "/config/check", {"yaml": text}).json == {"faults": []}
    assert page.client.ask("POST", "/config/check", {"yaml": "#" * 60_001}).status == 422
    assert page.client.ask("POST", "/config/check", {"yaml": "#" * 70_000}).status == 413
    assert not page.reloads and page.client.ask("GET", "/audit").json == []


def test_settings_of_a_camera_are_changed_and_comments_stay(page: Page) -> None:
    found = page.changed(region_xywh=[1, 2, 30, 40], trigger="mqtt", fps=2.5)
    assert found["source"]["region_xywh"] == [1, 2, 30, 40] and found["source"]["trigger"] == "mqtt"
    assert found["source"]["fps"] == 2.5
    for line in ONE.replace("BUNDLE", found["inference"]["bundle"]).splitlines():
        assert line in page.text
    line = page.client.ask("GET", "/audit?limit=1").json[0]
    assert line["what"] == "cam0 settings" and line["after"]["region_xywh"] == [1, 2, 30, 40]
    assert line["before"]["trigger"] is None


def test_another_source_replaces_the_earlier_one_and_the_audit_has_no_password(page: Page) -> None:
    found = page.changed(camera="0")
    assert found["source"] == {"camera": "0"}
    page.path.write_text(page.text)
    told = str(page.client.ask("GET", "/audit").json)
    assert SECRET not in told and "rtsp://***@10.0.0.9/s?…" in told


def test_the_address_that_the_page_shows_keeps_its_password_when_it_is_written_back(page: Page) -> None:
    before = page.text
    assert page.changed(source="rtsp://***@10.0.0.9/s?…")["source"]["source"] in before and SECRET in page.text
    for other in ("rtsp://***@10.0.0.7/other", "http://evil/rtsp://***@10.0.0.9/s?…"):
        refused = page.patch(source=other)
        assert refused.status == 422 and "write this address in full" in refused.error
    assert SECRET in page.text


def test_a_genicam_camera_replaces_the_earlier_source(page: Page) -> None:
    assert page.changed(aravis="Basler-1")["source"] == {"aravis": "Basler-1"}


def test_product_of_a_single_camera_is_that_of_the_bundle_and_a_command_wins_over_it(page: Page) -> None:
    assert page.changed(product="object")["inference"]["product"] == "object"
    page.commanded.add("cam0")
    refused = page.patch(product="object")
    assert refused.status == 409 and "a command chose the product of cam0" in refused.error


def test_check_that_takes_too_long_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.config_api.CHECK_S", 0.2)
    let_go = threading.Event()
    monkeypatch.setattr("zsad_agent.web.config_api._faults_in_trial", lambda parts, text: let_go.wait(60) and [])
    before = page.text
    for _ in range(3):
        assert "takes longer than 0.2 s" in page.patch(fps=1).error
    assert page.patch(fps=1).status == 503 and page.text == before
    let_go.set()
    wait_until(lambda: page.patch(fps=1).status == 200)


def test_right_one_of_several_cameras_is_changed(two: Page) -> None:
    found = two.changed("right", region_xywh=[0, 0, 16, 16], product="object")
    assert found["cameras"] == [
        {"name": "left", "camera": 0, "fps": 5},
        {"name": "right", "source": "http://10.0.0.8/", "region_xywh": [0, 0, 16, 16], "product": "object"},
    ]
    assert "    # left\n    - name: left\n      camera: 0  # by the door\n" in two.text
    assert two.changed("left", fps=None, name="up")["cameras"][0] == {"name": "up", "camera": 0}
    refused = two.patch("left", name="up")  # the page has not started again yet
    assert refused.status == 409


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "device_id: x\n", "source:\n  # camera: 0\n"])
def test_config_without_a_camera_gets_one(pages: Pages, text: str) -> None:
    for page in pages.open(text):
        found = page.changed(camera="0", name="off")
        assert found["source"] == {"camera": "0", "name": "off"}
        assert text.strip() in page.text or text.startswith("source")
        assert "# camera: 0" in page.text or "# camera" not in text


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, 422, "nothing to change"),
        ({"camera": "0", "source": "x"}, 422, "camera and source are both set"),
        ({"camera": "0", "aravis": "Basler-1"}, 422, "camera and aravis are both set"),
        ({"region_xywh": [40, 0, 30, 30]}, 422, "not inside the picture of 64x48"),
        ({"region_xywh": [0, 0, 7, 30]}, 422, "region_xywh"),
        ({"trigger": "folder"}, 422, "trigger: folder"),
        ({"trigger": "never"}, 422, "trigger"),
        ({"name": "a/b"}, 422, "name"),
        ({"name": "stats"}, 422, "stats"),
        ({"product": "bottles"}, 422, "bottles"),
        ({"source": "/no/such"}, 422, "/no/such"),
        ({"fps": 0}, 422, "fps"),
        ({"fps": "5"}, 422, "fps"),
        ({"loop": "yes"}, 422, "loop"),
        ({"loop": 1}, 422, "loop"),
        ({"region_xywh": ["1", 2, 30, 40]}, 422, "region_xywh"),
        ({"region_xywh": [1.0, 2, 30, 40]}, 422, "region_xywh"),
        ({"source": "a\0b"}, 422, "source"),
        ({"camera": "0\n"}, 422, "camera"),
        ({"colour": 1}, 422, "colour"),
    ],
)
def test_refused_settings_change_nothing(page: Page, settings: dict[str, Any], status: int, words: str) -> None:
    before = page.text
    answer = page.patch(**settings)
    assert answer.status == status and words in answer.error, answer.body
    assert page.text == before and not page.reloads
    assert page.patch("cam9", fps=1).status == 404


def test_handshake_is_switched_on_together_with_its_trigger(page: Page) -> None:
    assert "plant.modbus" in page.patch(trigger="plc").error
    assert "expected off or host:port" in page.patch(trigger="plc", modbus_listen="1502").error
    found = page.changed(trigger="plc", modbus_listen="0.0.0.0:1502")
    assert (found["source"]["trigger"], found["plant"]) == ("plc", {"modbus": {"listen": "0.0.0.0:1502"}})
    assert "# behind the press" in page.text


PLC_LINES = """plant:
  programs: [a]   # of the press
  modbus: {listen: "127.0.0.1:1502", word_order: low_first}
  opcua:
    listen: 127.0.0.1:4840
cameras:
- {name: left, camera: 0, trigger: plc}
- {name: right, camera: 1}
inference: {bundle: BUNDLE}
"""


def test_handshake_is_switched_off_with_the_last_camera_that_uses_it(pages: Pages) -> None:
    for page in pages.open(PLC_LINES):
        assert page.changed("right", trigger="free")["plant"]["opcua"] == {"listen": "127.0.0.1:4840"}
        off = page.changed("left", trigger=None)
        assert off["plant"] == {"programs": ["a"], "modbus": {"word_order": "low_first"}, "opcua": {}}
        assert "# of the press" in page.text


def mask(h: int, w: int, *, white: slice = slice(0, 10)) -> str:
    image = np.zeros((h, w), np.uint8)
    image[:, white] = 255
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()


def test_mask_is_stored_used_replaced_and_removed(page: Page) -> None:
    first = Path(page.changed(ignore_mask_png=mask(48, 64))["source"]["ignore_mask"])
    assert first.parent == page.state_dir / "masks" and first.name.startswith("cam0-")
    stored = cv2.imread(str(first), cv2.IMREAD_GRAYSCALE)
    assert stored is not None and stored.shape == (48, 64) and stored[0, 9] == 255 and stored[0, 10] == 0
    (first.parent / "cam0-1-0123456789ab.png").touch()  # another camera's
    second = Path(_next_mask(page))
    kept = {path.name for path in first.parent.iterdir()}
    assert second != first and kept == {second.name, "cam0-1-0123456789ab.png"}


def _next_mask(page: Page) -> str:
    """After a reload, which a page would do: the running config has no mask in this test."""
    page.path.write_text(page.text.replace("ignore_mask:", "# ignore_mask:"))
    return str(page.changed(ignore_mask_png=mask(48, 64, white=slice(20, 30)))["source"]["ignore_mask"])


def test_mask_is_removed_by_null(pages: Pages, tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(base64.b64decode(mask(48, 64)))
    for page in pages.open(ONE.replace("  # loop: true", f"  ignore_mask: {tmp_path / 'm.png'}")):
        assert "ignore_mask" not in page.changed(ignore_mask_png=None)["source"]
        assert (tmp_path / "m.png").exists()  # not ours


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        ("?", "not base64"),
        ("é", "not base64"),
        (base64.b64encode(b"GIF89a").decode(), "not a PNG"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 99).decode(), "ignore_mask_png"),
        (mask(64, 48), "48x64 pixels, but the picture has 64x48"),
        (mask(48, 64, white=slice(0, 0)), "has no white area"),
        (mask(48, 64, white=slice(0, 64)), "white everywhere"),
        ("A" * 990_001, "990000"),
    ],
)
def test_mask_that_cannot_be_used_is_refused_and_not_kept(page: Page, encoded: str, words: str) -> None:
    before = page.text
    answer = page.patch(ignore_mask_png=encoded)
    assert answer.status == 422 and words in answer.error, answer.body
    assert page.text == before and not list(page.state_dir.glob("masks/*"))


def test_mask_needs_a_picture_to_be_checked_with(pages: Pages) -> None:
    for page in pages.open(ONE, images=0):
        assert "has not given a picture yet" in page.patch(ignore_mask_png=mask(48, 64)).error


def test_flag_of_the_command_line_wins_and_that_is_said(pages: Pages) -> None:
    for page in pages.open(ONE, {"source": {"camera": "0"}}):
        before = page.text
        refused = page.patch(source="http://10.0.0.7/")
        assert refused.status == 409 and "by a flag of the command line, which overrides" in refused.error
        assert SECRET not in refused.error and page.text == before
        assert page.changed(trigger="mqtt")["source"]["trigger"] == "mqtt"


def test_file_that_the_agent_may_not_write_is_409_with_what_to_do(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.config_api.os.access", lambda path, mode: False)  # tests may run as root
    found = page.client.ask("GET", "/config").json
    assert found["writable"] is False
    for answer in (page.client.ask("PUT", "/config", {"yaml": "", "sha256": found["sha256"]}), page.patch(fps=1)):
        assert answer.status == 409 and "Give this user write access" in answer.error
    assert not page.reloads


def test_agent_without_a_config_file_says_how_to_start_it_with_one(tmp_path: Path) -> None:
    station = SimpleNamespace(name="cam0", capture=SimpleNamespace(newest_images=lambda count: []))
    with make_server(tmp_path, stations=[station]) as server:
        assert server.port is not None
        client = Client(server.port).open()
        found = client.ask("GET", "/config").json
        assert found["path"] is None and "--config" in found["faults"][0]
        for answer in (
            client.ask("PUT", "/config", {"yaml": "", "sha256": ""}),
            client.ask("PATCH", "/cameras/cam0/settings", {"fps": 1}),
        ):
            assert answer.status == 409 and "without a config file" in answer.error


def test_link_stays_a_link(pages: Pages, tmp_path: Path) -> None:
    for page in pages.open(ONE):
        real = tmp_path / "real.yaml"
        page.path.rename(real)
        page.path.symlink_to(real)
        page.changed(fps=3)
        assert page.path.is_symlink() and "fps: 3" in real.read_text()


SPOILT = (
    "rtsp://u:hunter2 x@h/",
    "rtsp://u:hunter2#@h/s",
    "rtsp://u:hunter2@h:99999/",
    "ftp://u:hunter2@h/",
    "rtsp:/u:hunter2@h/",
    "u:hunter2@h/s",
    "http://h/s?token=hunter2#x",
)


@pytest.mark.parametrize("url", SPOILT)
def test_password_of_an_address_that_is_refused_is_in_no_answer(page: Page, url: str) -> None:
    def check(settings: object) -> bytes:
        return page.client.ask("POST", "/config/check", {"yaml": json.dumps(settings)}).body

    answers = [
        page.patch(source=url).body,
        check({"source": {"source": url}}),
        check({"mqtt": {"broker": url}}),
        check({"web": {"webhooks": [{"url": url}]}}),
        *(page.client.ask("POST", "/probe/source", {key: url}).body for key in ("source", "camera")),
        page.client.ask("POST", "/probe/broker", {"broker": url}).body,
        page.client.ask("GET", "/audit").body,
    ]
    assert not [answer for answer in answers if b"hunter2" in answer]
