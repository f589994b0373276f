import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_attacks import make_key, write_public_key

from zsad_agent.cli.check import find_faults
from zsad_agent.cli.main import main
from zsad_agent.config import default_cache_dir, default_state_dir, load_settings
from zsad_agent.doctor import machine
from zsad_agent.teaching import ProfileStore
from zsad_core.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "source:\n  camera: 0\n  fps: 5.0\ninference:\n  product: bottle\n")
    settings = load_settings(path, {"source": {"source": "v.avi"}, "decision": {"threshold": 0.7}})
    config = settings.config
    assert (config.source.source, config.source.camera, config.source.fps) == ("v.avi", None, 5.0)
    assert (config.inference.product, config.decision.threshold) == ("bottle", 0.7)


def test_camera_of_the_command_line_has_no_settings_of_the_files_camera(tmp_path: Path) -> None:
    path = write(tmp_path, "source:\n  aravis: V-1\n  aravis_trigger: software\n  pixel_format: Mono12p\n  fps: 5.0\n")
    assert load_settings(path).config.source.origin == "V-1"
    source = load_settings(path, {"source": {"camera": "0"}}).config.source
    assert (source.origin, source.aravis_trigger, source.pixel_format, source.fps) == ("0", "off", None, 5.0)


def test_faults_name_the_file_or_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "source:\n  camera: 0\n  speed: 5\n")
    with pytest.raises(ConfigError, match=r"agent\.yaml:3: source\.speed: unknown key\. Known here: aravis, "):
        load_settings(path)
    with pytest.raises(ConfigError, match=r"command line: decision\.threshold: got 7\.0"):
        load_settings(write(tmp_path, ""), {"decision": {"threshold": 7.0}})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("source:\n  camera: 0\n  source: rtsp://u:secret@h/x\n", r"agent\.yaml:1: source: .*both set"),
        ("source:\n  camera: 0\n  width: 1280\n", r"agent\.yaml:1: source: .*set both or neither"),
        ("source:\n  camera: 0\n  height: 720\n", r"agent\.yaml:1: source: .*set both or neither"),
        ("source:\n  camera: 0\n  aravis: V-1\n", r"agent\.yaml:1: source: .*camera and aravis are both set"),
        ("source:\n  source: /d\n  gain: 1.0\n", r"agent\.yaml:1: source: .*gain needs camera or aravis"),
        ("source:\n  camera: 0\n  pixel_format: Mono12\n", r"agent\.yaml:1: source: .*at most four characters"),
        ("source:\n  camera: 0\n  aravis_trigger: software\n", r"agent\.yaml:1: source: .*needs aravis"),
        ("source:\n  aravis: V-1\n  aravis_trigger: Line1\n", r"agent\.yaml:3: source\.aravis_trigger: got 'Line1'"),
        (
            "source:\n  aravis: V-1\n  aravis_trigger: hardware Line1\n  trigger: mqtt\n",
            r"agent\.yaml:1: source: .*needs trigger: free",
        ),
        ("source:\n  source: rtsp://h/x\n  snapshot: true\n", r"agent\.yaml:1: source: .*snapshot needs source"),
        ("decision:\n  debounce_k: 3\n  debounce_n: 2\n", r"agent\.yaml:1: decision: .*at most debounce_n, 2"),
        ("source:\n  source: /d\n  sort_by_verdict: true\n", r"agent\.yaml:1: source: .*needs trigger: folder"),
        ("source:\n  camera: -1\n", r"agent\.yaml:2: source\.camera: got -1"),
        ("source:\n  name:\n", r"agent\.yaml:2: source\.name: has no value\. Give it one or leave the key out"),
        ("source:\n  source: ''\n", r"agent\.yaml:2: source\.source: got ''"),
        ("source:\n  camera: 0\n  source: http://h/x?token=secret\n", r"'source': 'http://h/x\?…'"),
        ("mqtt:\n  broker: mqtt://u:secr/et@secret@h\n", r"agent\.yaml:2: mqtt\.broker: got 'mqtt://\*\*\*@h'"),
        ("mqtt:\n  broker: mqtt://h:0\n", r"agent\.yaml:2: mqtt\.broker: got .*a port from 1"),
        ("mqtt:\n  broker: mqtt://a b\n", r"agent\.yaml:2: mqtt\.broker: got .*a blank"),
        ("mqtt:\n  client_id: a b\n", r"agent\.yaml:2: mqtt\.client_id: got 'a b'.*should match pattern"),
        ("- a\n", r"agent\.yaml:1: expected keys and values"),
    ],
)
def test_contradictions_are_named_by_line_without_credentials(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        load_settings(write(tmp_path, text))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("rtsp://admin:p#secret@10.0.0.7/x", "%23 for #"),
        ("rtsp://admin:p/secret@10.0.0.7/x", "%2F for /"),
        ("rtsp://admin:p?secret@10.0.0.7/x", "%3F for ?"),
        ("rtsp://admin:p@secret@10.0.0.7/x", "%40 for @"),
        ("rtsp://admin:se%cret@10.0.0.7/x", "%25 for %"),
        ("rtsp://admin:[secret]@10.0.0.7/x", "needs an escape"),
        ("rtsp://admin:12/secret@10.0.0.7/x", "%2F for /"),
        ("http://secret:#%&wL1@*tU123zv@192.168.101.73:8090/x", "%23 for #"),
        ("rtsp://u:p #secret@h/x", "a blank"),
        ("rtsp://10.0.0.7:99999/x", "from 1 to 65535"),
        ("rtsp://10.0.0.7:0/x", "from 1 to 65535"),
        ("rtsp://10.0.0.7:/x", "a port number"),
        ("rtsp://10.0.0.7:abc/x", "a port number"),
        ("rtsp://u:secret", "YAML ends a value at a blank and #"),
        ("rtsp:///x", "no host"),
        ("http://", "no host"),
        ("http://?x", "no host"),
        ("rtsp://u:secret@/x", "no host"),
        ("rtsp://::1:8554/x", r"[::1]"),
        ("rtsp://[::1/x", "more than one colon"),
        ("rtsp://camera..example/x", "no name before or after a dot"),
        ("rtsp://.camera/x", "no name before or after a dot"),
        (f"http://{'a' * 64}.example/x", "more than 63 characters"),
        ("rtsp://[::g]/x", "not an IPv6 address"),
        ("rtsp://10.0.0.300/x", "not an IPv4 address"),
        ("rtsp://10.0.0 .7/x", "a blank"),
        ("rtsp://10.0.0.7/x\t", "a blank"),
        ("rtsp://ho,st/x", "no host name has"),
        ("rtsp:/10.0.0.7/x", "expected ://"),
        ("HTTP:10.0.0.7/x", "expected ://"),
        ("ftp://u:secret@h/x", "scheme 'ftp' is not known"),
    ],
)
def test_address_that_cannot_be_opened_is_refused_for_streams_and_brokers(tmp_path: Path, url: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, f"source:\n  source: {json.dumps(url)}\n"))
    assert "agent.yaml:2: source.source: got" in str(caught.value) and fault in str(caught.value)
    assert "secret" not in str(caught.value)
    if not url.startswith(("ftp:", "rtsp:/1", "HTTP:")):
        broker = "mqtt" + url[url.index(":") :]
        with pytest.raises(ConfigError) as caught:
            load_settings(write(tmp_path, f"mqtt:\n  broker: {json.dumps(broker)}\n"))
        assert fault in str(caught.value) or "credentials do not belong" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("HTTP://Host:80/X", "http://Host:80/X"),
        (
            "Rtsp://u:p%23%40:!$&'()*+,;=~@cam-1.local/a%20b?c=d@e",
            "rtsp://u:p%23%40:!$&'()*+,;=~@cam-1.local/a%20b?c=d@e",
        ),
        ("rtsp://[fe80::1%eth0]:8554/x", "rtsp://[fe80::1%eth0]:8554/x"),
        ("https://h/@user/live", "https://h/@user/live"),
        ("http://10.0.0.7:8080/cam@2", "http://10.0.0.7:8080/cam@2"),
        ("/data/odd:name@1/#?.png", "/data/odd:name@1/#?.png"),
    ],
)
def test_only_the_case_of_the_scheme_of_an_address_is_changed(tmp_path: Path, url: str, kept: str) -> None:
    settings = load_settings(write(tmp_path, f"source:\n  source: {json.dumps(url)}\n"))
    assert settings.config.source.source == kept


def test_scheme_of_a_broker_may_be_in_upper_case(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "mqtt:\n  broker: MQTTS://Broker:8883\n  tls: {ca_file: /x}\n"))
    assert settings.config.mqtt.broker == "mqtts://Broker:8883"


def test_check_names_every_fault_by_line_and_key(tmp_path: Path, tiny_bundle: Path) -> None:
    path = write(
        tmp_path,
        f"source:\n  source: {tmp_path}/nix.avi\n"
        f"inference:\n  bundle: {tiny_bundle}\n  product: bottles\n  device: TPU\n"
        f"mqtt:\n  username: me\n  password_file: {tmp_path}/nix\n",
    )
    faults = list(find_faults(load_settings(path)))
    assert len(faults) == 4
    assert faults[0].startswith(f"{path}:2: source.source: {tmp_path}/nix.avi: no such")
    assert faults[1].startswith(f"{path}:5: inference.product: product 'bottles' is not in the bundle")
    assert faults[2].startswith(f"{path}:6: inference.device: ") and "Present here: CPU" in faults[2]
    assert faults[3].startswith(f"{path}:9: mqtt.password_file: ")


def test_check_names_a_default_that_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, f"inference:\n  bundle: {tmp_path}/no-bundle\n")
    (fault,) = find_faults(load_settings(path))
    assert fault.startswith(f"{path}:2: inference.bundle: {tmp_path}/no-bundle: no such bundle")


def test_check_names_unusable_keys_and_a_bundle_without_a_trusted_signature(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "text.pub").write_text("no key")
    write_public_key(tmp_path / "line.pub", make_key(1))
    keys = f"{tmp_path}/line.pub, {tmp_path}/text.pub, {tmp_path}/none.pub"
    path = write(tmp_path, f"inference:\n  bundle: {tiny_bundle}\n  trusted_keys: [{keys}]\n")
    faults = list(find_faults(load_settings(path)))
    assert [fault.removeprefix(f"{path}:3: inference.trusted_keys: ") for fault in faults] == [
        f"{tmp_path}/text.pub: not a PEM file of a public key. zsad-convert keygen makes one.",
        f"{tmp_path}/none.pub: cannot be read: No such file or directory",
    ]
    path = write(tmp_path, f"inference:\n  bundle: {tiny_bundle}\n  trusted_keys: [{tmp_path}/line.pub]\n")
    (fault,) = find_faults(load_settings(path))
    assert fault.startswith(f"{path}:2: inference.bundle: {tiny_bundle}: not signed")


def test_check_accepts_a_camera_that_is_missing(tmp_path: Path, tiny_bundle: Path) -> None:
    path = write(tmp_path, f"source:\n  camera: 250\ninference:\n  bundle: {tiny_bundle}\n")
    assert list(find_faults(load_settings(path))) == []


def test_check_accepts_a_credential_that_only_the_service_gets(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    of_bundle = f"inference:\n  bundle: {tiny_bundle}\nmqtt:\n  password_credential: mqtt\n"
    assert list(find_faults(load_settings(write(tmp_path, f"{of_bundle}  username: me\n")))) == []
    (fault,) = find_faults(load_settings(write(tmp_path, of_bundle)))
    assert "there is no mqtt.username" in fault
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # as the service
    (fault,) = find_faults(load_settings(write(tmp_path, f"{of_bundle}  username: me\n")))
    assert "mqtt.password_credential" in fault


def test_check_of_root_looks_for_products_where_the_service_stores_them(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, f"inference:\n  bundle: {tiny_bundle}\n")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(machine, "DEFAULT_CONFIG_PATH", path)
    monkeypatch.setattr(machine, "UNITS", [path])
    looked_in: list[Path] = []

    def products(store: ProfileStore) -> list[str]:
        looked_in.append(store.folder)
        return []

    monkeypatch.setattr(ProfileStore, "products", products)
    assert list(find_faults(load_settings(path))) == []
    assert set(looked_in) == {Path("/var/lib/zsad-agent/profiles")}


def test_check_command_exits_two_with_a_line_for_each_fault(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, f"inference:\n  bundle: {tiny_bundle}\n")
    assert main(["check", "--config", str(path)]) == 0
    assert "no faults" in capsys.readouterr().out
    path.write_text("inference:\n  bundle: /nowhere\n  product: screw\nmqtt:\n  password_file: /nowhere\n")
    assert main(["check", "--config", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert main(["check", "--config", str(tmp_path / "nix.yaml")]) == 2
    assert "nix.yaml: cannot be read" in capsys.readouterr().err


def test_empty_section_is_like_an_omitted_one(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "mqtt:\ninference:\n")).config == load_settings(write(tmp_path, "")).config


@pytest.mark.parametrize("folder", [default_state_dir, default_cache_dir])
def test_error_for_a_user_without_a_home_names_the_variable_to_set(
    folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "not/absolute")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # not used
    with pytest.raises(ConfigError, match=r"no home folder\. Set XDG_(STATE|CACHE)_HOME to an absolute path"):
        folder()
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/var/tmp")
    assert folder() == Path("/var/tmp/zsad-agent")


def test_default_cache_folder_is_resolved_when_the_config_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "first"))
    config = load_settings(write(tmp_path, "")).config
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "second"))
    assert config.inference.cache_dir == tmp_path / "first" / "compiled"


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("http:\n  listen: off\nspool:\n  pictures: off\n")
    config = load_settings(path).config
    assert (config.http.listen, config.spool.pictures) == ("off", "off")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cameras:\n- {name: a, source: x}\n- {name: a, source: y}\n", "a is the name of more than one"),
        ("cameras:\n- {name: stats, source: x}\n", "cannot be called stats"),
        ("cameras:\n- {name: a}\n", "a names no camera, source or aravis"),
        ("source: {camera: 0}\ncameras:\n- {name: a, source: x}\n", "source and cameras both name a camera"),
        ("cameras:\n- {name: a, source: x, treshold: 1}\n", ":2: cameras.0.treshold: "),
        ("source: {fps: 5}\ncameras:\n- {name: a, source: x}\n", "source is not used beside cameras"),
        (
            "cameras:\n- {name: a, source: /x, trigger: folder}\n- {name: b, source: /x/y/.., trigger: folder}\n",
            "/x is watched by more than one",
        ),
        ("source: {camera: 0, trigger: folder}\n", "trigger: folder needs source"),
        ("plant:\n  gpio: [{chip: /dev/gpiochip0}]\n", ":2: plant.gpio.0: "),
        ("plant:\n  gpio:\n  - {chip: gpiochip0, ok: 1}\n", ":3: plant.gpio.0.chip: got 'gpiochip0'"),
        (
            "plant:\n  gpio:\n  - {chip: /dev/g, ok: -1}\n",
            ":3: plant.gpio.0.ok: got -1. expected the line's number, from 0 on",
        ),
        ("plant:\n  gpio:\n  - {chip: /dev/g, ok: yes}\n", "expected the line's number, from 0 on, or its name"),
        ("plant:\n  programs: [a, b, a]\n", ":2: plant.programs: got 'a'. It is there more than once"),
        (
            "plant:\n  gpio:\n  - chip: /dev/g\n    ok: 17\n    ng: '017'\n",
            ":5: plant.gpio.0.ng: got '017'. plant.gpio.0.ok has this line of /dev/g too",
        ),
        (
            "plant:\n  gpio:\n  - {chip: /dev/g, ok: 1}\n  - {chip: /dev/../dev/g, ng: '1'}\n",
            ":4: plant.gpio.1.ng: got '1'. plant.gpio.0.ok has this line of /dev/../dev/g too",
        ),
        (
            "plant:\n  gpio:\n  - chip: /dev/g\n    ok: 1\n    reject_delay_ms: 300\n",
            ":5: plant.gpio.0.reject_delay_ms: got 300.0. It has no effect without the line reject",
        ),
        (
            "plant:\n  gpio: [{chip: /dev/g, reject: 1, hold_ms: 300}]\n",
            ":2: plant.gpio.0.hold_ms: got 300.0. It has no effect without the line ok or ng or unknown",
        ),
        (
            "plant:\n  gpio:\n  - {chip: /dev/g, ok: 1, camera: cam1}\n",
            "gpio.0: got '/dev/g'. camera is cam1, but the cameras are cam0",
        ),
        (
            "cameras:\n- {name: a, source: x}\n- {name: b, source: y}\nplant:\n  gpio: [{chip: /dev/g, ok: 1}]\n",
            "camera is not set, but the cameras are a, b",
        ),
        ("source: {camera: 0, trigger: plc}\n", ":1: source.trigger: got 'plc'. It needs plant.modbus or plant.opcua"),
        (
            "cameras:\n- {name: a, camera: 0}\n- name: b\n  camera: 1\n  trigger: plc\n",
            ":5: cameras.1.trigger: got 'plc'. It needs plant.modbus or plant.opcua",
        ),
        (
            "source: {camera: 0}\nplant:\n  opcua:\n    listen: 127.0.0.1:4840\n",
            ":4: plant.opcua.listen: got '127.0.0.1:4840'. A PLC triggers cameras with trigger: plc or mqtt",
        ),
        ("mqtt:\n  tls: {ca_file: /x}\n", "tls is set, but broker is mqtt://localhost:1883"),
        ("mqtt:\n  broker: mqtts://b\n  tls: {cert_file: /x}\n", "cert_file and key_file go together"),
        ("mqtt:\n  password_file: /x\n  password_credential: y\n", "keep one of them"),
    ],
)
def test_sections_that_contradict_themselves_are_faults(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert fault in str(caught.value)
    assert "(top level): got" not in str(caught.value)  # the whole file


PORTS = (
    "web: {{listen: '{}'}}\nmqtt: {{broker: embedded}}\nhttp: {{listen: '127.0.0.1:1'}}\n"
    "source: {{camera: 0, trigger: plc}}\n"
    "plant:\n  modbus:\n    listen: '{}'\n  opcua:\n    listen: '{}'\n"
)


@pytest.mark.parametrize(
    ("listens", "fault"),
    [
        (("127.0.0.1:5", "127.0.0.1:6", "127.0.0.1:6"), ":9: plant.opcua.listen: got '127.0.0.1:6'. plant.modbus.li"),
        (("127.0.0.1:5", "localhost:5", "off"), ":7: plant.modbus.listen: got 'localhost:5'. web.listen has this port"),
        (("off", "off", "0.0.0.0:1883"), ":9: plant.opcua.listen: got '0.0.0.0:1883'. mqtt.broker has this port too"),
        (("[::]:1", "off", "127.0.0.1:7"), ":1: web.listen: got '[::]:1'. http.listen has this port too, 127.0.0.1:1"),
        (("192.168.0.1:5", "192.168.1.1:5", "off"), None),
        (("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"), None),
    ],
)
def test_two_servers_have_no_common_port(tmp_path: Path, listens: tuple[str, ...], fault: str | None) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(PORTS.format(*listens))
    if fault is None:
        load_settings(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert fault in str(caught.value)


def test_a_camera_without_product_and_decision_uses_the_common_sections(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "inference: {product: bottle}\ndecision: {threshold: 0.3}\ncameras:\n- {name: a, source: x}\n"
        "- {name: b, camera: 1, product: can, decision: {hold_s: 2.0}}\n"
    )
    first, second = load_settings(path).config.every_camera
    assert (first.product, first.decision and first.decision.threshold) == ("bottle", 0.3)
    assert (second.product, second.decision and second.decision.threshold) == ("can", None)


def test_a_camera_on_the_command_line_replaces_all_cameras_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "cameras:\n- {name: a, source: x}\n- {name: b, source: y}\n")
    cameras = load_settings(path, {"source": {"camera": "3"}}).config.every_camera
    assert [(camera.name, camera.camera) for camera in cameras] == [("cam0", "3")]


def test_other_flags_override_every_camera_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "cameras:\n- {name: a, source: x, product: can, fps: 2, decision: {threshold: 0.9, hold_s: 2.0}}\n"
        "- {name: b, source: y}\n",
    )
    flags = {"source": {"fps": 5.0, "loop": True}, "inference": {"product": "bottle"}, "decision": {"threshold": 0.1}}
    first, second = load_settings(path, flags).config.every_camera
    for camera in (first, second):
        assert (camera.product, camera.fps, camera.loop) == ("bottle", 5.0, True)
        assert camera.decision is not None and camera.decision.threshold == 0.1
    assert first.decision is not None and first.decision.hold_s == 2.0


def test_a_bundle_name_that_is_too_long_for_a_file_is_a_fault_of_its_key(tmp_path: Path) -> None:
    (fault,) = find_faults(load_settings(write(tmp_path, f"inference:\n  bundle: {'a' * 300}\n")))
    assert "inference.bundle" in fault and "File name too long" in fault
