import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import pytest

from zsad_agent.config import HealthConfig
from zsad_agent.picture_health import PictureHealth, Reference, load_reference, make_reference, save_reference, unfit
from zsad_agent.picture_health.health import CONFIRM_LOOKS, REFERENCE_EVERY_S, structure
from zsad_agent.picture_health.scene import small_height, views
from zsad_agent.sources import Picture
from zsad_agent.tools.reference import describe, take_reference
from zsad_core.errors import ConfigError, ImageError, SourceError
from zsad_core.picture import read_image

STREAM = Path(__file__).parents[3] / "demo" / "stream"
W, H = 640, 360
MARGIN = 160


def draw_machine(seed: int) -> np.ndarray:
    """A grey belt with marks, bolts and rails, larger than a frame on every side."""
    random = np.random.default_rng(seed)
    scene = np.full((H + 2 * MARGIN, W + 2 * MARGIN, 3), 110, np.uint8)
    for _ in range(90):
        x, y = (int(random.integers(0, side)) for side in (scene.shape[1], scene.shape[0]))
        w, h = (int(side) for side in random.integers(10, 70, 2))
        cv2.rectangle(scene, (x, y), (x + w, y + h), random.integers(20, 230, 3).tolist(), -1)
    return scene


MACHINE = draw_machine(1)


class Line:
    """Noisy frames of parts, bright discs, at varied places over the machine."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(5)

    def frame(
        self,
        machine: np.ndarray = MACHINE,
        *,
        shift_xy: tuple[int, int] = (0, 0),
        blur: float = 0.0,
        gain: float = 1.0,
        noise: float = 3.0,
        radius: int = 50,
    ) -> np.ndarray:
        x, y = MARGIN - shift_xy[0], MARGIN - shift_xy[1]
        image = machine[y : y + H, x : x + W].copy()
        centre = (int(self._random.integers(60, W - 60)), int(self._random.integers(60, H - 60)))
        cv2.circle(image, centre, radius, (200, 210, 220), -1)
        if blur:
            image = cv2.GaussianBlur(image, (0, 0), blur)
        noisy = image * gain + self._random.normal(0, noise, image.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference() -> Reference:
    line = Line()
    return make_reference(line.frame() for _ in range(20))


def judge(health: PictureHealth, images: Iterator[np.ndarray] | list[np.ndarray]) -> list[str | None]:
    return [health.judge(image, index * REFERENCE_EVERY_S) for index, image in enumerate(images)]


def noise_at(level: int, spread: int = 4) -> np.ndarray:
    random = np.random.default_rng()
    return random.integers(max(0, level - spread), min(255, level + spread) + 1, (48, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 3])
def test_black_picture_is_refused_at_once_and_reported_when_it_lasts(level: int) -> None:
    health = PictureHealth(HealthConfig(), None)
    for index in range(1, CONFIRM_LOOKS + 1):
        reason = health.judge(noise_at(level, 1), 0.0)
        assert reason is not None and reason.startswith("black picture: ")
        assert (health.stated is not None) == (index >= CONFIRM_LOOKS)


@pytest.mark.parametrize(("bits", "channels", "hinted"), [(10, 1, True), (12, 1, True), (12, 3, False), (0, 1, False)])
def test_a_dark_grey_picture_names_the_setting_for_files_of_fewer_bits(
    tmp_path: Path, bits: int, channels: int, hinted: bool
) -> None:
    grey = np.random.default_rng(0).integers(0, 1 << bits, (100, 100, channels)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "part.png"), grey)
    finding = unfit(read_image(tmp_path / "part.png"), HealthConfig())
    assert finding is not None and finding.reason.startswith("black picture: ")
    assert ("set source.bit_depth" in finding.reason) == hinted
    if hinted:
        assert unfit(read_image(tmp_path / "part.png", bits), HealthConfig()) is None


def test_one_unusual_frame_does_not_change_the_reported_health() -> None:
    health = PictureHealth(HealthConfig(), None)
    good, black = noise_at(90), noise_at(0, 0)
    assert health.judge(good, 0.0) is None
    assert health.judge(black, 0.1) is not None
    assert health.judge(good, 0.2) is None
    assert health.stated is None


def test_every_picture_is_refused_until_enough_good_ones_came() -> None:
    health = PictureHealth(HealthConfig(), None)
    judge(health, [noise_at(0, 0)] * CONFIRM_LOOKS)
    stated = health.stated
    reasons = judge(health, [noise_at(90) for _ in range(CONFIRM_LOOKS)])
    assert reasons == [stated] * (CONFIRM_LOOKS - 1) + [None]
    assert health.stated is None


def test_overexposed_picture_is_refused_and_one_with_a_dark_part_is_not() -> None:
    white = np.full((120, 160, 3), 255, np.uint8)
    health = PictureHealth(HealthConfig(), None)
    assert "overexposed" in str(health.judge(white, 0.0))
    white[50:70, 50:70] = 30  # 2 %: a small part on a back-light
    assert health.judge(white, 0.1) is None


def test_dark_field_with_one_bright_scratch_is_no_black_picture() -> None:
    dark = np.zeros((120, 160, 3), np.uint8)
    dark[:, 40:48] = 200
    assert PictureHealth(HealthConfig(), None).judge(dark, 0.0) is None


def covered_lens(kind: str, wh: tuple[int, int], colour_bgr: tuple[int, int, int], noise: float) -> np.ndarray:
    """A hand, paper or paint over the lens: one colour, shading, or soft blots of paper, with the noise of a sensor."""
    random = np.random.default_rng(7)
    across, down = np.meshgrid(np.linspace(-1, 1, wh[0]), np.linspace(-1, 1, wh[1]))
    light = {"flat": 0 * down, "gradient": 0.4 * across + 0.2 * down, "vignette": -0.35 * (across**2 + down**2)}
    image = np.array(colour_bgr) * (1 + light.get(kind, light["vignette"]))[..., None]
    if kind == "paper":
        blots = cv2.GaussianBlur(cv2.resize(random.normal(0, 1, (60, 80)), wh), (0, 0), wh[0] / 30)
        image += (3 * blots / blots.std())[..., None]
    return np.clip(image + random.normal(0, noise, (*wh[::-1], 1)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [None, 70, 95])
@pytest.mark.parametrize("noise", [1, 8])
@pytest.mark.parametrize("colour_bgr", [(110, 140, 190), (230, 235, 235)])
@pytest.mark.parametrize("wh", [(640, 480), (1280, 720)])
@pytest.mark.parametrize("kind", ["flat", "gradient", "vignette", "paper"])
def test_covered_lens_shows_no_structure(
    kind: str, wh: tuple[int, int], colour_bgr: tuple[int, int, int], noise: float, quality: int | None
) -> None:
    image = covered_lens(kind, wh, colour_bgr, noise)
    if quality is not None:
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    finding = unfit(image, HealthConfig())
    assert finding is not None and finding.kind == "plain" and "health.plain_below is 1.2" in finding.reason


@pytest.mark.parametrize("wh", [(200, 200), (640, 480), (1920, 1080), (4096, 300), (90, 4000)])
def test_plain_sheet_with_grain_and_one_with_a_scratch_have_structure(wh: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    block = max(1, min(max(wh) // 48, 16, min(wh) // 8))
    grain = cv2.resize(random.normal(0, 3, (wh[1] // block, wh[0] // block)), wh, interpolation=cv2.INTER_NEAREST)
    sheet = np.full((*wh[::-1], 3), 128, np.uint8)
    assert unfit(sheet, HealthConfig()) is not None
    assert unfit((sheet + grain[..., None]).astype(np.uint8), HealthConfig()) is None
    cv2.line(sheet, (wh[0] // 4, wh[1] // 3), (wh[0] // 2, wh[1] // 2), (90, 90, 90), max(2, wh[0] // 200))
    assert unfit(sheet, HealthConfig()) is None


def test_pictures_of_parts_have_far_more_structure_than_the_limit() -> None:
    pictures = [cv2.imread(str(path)) for path in sorted(STREAM.glob("*.jpg"))]
    assert len(pictures) >= 12
    assert min(structure(picture) for picture in pictures) > 10 * HealthConfig().plain_below


@pytest.mark.parametrize("bits", [10, 12])
def test_ten_and_twelve_bits_in_a_16_bit_file_are_dark(bits: int, tmp_path: Path) -> None:
    grey = cv2.imread(str(next(STREAM.glob("*.jpg"))), cv2.IMREAD_GRAYSCALE).astype(np.uint32)
    cv2.imwrite(str(tmp_path / "part.png"), (grey * (2**bits - 1) // 255).astype(np.uint16))
    finding = unfit(read_image(tmp_path / "part.png"), HealthConfig())
    assert finding is not None and finding.kind == "black"


def test_extreme_limits_switch_the_checks_off() -> None:
    health = PictureHealth(HealthConfig(dark_below=0, bright_above=255, plain_below=0, frozen_after_s=0), None)
    assert health.judge(np.zeros((48, 64, 3), np.uint8), 0.0) is None
    assert health.judge(np.full((48, 64, 3), 255, np.uint8), 1.0) is None
    assert [health.judge(np.full((48, 64, 3), 90, np.uint8), 100.0 * index) for index in range(5)] == [None] * 5


def test_picture_repeated_bit_for_bit_is_frozen_after_its_time_and_not_before() -> None:
    health = PictureHealth(HealthConfig(frozen_after_s=10), None)
    picture = noise_at(90)
    assert [health.judge(picture.copy(), second) for second in range(10)] == [None] * 10
    assert health.judge(picture.copy(), 10.0) == "frozen picture: the same, bit for bit, for 10 s"
    assert health.judge(noise_at(90), 10.1) is None


def test_picture_that_differs_in_one_bit_is_not_frozen() -> None:
    health = PictureHealth(HealthConfig(frozen_after_s=1), None)
    picture = noise_at(90)
    for second in range(30):
        picture = picture.copy()
        picture[31, 17, second % 3] ^= 1
        assert health.judge(picture, float(second)) is None


def test_long_gap_between_two_equal_pictures_does_not_prove_a_frozen_camera() -> None:
    health = PictureHealth(HealthConfig(frozen_after_s=10), None)
    picture = noise_at(90)
    assert health.judge(picture, 0.0) is None
    assert health.judge(picture.copy(), 1000.0) is None


@pytest.mark.parametrize(
    "changes",
    [{}, {"gain": 0.6}, {"gain": 1.2}, {"noise": 8}, {"radius": 110}, {"shift_xy": (4, 2)}, {"blur": 0.5}],
    ids=str,
)
def test_normal_line_has_no_health_fault(reference: Reference, changes: dict[str, object]) -> None:
    line = Line()
    health = PictureHealth(HealthConfig(), reference)
    assert judge(health, [line.frame(**changes) for _ in range(10)]) == [None] * 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blur": 3.0}, "out of focus: the sharpness is 0."),
        ({"blur": 3.0, "gain": 1.2, "noise": 6}, "out of focus"),
        ({"shift_xy": (32, 0)}, "moved camera: the fixed background is shifted by 5.0%"),
        ({"shift_xy": (-60, 40)}, "moved camera: the fixed background is shifted by 11."),
        ({"machine": draw_machine(2)}, "changed scene: the likeness of the fixed background is"),
    ],
    ids=["blurred", "blurred, brighter, noisy", "moved", "moved far", "another place"],
)
def test_another_scene_is_reported_after_three_comparisons(
    reference: Reference, changes: dict[str, object], said: str
) -> None:
    line = Line()
    health = PictureHealth(HealthConfig(), reference)
    reasons = judge(health, [line.frame(**changes) for _ in range(4)])  # type: ignore[arg-type]
    assert reasons[: CONFIRM_LOOKS - 1] == [None] * (CONFIRM_LOOKS - 1)
    assert all(said in str(reason) for reason in reasons[CONFIRM_LOOKS - 1 :]), reasons


def test_swinging_camera_is_reported_even_if_each_comparison_finds_another_fault(reference: Reference) -> None:
    line = Line()
    health = PictureHealth(HealthConfig(), reference)
    found = [line.frame(shift_xy=(32, 0)), line.frame(machine=draw_machine(2)), line.frame(blur=3.0)] * 4
    reasons = judge(health, [*found, *(line.frame() for _ in range(2 * CONFIRM_LOOKS))])
    assert reasons[: CONFIRM_LOOKS - 1] == [None] * (CONFIRM_LOOKS - 1)
    assert all(reasons[CONFIRM_LOOKS - 1 : len(found)])
    assert reasons[-1] is None


@pytest.mark.parametrize("wh", [(60, 40), (160, 90), (640, 360), (641, 361), (1280, 720), (1920, 1081), (4096, 33)])
def test_height_of_the_small_view_is_predicted(wh: tuple[int, int]) -> None:
    assert views(np.zeros((wh[1], wh[0], 3), np.uint8)).small.shape == (small_height(wh[1], wh[0]), 160)


def test_frames_between_two_comparisons_do_not_confirm_anything(reference: Reference) -> None:
    line = Line()
    health = PictureHealth(HealthConfig(), reference)
    assert [health.judge(line.frame(blur=3.0), 0.001 * index) for index in range(10)] == [None] * 10


def test_picture_of_another_size_than_the_reference_is_refused(reference: Reference) -> None:
    reason = PictureHealth(HealthConfig(), reference).judge(noise_at(90), 0.0)
    assert reason == "the picture is 64x48, health.reference was made from 640x360: make it again"


def test_picture_of_another_size_than_the_first_is_refused_where_a_region_is_set_in_pixels() -> None:
    with_region, without = PictureHealth(HealthConfig(), None, has_region=True), PictureHealth(HealthConfig(), None)
    images = [noise_at(90), np.tile(noise_at(90, 20), (2, 2, 1)), noise_at(90)]
    said = judge(with_region, images)
    assert said[0] is None and said[2] is None
    assert said[1] is not None and "the picture is 128x96, region_xywh is in pixels of" in said[1]
    assert judge(without, images) == [None, None, None]


def test_saved_reference_loads_unchanged(reference: Reference, tmp_path: Path) -> None:
    save_reference(reference, tmp_path / "cam.npz")
    loaded = load_reference(tmp_path / "cam.npz")
    assert (loaded.frame_wh, loaded.whole_energy) == (reference.frame_wh, reference.whole_energy)
    for name in ("background", "stable", "energies"):
        assert np.array_equal(getattr(loaded, name), getattr(reference, name))
    assert [file.name for file in tmp_path.iterdir()] == ["cam.npz"]


def test_reference_says_whether_a_small_move_can_be_detected(reference: Reference) -> None:
    assert reference.notices_moves
    assert "moved camera, changed scene: checked" in describe(reference)
    slope = np.linspace(40, 200, W, dtype=np.float32)
    shaded = np.repeat(np.broadcast_to(slope, (H, W))[..., None], 3, axis=2)
    random = np.random.default_rng(2)
    smooth = make_reference(
        (shaded + random.normal(0, 3, shaded.shape)).clip(0, 255).astype(np.uint8) for _ in range(9)
    )
    assert not smooth.notices_moves
    assert any("what is fixed is too smooth" in line for line in describe(smooth))


def test_moving_parts_are_not_fixed_background() -> None:
    machine = MACHINE.copy()
    frames = [machine[MARGIN : MARGIN + H, MARGIN : MARGIN + W].copy() for _ in range(20)]
    for index, frame in enumerate(frames):
        frame[:, :320] = 40 + 8 * index
    made = make_reference(frames)
    assert made.stable[:, :70].mean() < 0.1
    assert made.stable[:, 90:].mean() > 0.9


class DamagedSource:
    """Every other picture of it is damaged."""

    description = "damaged"

    def __init__(self, *, lossless: bool) -> None:
        self.lossless, self.endless = lossless, not lossless
        self._line, self._reads = Line(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> Picture:
        self._reads += 1
        if self._reads % 2 == 1:
            raise ImageError("cut")
        return Picture(image=self._line.frame())


def test_damaged_pictures_of_a_live_source_are_left_out_of_its_reference() -> None:
    made = take_reference(DamagedSource(lossless=False), HealthConfig(), frames=10, every_s=0)
    assert made.judges_position
    with pytest.raises(ImageError, match="cut"):
        take_reference(DamagedSource(lossless=True), HealthConfig(), frames=10, every_s=0)


def test_reference_of_too_few_or_unlike_frames_is_refused() -> None:
    with pytest.raises(SourceError, match="0 frames are too few"):
        make_reference([])
    with pytest.raises(SourceError, match="frame 2 is 64x40"):
        make_reference([noise_at(90), noise_at(90)[:40]])


def test_view_without_texture_gives_no_fault() -> None:
    made = make_reference([noise_at(90) for _ in range(10)])
    assert not made.judges_position and not made.judges_focus
    health = PictureHealth(HealthConfig(), made)
    assert judge(health, [noise_at(150) for _ in range(5)]) == [None] * 5


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive", b"\x93NUMPY"], ids=str)
def test_missing_reference_or_another_file_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cam.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cam\.npz: .*zsad-agent reference"):
        load_reference(path)


def test_reference_cut_or_damaged_anywhere_is_a_config_error_or_reads_the_same(
    reference: Reference, tmp_path: Path
) -> None:
    save_reference(reference, tmp_path / "cam.npz")
    whole = (tmp_path / "cam.npz").read_bytes()
    random = np.random.default_rng(3)
    refused = 0
    for position in random.integers(0, len(whole), 60):
        for damaged in (whole[:position], whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]):
            (tmp_path / "bad.npz").write_bytes(damaged)
            try:
                load_reference(tmp_path / "bad.npz")
            except ConfigError:
                refused += 1
    assert refused >= 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", np.int64(2)),
        ("background", np.full((90, 160), np.nan, np.float32)),
        ("background", np.zeros((90, 160), np.float64)),
        ("stable", np.ones((5, 160), np.bool_)),
        ("energies", np.zeros((3, 3), np.float32)),
        ("frame_wh", np.array([0, 360])),
        ("frame_wh", np.array([640, 640])),
        ("frame_wh", np.array([2**40, 2**40])),
        ("background", np.array([{"an": "object"}], object)),
        ("padding", np.zeros(5_000_000, np.uint8)),
    ],
    ids=str,
)
def test_reference_with_wrong_arrays_is_a_config_error(
    reference: Reference, tmp_path: Path, name: str, value: np.ndarray
) -> None:
    save_reference(reference, tmp_path / "cam.npz")
    with np.load(tmp_path / "cam.npz") as arrays:
        np.savez_compressed(tmp_path / "bad.npz", **({key: arrays[key] for key in arrays.files} | {name: value}))
    with pytest.raises(ConfigError, match=r"bad\.npz"):
        load_reference(tmp_path / "bad.npz")


def test_health_check_needs_a_small_share_of_the_frame_time(reference: Reference) -> None:
    random = np.random.default_rng(1)
    frames = [random.integers(0, 255, (720, 1280, 3), np.uint8) for _ in range(3)]
    health = PictureHealth(HealthConfig(), None)
    spent_s = []
    for index in range(30):
        started_s = time.process_time()
        health.judge(frames[index % 3], float(index))
        spent_s.append(time.process_time() - started_s)
    assert np.median(spent_s) < 0.005  # a tenth of that on a machine that does nothing else
