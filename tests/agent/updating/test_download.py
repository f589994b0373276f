import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_store_server import BundleStoreServer, https_store
from certificate_maker import Authority
from mqtt_listener import wait_until

from zsad_agent.config import UpdateConfig
from zsad_agent.updating import Download, DownloadError, check_url
from zsad_agent.updating import download as download_module

CONTENT = bytes(range(256)) * 200  # 51 200 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def store(tmp_path: Path, authority: Authority) -> Iterator[BundleStoreServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/new.zip").write_bytes(CONTENT)
    with https_store(tmp_path / "served", authority) as server:
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(download_module, "LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "update").mkdir()
    return tmp_path / "update" / "new.zip"


def make(url: str, target: Path, authority: Authority | None, **changes: object) -> Download:
    config = UpdateConfig(
        ca_file=None if authority is None else authority.cert, timeout_s=changes.pop("timeout_s", 60.0)
    )
    return Download(url, target, **{"size": len(CONTENT), "sha256": SHA256, "config": config} | changes)


@pytest.mark.parametrize("how", ["", "/busy", "/cut", "/slow"])
def test_file_is_fetched_also_from_a_store_that_is_busy_slow_or_cuts_off(
    how: str, store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    seen: list[int] = []
    make(f"{store.url}{how}/new.zip", target, authority, progress=seen.append).run()
    assert target.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT) and [path.name for path in target.parent.iterdir()] == ["new.zip"]
    if how == "/cut":
        assert store.asked[:3] == ["/cut/new.zip", "/cut/new.zip bytes=10000-", "/cut/new.zip bytes=20000-"]


def test_redirect_to_the_same_scheme_is_followed(store: BundleStoreServer, target: Path, authority: Authority) -> None:
    make(f"{store.url}/redirect/{store.url}/new.zip", target, authority).run()
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT[:20_000], b"x" * 20_000, CONTENT + b"more", CONTENT])
def test_what_an_earlier_process_left_is_continued_or_fetched_again(
    left: bytes, store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    target.with_name("new.zip.part").write_bytes(left)
    make(f"{store.url}/new.zip", target, authority).run()
    assert target.read_bytes() == CONTENT
    assert len(store.asked) == (0 if left == CONTENT else 2 if left.startswith(b"x") else 1)


REFUSED = {
    "file:///etc/passwd": "scheme 'file' is not known",
    "ftp://host/x": "scheme 'ftp' is not known",
    "data:,x": "expected http",
    "http://store.example/new.zip": "only fetched from this machine",
    "https://user:secret@host/x": "user or password",
    "https://host/a b": "blank",
    "https://host/ü": "not ASCII",
    "https://[::1/x": "url: ",
    "{store}/redirect/http://127.0.0.1:1/new.zip": "a redirect from https to http is not followed",
    "{store}/redirect/file:///etc/passwd": "scheme 'file' is not known",
    "{store}/redirect/http://[x": "a redirect to an address that is not valid",
    "{store}/redirect//redirect/": "more than 5 redirects",
    "{store}/none.zip": "answered 404",
    "{store}/endless/new.zip": "more than 51200 bytes",
    "{store}/zeros/new.zip": "sha256 is",
    "{store}/large.zip": "the store has 60000 bytes, the command says 51200",
}


@pytest.mark.parametrize("url", REFUSED)
def test_evil_address_or_answer_is_refused_with_the_reason(
    url: str, store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    (store.folder / "large.zip").write_bytes(bytes(60_000))
    with pytest.raises(DownloadError) as refused:
        make(url.replace("{store}", store.url), target, authority).run()
    assert REFUSED[url] in str(refused.value) and "secret" not in str(refused.value)
    assert not target.exists()


def test_certificate_must_be_of_a_known_authority_and_for_the_host(
    store: BundleStoreServer, target: Path, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="certificate is not trusted"):
        make(f"{store.url}/new.zip", target, None).run()
    (tmp_path / "other").mkdir()
    with pytest.raises(DownloadError, match="certificate is not trusted"):
        make(f"{store.url}/new.zip", target, Authority(tmp_path / "other")).run()
    with (
        BundleStoreServer(store.folder, authority.sign("elsewhere", hosts=("elsewhere.example",))) as server,
        pytest.raises(DownloadError, match="certificate is not trusted"),
    ):
        make(f"{server.url}/new.zip", target, authority).run()
    with pytest.raises(DownloadError, match="cannot be used"):
        config = UpdateConfig(ca_file=tmp_path / "none.pem")
        Download(f"{store.url}/x", target, size=1, sha256=SHA256, config=config).run()


@pytest.mark.parametrize("how", ["drip", "slow"])
def test_slow_store_is_left_after_the_time_limit(
    how: str, store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    started_s = time.monotonic()
    with pytest.raises(DownloadError, match=r"not fetched within 0\.4 s"):
        make(f"{store.url}/{how}/new.zip", target, authority, timeout_s=0.4).run()
    assert time.monotonic() - started_s < 25  # it would drip for 30 s


def test_download_that_is_stopped_ends_and_keeps_its_part(
    store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    fetched = make(f"{store.url}/slow/new.zip", target, authority)
    said: list[str] = []

    def run() -> None:
        try:
            fetched.run()
        except DownloadError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    part = target.with_name("new.zip.part")
    wait_until(lambda: part.exists() and part.stat().st_size > 0)
    fetched.cancel()
    thread.join(60)
    assert "was stopped" in said[0] and 0 < part.stat().st_size < len(CONTENT)


def test_full_disk_is_refused_before_and_during_the_download(
    store: BundleStoreServer, target: Path, authority: Authority
) -> None:
    with pytest.raises(DownloadError, match=r"10 MB free, 100 MB are needed"):
        make(f"{store.url}/new.zip", target, authority, free_bytes=lambda folder: 10_000_000).run()
    assert store.asked == []
    left = iter([300_000_000, 90_000_000])  # others fill it meanwhile
    with pytest.raises(DownloadError, match=r"90 MB free, 100 MB are needed"):
        make(f"{store.url}/new.zip", target, authority, free_bytes=lambda folder: next(left)).run()
    assert list(target.parent.iterdir()) == []
    target.with_name("new.zip.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="cannot be written: No space left"):
        make(f"{store.url}/new.zip", target, authority).run()
    assert list(target.parent.iterdir()) == []


def test_plain_http_is_fetched_from_this_machine_or_by_a_setting(store: BundleStoreServer, target: Path) -> None:
    with BundleStoreServer(store.folder) as server:
        make(f"{server.url}/new.zip", target, None).run()
    assert target.read_bytes() == CONTENT
    assert check_url("http://store.example/x", plain_http=True).host == "store.example"
