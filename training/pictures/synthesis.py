"""Synthetic images: good ones from tileable textures, and anomalies drawn into any good image.

There is no generator network. Anomalies follow CutPaste (arXiv 2104.04015) and its scar, DRAEM's noise-masked texture
blends (arXiv 2108.07610), and our own strokes, stains, pits, cracks, warps and missing parts. Images are uint8 BGR
[H, W, 3]. Masks are uint8 [H, W] of 0 and 1 and mark only pixels that changed visibly.
"""

from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator
Image = np.ndarray

VISIBLE = 14  # grey levels by which a pixel must differ to count as anomalous
MIN_AREA_PX = 12


def texture_picture(rng: Rng, thumbnail: Image, size_hw: tuple[int, int]) -> Image:
    """An image of `size_hw` from a tileable texture, at a random scale and rotation."""
    height, width = size_hw
    scale = float(np.exp(rng.uniform(np.log(0.7), np.log(3.0)))) * min(size_hw) / 256
    angle = float(rng.choice([0, 90, 180, 270])) + (rng.uniform(-45, 45) if rng.random() < 0.3 else 0.0)
    matrix = cv2.getRotationMatrix2D(
        (rng.uniform(0, thumbnail.shape[1]), rng.uniform(0, thumbnail.shape[0])), angle, scale
    )
    return cv2.warpAffine(thumbnail, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def printed_picture(rng: Rng, size_hw: tuple[int, int]) -> Image:
    """A printed, etched or stamped pattern: tracks, pads, holes, bars and letters in two colours, with sharp edges.

    Such images teach that an edge is not a defect, and what a ragged edge looks like. They imitate no real product.
    """
    height, width = size_hw
    plate = np.zeros((height, width), np.uint8)
    pitch = max(1, int(min(size_hw) * np.exp(rng.uniform(np.log(0.03), np.log(0.12)))))
    thick = max(1, int(pitch * rng.uniform(0.15, 0.6)))
    for _ in range(int(rng.integers(4, 40))):  # tracks: runs of straight pieces on a grid, at 45 degrees
        point = np.array([rng.integers(0, width // pitch + 1), rng.integers(0, height // pitch + 1)]) * pitch
        heading = int(rng.integers(8))
        lanes = int(rng.integers(1, 6)) if rng.random() < 0.4 else 1
        points = [point]
        for _ in range(int(rng.integers(1, 6))):
            step = np.array(_COMPASS[heading]) * pitch * int(rng.integers(1, 6))
            points.append(points[-1] + step)
            heading = (heading + int(rng.integers(-1, 2))) % 8
        for lane in range(lanes):
            shifted = np.array(points) + lane * pitch * np.array(_COMPASS[(int(rng.integers(2)) * 2) % 8])
            cv2.polylines(plate, [shifted.astype(np.int32)], False, 1, thick)
        if rng.random() < 0.6:
            for end in (points[0], points[-1]):
                _pad(rng, plate, end, pitch)
    for _ in range(int(rng.integers(0, 6))):  # rows of pads
        start = np.array([rng.integers(0, width), rng.integers(0, height)])
        along = np.array(_COMPASS[int(rng.integers(4)) * 2]) * pitch
        state = rng.bit_generator.state
        for index in range(int(rng.integers(2, 14))):
            rng.bit_generator.state = state  # equal pads
            _pad(rng, plate, start + index * along, pitch)
    if rng.random() < 0.3:
        text = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ0123456789-"), int(rng.integers(2, 9))))
        at = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.putText(plate, text, at, cv2.FONT_HERSHEY_SIMPLEX, pitch / 25, 1, max(1, thick // 2))
    if rng.random() < 0.4:
        plate = 1 - plate
    if rng.random() < 0.5:
        back, front = (0.0, 255.0) if rng.random() < 0.5 else (255.0, 0.0)
        colours = np.full((2, 3), back), np.full((2, 3), front)
        dark, light = colours[0][0], colours[1][0]
    else:
        dark, light = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
        if np.abs(dark - light).max() < 60:
            light = (dark + 128) % 256
    alpha: np.ndarray = plate.astype(np.float32)
    if rng.random() < 0.6:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.2))
    return (dark + (light - dark) * alpha[..., None]).clip(0, 255).astype(np.uint8)


_COMPASS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))


def _pad(rng: Rng, plate: np.ndarray, at: np.ndarray, pitch: int) -> None:
    radius = max(2, int(pitch * rng.uniform(0.25, 0.6)))
    if rng.random() < 0.6:
        cv2.circle(plate, _point(at), radius, 1, -1)
    else:
        half = np.array([radius, int(radius * rng.uniform(0.4, 1.2))])
        cv2.rectangle(plate, _point(at - half), _point(at + half), 1, -1)
    if rng.random() < 0.4:
        cv2.circle(plate, _point(at), max(1, int(radius * rng.uniform(0.25, 0.5))), 0, -1)


def object_picture(rng: Rng, surface: Image, background: Image) -> tuple[Image, np.ndarray]:
    """An image of a shaded object with a `surface` on a `background`, and its silhouette, uint8 [H, W] of 0 and 1.

    Such images teach that outlines, backgrounds and regular holes are not defects.
    """
    height, width = surface.shape[:2]
    silhouette = np.zeros((height, width), np.uint8)
    centre = np.array([width, height]) * rng.uniform(0.42, 0.58, 2)
    radius = min(height, width) * rng.uniform(0.25, 0.48)
    kind = rng.integers(4)
    if kind == 0:  # ellipse
        axes = (int(radius), int(radius * rng.uniform(0.4, 1)))
        cv2.ellipse(silhouette, _point(centre), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    elif kind == 1:  # rounded box
        box = cv2.boxPoints((tuple(centre), (radius * 2, radius * 2 * rng.uniform(0.3, 1)), rng.uniform(0, 90)))
        cv2.fillPoly(silhouette, [box.astype(np.int32)], 1)
        rounding = _disc(int(radius * rng.uniform(0.05, 0.4)) | 1)
        silhouette = cv2.morphologyEx(silhouette, cv2.MORPH_OPEN, rounding).astype(np.uint8)
    else:  # polygon or wheel
        corners = int(rng.integers(3, 14))
        angles = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 6.3)
        lengths = radius * (1 if kind == 2 else rng.uniform(0.75, 1, corners))
        points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(lengths, (-1, 1))
        cv2.fillPoly(silhouette, [points.astype(np.int32)], 1)
    if rng.random() < 0.3:
        cv2.circle(silhouette, _point(centre), int(radius * rng.uniform(0.15, 0.5)), 0, -1)
    if rng.random() < 0.5:
        background = np.full_like(background, rng.integers(0, 256, 3) if rng.random() < 0.3 else rng.integers(0, 256))
    alpha = cv2.GaussianBlur(silhouette.astype(np.float32), (0, 0), rng.uniform(0.6, 2))[..., None]
    depth = cv2.distanceTransform(silhouette, cv2.DIST_L2, 3)[..., None] / max(radius, 1)
    shade = 1 - rng.uniform(0, 0.6) * np.exp(-depth * rng.uniform(3, 20))
    picture = surface * shade * alpha + background * (1 - alpha)
    return picture.clip(0, 255).astype(np.uint8), silhouette


def with_inclusions(rng: Rng, surface: Image) -> Image:
    """The surface with many similar spots.

    Such images teach that repeated spots are not defects: chips in a biscuit, knots, rivets, perforation.
    """
    side = min(surface.shape[:2])
    alpha: np.ndarray = np.zeros(surface.shape[:2], np.float32)
    radius = side * float(np.exp(rng.uniform(np.log(0.008), np.log(0.04))))
    count = int(rng.integers(6, 40))
    if rng.random() < 0.4:  # in rows
        pitch = radius * rng.uniform(3, 8)
        angle, start = rng.uniform(0, np.pi / 2), rng.uniform(0, pitch, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        steps = np.arange(-int(1.5 * side / pitch) - 1, int(1.5 * side / pitch) + 2)
        points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * pitch @ turn.T + start
        ragged = 0.0
    else:
        points = rng.uniform(0, 1, (count, 2)) * np.array(surface.shape[1::-1])
        ragged = float(rng.uniform(0, 0.5))
    flatness = rng.uniform(0.5, 1)
    for point in points:
        size = radius * np.exp(rng.normal(0, ragged, 2)) * np.array([1, flatness])
        axes = np.maximum(1, size)
        cv2.ellipse(alpha, _point(point), _point(axes), rng.uniform(0, 180) * (ragged > 0), 0, 360, 1.0, -1)
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(0.5, radius * rng.uniform(0.05, 0.3)))
    changed = _tinted(rng, surface, points[0])
    return (surface + (changed.astype(np.float32) - surface) * alpha[..., None]).clip(0, 255).astype(np.uint8)


def with_fixture(rng: Rng, picture: Image) -> Image:
    """The image with the rim of a tray, a rail or a frame along one or two of its sides.

    Such images teach that the border of an image seldom shows the part.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    result: np.ndarray = picture.astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        edge = int(rng.integers(4))
        depth = side * float(np.exp(rng.uniform(np.log(0.015), np.log(0.2))))
        slope = rng.normal(0, 0.03)
        along, across = np.meshgrid(np.arange(width if edge < 2 else height), np.arange(height if edge < 2 else width))
        distance = depth + slope * along - across  # positive inside
        alpha = np.clip(distance / rng.uniform(0.5, 4) + 0.5, 0, 1)
        level = rng.uniform(0, 255, 3) if rng.random() < 0.3 else np.full(3, rng.uniform(0, 255))
        band = level + np.zeros((*alpha.shape, 3))
        for _ in range(int(rng.integers(0, 4))):  # steps and highlights along it
            at, thick = rng.uniform(0, depth), rng.uniform(1, max(2, depth / 3))
            stripe = np.exp(-(((across - slope * along - at) / thick) ** 2))[..., None]
            band = band + stripe * rng.choice([-1, 1]) * rng.uniform(20, 150)
        if edge in (1, 3):
            band, alpha = band[::-1], alpha[::-1]
        if edge >= 2:
            band, alpha = band.transpose(1, 0, 2), alpha.T
        result = result + (band - result) * alpha[..., None]
    return result.clip(0, 255).astype(np.uint8)


def add_anomalies(
    rng: Rng, picture: Image, donor: Image, where: np.ndarray | None = None, *, of_edges: bool = False
) -> tuple[Image, np.ndarray]:
    """The image with one to three anomalies, and their mask.

    Args:
        picture: uint8 [H, W, 3].
        donor: another image of the same size; some anomalies use its texture.
        where: uint8 [H, W], 1 where anomalies are allowed; None: everywhere.
        of_edges: for printed or etched patterns: most anomalies are at edges, in colours of the image.
    """
    result = picture.copy()
    mask = np.zeros(picture.shape[:2], np.uint8)
    allowed = np.ones_like(mask) if where is None else where
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        kind = _bite if of_edges and rng.random() < 0.7 else KINDS[int(rng.integers(len(KINDS)))]
        changed, alpha = kind(rng, result, donor, _anywhere(rng, allowed))
        alpha = alpha * allowed
        blended = result + (changed.astype(np.float32) - result) * alpha[..., None]
        blended = blended.clip(0, 255).astype(np.uint8)
        changed_enough = (cv2.absdiff(blended, result).max(axis=2) >= VISIBLE) & (alpha > 0.1)
        closed = cv2.morphologyEx(changed_enough.astype(np.uint8), cv2.MORPH_CLOSE, _disc(5))
        visible = (closed > 0) & (alpha > 0.02)
        if visible.sum() >= MIN_AREA_PX:
            mask[visible] = 1
            result = blended
    return result, mask


def photometric(rng: Rng, picture: Image) -> Image:
    """Random changes that are not defects: exposure, contrast, colour cast, uneven light, blur, noise, JPEG."""
    image: Image = picture.astype(np.float32)
    if rng.random() < 0.25:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.7:
        image = (image - 128) * rng.uniform(0.6, 1.5) + 128 + rng.uniform(-40, 40)
    if rng.random() < 0.3:
        image = image * rng.uniform(0.8, 1.2, 3)
    if rng.random() < 0.35:
        height, width = image.shape[:2]
        light = cv2.resize(rng.uniform(0.55, 1.3, (2, 2)).astype(np.float32), (width, height))
        image = image * light[..., None]
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        image = image + rng.normal(0, rng.uniform(1, 12), image.shape[:2])[..., None]
    image = image.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        image = 255 - image
    if rng.random() < 0.2:
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    return image


# (rng, image, donor, centre x y) -> (changed image, its opacity float32 [H, W])
Kind = Callable[[Rng, Image, Image, np.ndarray], tuple[Image, np.ndarray]]


def _cut_paste(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    source = donor if rng.random() < 0.4 else picture
    height, width = picture.shape[:2]
    angle = float(rng.choice([90, 180, 270, rng.uniform(0, 360)]))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, rng.uniform(0.7, 1.4))
    matrix[0, 2] += rng.uniform(-0.4, 0.4) * width
    matrix[1, 2] += rng.uniform(-0.4, 0.4) * height
    moved = cv2.warpAffine(source, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        moved = (moved * rng.uniform(0.6, 1.4)).clip(0, 255).astype(np.uint8)
    return moved, _shape(rng, picture, centre)


def _scar(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    size = (side * rng.uniform(0.01, 0.05), side * rng.uniform(0.05, 0.35))
    cv2.fillPoly(alpha, [cv2.boxPoints((tuple(centre), size, rng.uniform(0, 180))).astype(np.int32)], 1.0)
    changed = np.roll(donor, int(rng.integers(side)), axis=0) if rng.random() < 0.5 else _tinted(rng, picture, centre)
    return changed, alpha


def _blend(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    return donor, _shape(rng, picture, centre) * np.float32(rng.uniform(0.35, 1))


def _stain(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    alpha = _shape(rng, picture, centre)
    alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 6)) * np.float32(rng.uniform(0.3, 1))
    return _tinted(rng, picture, centre), alpha


def _gloss(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A band or patch of other brightness and contrast, with a soft edge: worn, polished or badly ground."""
    height, width = picture.shape[:2]
    side = min(height, width)
    alpha: np.ndarray = np.zeros((height, width), np.float32)
    size = side * np.exp(rng.uniform(np.log([0.15, 0.08]), np.log([1.2, 0.4])))
    box = cv2.boxPoints((tuple(centre), tuple(size), float(rng.choice([0, 90, rng.uniform(0, 180)]))))
    cv2.fillPoly(alpha, [box.astype(np.int32)], 1.0)
    alpha = cv2.GaussianBlur(alpha, (0, 0), side * rng.uniform(0.005, 0.03))
    mean = cv2.blur(picture, (side // 8 | 1, side // 8 | 1)).astype(np.float32)
    changed = mean + (picture - mean) * rng.choice([rng.uniform(0.0, 0.6), rng.uniform(1.4, 2.5)])
    changed = changed + rng.choice([-1, 1]) * rng.uniform(VISIBLE, 70)
    return changed.clip(0, 255).astype(np.uint8), alpha


def _crack(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    thickness = max(1, round(side * float(np.exp(rng.uniform(np.log(0.002), np.log(0.015))))))
    branches: list[tuple[np.ndarray, float]] = [(centre, rng.uniform(0, 2 * np.pi))]
    for _ in range(int(rng.integers(1, 4))):
        point, heading = branches.pop(0)
        for _ in range(int(rng.integers(5, 25))):
            heading += rng.normal(0, 0.45)
            end = point + np.array([np.cos(heading), np.sin(heading)]) * side * rng.uniform(0.01, 0.04)
            cv2.line(alpha, _point(point), _point(end), 1.0, max(1, thickness + int(rng.integers(-1, 2))), cv2.LINE_AA)
            if rng.random() < 0.08:
                branches.append((end, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)))
            point = end
        if not branches:
            break
    return _tinted(rng, picture, centre), _soft(rng, alpha)


def _scratch(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        start = centre + rng.normal(0, side * 0.03, 2)
        direction = rng.normal(0, 1, 2)
        direction *= side * rng.uniform(0.05, 0.4) / (np.linalg.norm(direction) + 1e-6)
        bend = np.array([-direction[1], direction[0]]) * rng.normal(0, 0.15)
        t = np.linspace(0, 1, 12)[:, None]
        points = start + direction * t + bend * (4 * t * (1 - t))
        thickness = max(1, round(side * float(np.exp(rng.uniform(np.log(0.002), np.log(0.01))))))
        cv2.polylines(alpha, [points.astype(np.int32)], False, 1.0, thickness, cv2.LINE_AA)
    return _tinted(rng, picture, centre), _soft(rng, alpha)


def _pits(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    for _ in range(int(rng.choice([1, 1, 1, 2, 5]))):
        radius = side * float(np.exp(rng.uniform(np.log(0.005), np.log(0.03))))
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.5, 1))))
        point = centre + rng.normal(0, side * 0.04, 2)
        cv2.ellipse(alpha, _point(point), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    return _tinted(rng, picture, centre), _soft(rng, alpha)


def _warp(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    height, width = picture.shape[:2]
    radius = min(height, width) * rng.uniform(0.05, 0.2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    fall = np.exp(-(dx**2 + dy**2) / np.float32(2 * (radius / 2) ** 2))
    if rng.random() < 0.5:  # twist
        angle = fall * np.float32(rng.choice([-1, 1]) * rng.uniform(0.8, 2.5))
        map_x = centre[0] + dx * np.cos(angle) - dy * np.sin(angle)
        map_y = centre[1] + dx * np.sin(angle) + dy * np.cos(angle)
    else:  # shift
        shift = rng.normal(0, 1, 2)
        shift *= radius * rng.uniform(0.5, 1.2) / (np.linalg.norm(shift) + 1e-6)
        map_x, map_y = x + fall * shift[0], y + fall * shift[1]
    warped = cv2.remap(
        picture, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return warped, (fall > 0.1).astype(np.float32)


def _missing(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    if rng.random() < 0.5:
        changed = cv2.GaussianBlur(picture, (0, 0), min(picture.shape[:2]) * rng.uniform(0.01, 0.05))
    else:
        corner = picture[:: picture.shape[0] - 1, :: picture.shape[1] - 1].reshape(-1, 3)
        changed = np.full_like(picture, corner[int(rng.integers(4))])
    return changed, _shape(rng, picture, centre)


def _bite(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A blob or a line in a nearby colour: a notch in an edge, a spur, a hole, a bridge, a gap."""
    height, width = picture.shape[:2]
    side = min(height, width)
    centre = _near_edge(rng, picture, centre)
    reach = side * rng.uniform(0.01, 0.08)
    for _ in range(8):  # a nearby colour that differs from the one at the centre
        other = np.clip(centre + rng.normal(0, reach, 2), 0, [width - 1, height - 1]).astype(int)
        colour, here = picture[other[1], other[0]], picture[int(centre[1]), int(centre[0])]
        if cv2.absdiff(colour, here).max() > 2 * VISIBLE:
            break
    alpha = np.zeros((height, width), np.float32)
    radius = side * float(np.exp(rng.uniform(np.log(0.006), np.log(0.035))))
    if rng.random() < 0.3:
        end = centre + rng.normal(0, 1, 2) * radius * 3
        cv2.line(alpha, _point(centre), _point(end), 1.0, max(1, round(radius * rng.uniform(0.3, 0.8))), cv2.LINE_AA)
    else:
        corners = int(rng.integers(5, 12))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * rng.uniform(0.5, 1.2, (corners, 1))
        cv2.fillPoly(alpha, [(centre + ring).astype(np.int32)], 1.0, cv2.LINE_AA)
    return np.broadcast_to(colour, picture.shape).copy(), alpha


def _break(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A break along a ragged line: a gap in the colour of the background."""
    height, width = picture.shape[:2]
    side = min(height, width)
    heading = rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    offsets = np.cumsum(rng.normal(0, side * 0.012, 41))
    offsets -= offsets[20]
    line = centre + along * np.linspace(-1, 1, 41)[:, None] * side * rng.uniform(0.1, 0.9) + across * offsets[:, None]
    gap = max(1, round(side * float(np.exp(rng.uniform(np.log(0.004), np.log(0.03))))))
    alpha = np.zeros((height, width), np.float32)
    cv2.polylines(alpha, [line.astype(np.int32)], False, 1.0, gap, cv2.LINE_AA)
    corner = picture[:: height - 1, :: width - 1].reshape(-1, 3)
    changed = np.full_like(picture, corner[int(rng.integers(4))])
    if rng.random() < 0.5:
        changed = (changed * 0.3 + cv2.GaussianBlur(picture, (0, 0), 3) * 0.3).clip(0, 255).astype(np.uint8)
    return changed, alpha


def _paste_smoothly(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A patch from another place, blended in the gradients (Poisson; NSA, arXiv 2109.15222)."""
    height, width = picture.shape[:2]
    alpha = _shape(rng, picture, centre)
    hard = (alpha > 0.5).astype(np.uint8)
    hard[[0, 1, -2, -1]], hard[:, [0, 1, -2, -1]] = 0, 0
    if hard.sum() < MIN_AREA_PX:
        return picture, alpha * 0
    source = donor if rng.random() < 0.4 else np.roll(picture, tuple(rng.integers(8, [height, width])), axis=(0, 1))
    x, y, w, h = cv2.boundingRect(hard)
    mode = cv2.NORMAL_CLONE if rng.random() < 0.5 else cv2.MIXED_CLONE
    try:
        changed = cv2.seamlessClone(source, picture, hard * 255, (x + w // 2, y + h // 2), mode)
    except cv2.error:  # it refuses some masks at the border
        return picture, alpha * 0
    return changed, cv2.dilate(hard, _disc(3)).astype(np.float32)


KINDS: tuple[Kind, ...] = (
    _cut_paste,
    _paste_smoothly,
    _scar,
    _blend,
    _stain,
    _gloss,
    _crack,
    _crack,
    _scratch,
    _pits,
    _warp,
    _missing,
    _bite,
    _bite,
    _break,
)


def _near_edge(rng: Rng, picture: Image, centre: np.ndarray) -> np.ndarray:
    """The pixel of the strongest edge in a window around `centre`, (x, y) as float."""
    height, width = picture.shape[:2]
    half = max(4, min(height, width) // 12)
    left, top = max(0, int(centre[0]) - half), max(0, int(centre[1]) - half)
    window = picture[top : top + 2 * half, left : left + 2 * half].max(axis=2).astype(np.float32)
    steep = np.abs(cv2.Sobel(window, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(window, cv2.CV_32F, 0, 1))
    steep += rng.uniform(0, 30, steep.shape).astype(np.float32)
    y, x = np.unravel_index(int(np.argmax(steep)), steep.shape)
    return np.array([left + x, top + y], np.float64)


def _tinted(rng: Rng, picture: Image, centre: np.ndarray) -> Image:
    """The image, visibly darker, lighter or in another colour."""
    if rng.random() < 0.25:
        return np.full_like(picture, rng.integers(0, 256, 3))
    shift = rng.choice([-1, -1, 1]) * rng.uniform(25, 130)
    tint = rng.uniform(-40, 40, 3) if rng.random() < 0.3 else np.zeros(3)
    return (picture + shift + tint).clip(0, 255).astype(np.uint8)


def _shape(rng: Rng, picture: Image, centre: np.ndarray) -> np.ndarray:
    """float32 [H, W]: an irregular blob, an ellipse or a box around `centre`; most are small."""
    height, width = picture.shape[:2]
    alpha = np.zeros((height, width), np.float32)
    radius = min(height, width) * float(np.exp(rng.uniform(np.log(0.015), np.log(0.2))))
    axes = np.maximum(1, radius * rng.uniform(0.4, 1, 2))
    kind = rng.random()
    if kind < 0.2:
        box = cv2.boxPoints((tuple(centre), tuple(axes * 2), rng.uniform(0, 180)))
        cv2.fillPoly(alpha, [box.astype(np.int32)], 1.0)
        return alpha
    cv2.ellipse(alpha, _point(centre), _point(axes), rng.uniform(0, 180), 0, 360, 1.0, -1)
    if kind > 0.45:
        cells = int(np.clip(min(height, width) / (radius * rng.uniform(0.3, 1)), 2, 64))
        noise = cv2.resize(
            rng.random((cells, cells)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        alpha = alpha * (noise > rng.uniform(0.3, 0.6))
    return cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 1.5))


def _soft(rng: Rng, alpha: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.2)) if rng.random() < 0.6 else alpha
    return blurred * np.float32(rng.uniform(0.5, 1))


def _anywhere(rng: Rng, allowed: np.ndarray) -> np.ndarray:
    """A random allowed pixel, (x, y) as float."""
    flat = np.flatnonzero(allowed)
    index = int(flat[int(rng.integers(flat.size))]) if flat.size else allowed.size // 2
    return np.array([index % allowed.shape[1], index // allowed.shape[1]], np.float64)


def _point(xy: np.ndarray) -> tuple[int, int]:
    return int(xy[0]), int(xy[1])


def _disc(size: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(size, 1), max(size, 1)))
