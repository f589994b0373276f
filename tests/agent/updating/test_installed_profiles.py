from pathlib import Path

import numpy as np
import pytest
from bundle_attacks import make_key, trusted
from profile_maker import make_profile

from zsad_agent.messages import BundleName
from zsad_agent.model import CameraInUse, Model, ModelInUse
from zsad_agent.teaching import ProfileStore, write_profile
from zsad_agent.updating import InstalledProfiles
from zsad_core.bundle import Bundle, load_bundle, sign_profile
from zsad_core.errors import DeviceError, ProfileError, ZsadError
from zsad_core.part import PartError
from zsad_core.types import Prediction

WHITE = np.full((8, 8, 3), 255, np.uint8)
ANSWER = Prediction(anomaly_map=np.zeros((4, 4), np.float32), anomaly_score=0.1)


class FakePredictor:
    """Answers, or raises `fault`."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.prepared: list[str] = []
        self.asked: list[str | None] = []

    def prepare(self, product: str) -> None:
        self.prepared.append(product)

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        self.asked.append(product)
        if self.fault is not None:
            raise self.fault
        return ANSWER


class Device:
    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder, self.bundle, self.predictor = folder, bundle, FakePredictor()
        self.store = ProfileStore(folder / "profiles")
        models = ModelInUse(Model(bundle=bundle, predictor=self.predictor))
        cameras = [
            CameraInUse(name="cam0", product="nut", images_bgr=[WHITE, WHITE]),
            CameraInUse(name="cam1", product="bolt", images_bgr=[WHITE]),
        ]
        self.profiles = InstalledProfiles(self.store, models, lambda: cameras, [trusted(make_key(1))])

    def file(self, seed: int, *, key: int = 1, sha256: str | None = None) -> Path:
        """A signed profile of `nut`, made with the bundle in use."""
        path = self.folder / f"{seed}.profile"
        made_with = BundleName(name="darkness", version="1", sha256=sha256 or self.bundle.sha256)
        write_profile(make_profile("nut", seed=seed, bundle=made_with), path)
        sign_profile(path, make_key(key))
        return path


@pytest.fixture
def device(tiny_bundle: Path, tmp_path: Path) -> Device:
    return Device(tmp_path, load_bundle(tiny_bundle))


def test_profile_is_tried_on_pictures_of_its_product_and_left_again(device: Device) -> None:
    device.profiles.use(device.file(1))
    first = device.profiles.in_use("nut")
    device.profiles.use(device.file(2))
    assert device.predictor.asked == ["nut"] * 4 and device.profiles.in_use("nut") not in (None, first)
    device.profiles.leave("nut")
    assert device.profiles.in_use("nut") == first and device.predictor.prepared == ["nut"] * 3
    with pytest.raises(ProfileError, match="there is no earlier one"):
        device.profiles.leave("nut")


def test_profile_without_an_answer_leaves_what_was_in_use(device: Device) -> None:
    device.predictor.fault = DeviceError("no valid map")
    with pytest.raises(DeviceError):
        device.profiles.use(device.file(1))
    assert device.profiles.in_use("nut") is None
    device.predictor.fault = PartError("the picture shows no part")  # is not the profile's fault
    device.profiles.use(device.file(1))
    first = device.profiles.in_use("nut")
    device.predictor.fault = DeviceError("no valid map")
    for fault in (device.predictor.fault, MemoryError()):
        device.predictor.fault = fault
        with pytest.raises(type(fault)):
            device.profiles.use(device.file(2))
        assert device.profiles.in_use("nut") == first
    device.predictor.fault = DeviceError("no valid map")
    assert device.profiles.in_use("nut") == first
    with pytest.raises(DeviceError):
        device.profiles.use(device.file(1))  # the one that is in use
    assert device.profiles.in_use("nut") == first


def test_profile_of_a_stranger_or_of_another_bundle_is_refused(device: Device) -> None:
    with pytest.raises(ZsadError, match="signed with key"):
        device.profiles.use(device.file(1, key=2))
    with pytest.raises(ProfileError, match="this device uses darkness"):
        device.profiles.use(device.file(2, sha256="cd" * 32))
    with pytest.raises(ProfileError, match="cannot be read"):
        device.profiles.use(device.folder / "none.profile")
    assert device.profiles.in_use("nut") is None and device.predictor.prepared == []
