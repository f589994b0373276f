"""A GenICam camera (GigE Vision, USB3 Vision), read through aravis."""

import ctypes
import time
from ctypes import byref, c_int, c_size_t
from dataclasses import dataclass
from typing import Any, Final

from zsad_agent.cameras.aravis import ON_LOST, Aravis, AravisError, load_aravis
from zsad_agent.cameras.frame import Frame
from zsad_agent.cameras.pixel_formats import FORMAT_NAMES, image_of, is_read
from zsad_core.errors import ImageError, SourceError

LEAST_BUFFERS, MOST_BUFFERS, BUFFERS_BYTES = 8, 32, 128_000_000  # aravis holds a frame up to 100 ms for lost packets
SOCKET_BYTES: Final = 33_554_432  # of packets that wait; the kernel gives at most net.core.rmem_max
POLL_S: Final = 0.2
SOFTWARE: Final = "software"
OFF: Final = "off"
_CONTINUOUS, _AUTO_OFF, _FIXED, _ENABLE, _NO_PACKET_SOCKET, _SUCCESS = 0, 0, 0, 1, 1, 0
_DAMAGES = {2: "it was not complete in time", 3: "packets are missing", 4: "packets are wrong", 5: "its size is wrong"}


@dataclass(frozen=True, kw_only=True)
class GenicamSettings:
    """What is set when the camera is opened. None: the camera's own value."""

    camera_id: str  # `vendor-serial`, as `arv-tool-0.8` lists it, or an IP address
    timeout_s: float  # longest wait for a frame, except for one of a hardware trigger
    pixel_format: str | None = None  # GenICam's name
    wh: tuple[int, int] | None = None  # pixels
    exposure_us: float | None = None
    gain: float | None = None  # in the camera's unit, usually dB
    trigger: str = OFF  # "off", "software", or the name of an input line
    bit_depth: int | None = None  # of formats with 16 bits, as of `image_of`


class GenicamCamera:
    """Opens, reads and closes one camera. Can be pickled while it is closed."""

    def __init__(self, settings: GenicamSettings) -> None:
        """Opens nothing yet."""
        self.description = f"camera {settings.camera_id}"
        self._settings = settings
        self._camera: int | None = None
        self._stream: int | None = None
        self._lost = False
        self._on_lost: Any = None  # kept while aravis may call it
        self._skipped = self._damaged = 0  # frames that newer ones replaced since the previous good one
        self._damage: str | None = None  # reason of the last one of `_damaged`

    def open(self) -> None:
        """Sets the camera and starts it.

        Raises:
            SourceError: the library is missing, no such camera answers, another program controls it, or it refuses a
                setting.
        """
        library = load_aravis()
        if self._settings.camera_id.startswith("Fake_"):  # aravis' own camera for tests
            library.call("enable_interface", b"Fake")
        try:
            self._camera = library.call("camera_new", self._settings.camera_id.encode())
        except AravisError as error:
            found = library.device_ids()
            if self._settings.camera_id in found:
                reason = f"does not open: {error}. Another program may control it"
            else:
                reason = f"does not answer. Check power, cable and addresses. Cameras: {', '.join(found) or 'none'}"
            raise SourceError(f"{self.description}: {reason}") from error
        self._lost = False
        self._forget_skipped()
        try:
            self._set(library, self._camera)
            self._start(library, self._camera)
        except AravisError as error:
            self.close()
            raise SourceError(f"{self.description}: {error}") from error
        except SourceError:
            self.close()
            raise

    def _set(self, library: Aravis, camera: int) -> None:
        settings = self._settings
        library.call("camera_set_range_check_policy", camera, _ENABLE)  # else a value out of range is lost silently
        self._choose_format(library, camera)
        if settings.wh is not None:
            self._choose_size(library, camera, settings.wh)
        for name, value in (("exposure_time", settings.exposure_us), ("gain", settings.gain)):
            if value is None:
                continue
            try:
                if library.call(f"camera_is_{name.removesuffix('_time')}_auto_available", camera):
                    library.call(f"camera_set_{name}_auto", camera, _AUTO_OFF)
                library.call(f"camera_set_{name}", camera, value)
            except AravisError as error:
                raise SourceError(f"{self.description}: refuses {name} {value:g}: {error}") from error
        library.call("camera_set_acquisition_mode", camera, _CONTINUOUS)
        if settings.trigger == OFF:
            if library.call("camera_is_feature_available", camera, b"TriggerSelector"):
                library.call("camera_clear_triggers", camera)
            return
        line = "Software" if settings.trigger == SOFTWARE else settings.trigger
        try:
            library.call("camera_set_trigger", camera, line.encode())
        except AravisError as error:
            raise SourceError(f"{self.description}: refuses the trigger {line}: {error}") from error

    def _choose_format(self, library: Aravis, camera: int) -> None:
        wanted = self._settings.pixel_format
        offered = [name for name in library.format_names(camera) if name in FORMAT_NAMES]
        if wanted is not None:
            if wanted not in offered:
                raise SourceError(
                    f"{self.description}: pixel_format {wanted} is not offered. Choose one of {', '.join(offered)}"
                )
            library.call("camera_set_pixel_format_from_string", camera, wanted.encode())
        elif not is_read(library.call("camera_get_pixel_format", camera)):
            raise SourceError(
                f"{self.description}: its pixel format is not read. Set pixel_format to one of {', '.join(offered)}"
            )

    def _choose_size(self, library: Aravis, camera: int, wh: tuple[int, int]) -> None:
        try:
            library.call("camera_set_region", camera, -1, -1, *wh)
        except AravisError as error:
            raise SourceError(f"{self.description}: refuses {wh[0]} x {wh[1]} pixels: {error}") from error
        x, y, w, h = c_int(), c_int(), c_int(), c_int()
        library.call("camera_get_region", camera, byref(x), byref(y), byref(w), byref(h))
        if (w.value, h.value) != wh:
            raise SourceError(f"{self.description}: gives {w.value} x {h.value} pixels instead of {wh[0]} x {wh[1]}")

    def _start(self, library: Aravis, camera: int) -> None:
        is_network = bool(library.call("camera_is_gv_device", camera))
        if is_network:
            library.call("camera_gv_auto_packet_size", camera)
            # Packet sockets exist for root alone: the service and a trial as root must behave alike.
            library.call("camera_gv_set_stream_options", camera, _NO_PACKET_SOCKET)
        self._on_lost = ON_LOST(self._note_loss)
        library.on_lost(library.call("camera_get_device", camera), self._on_lost)
        self._stream = stream = library.call("camera_create_stream", camera, None, None)
        if is_network:
            # Aravis' other choice is one frame: a thread that waits for the CPU for that long would lose packets.
            library.set_properties(stream, socket_buffer=_FIXED, socket_buffer_size=SOCKET_BYTES)
        payload = library.call("camera_get_payload", camera)
        for _ in range(min(MOST_BUFFERS, max(LEAST_BUFFERS, BUFFERS_BYTES // max(1, payload)))):
            library.call("stream_push_buffer", stream, library.call("buffer_new_allocate", payload))
        library.call("camera_start_acquisition", camera)

    def _note_loss(self, *_: object) -> None:
        self._lost = True

    def close(self) -> None:
        """Stops the camera. Does nothing if it is closed."""
        library = load_aravis()
        camera, stream, self._camera, self._stream = self._camera, self._stream, None, None
        if camera is not None and stream is not None and not self._lost:
            try:
                library.call("camera_stop_acquisition", camera)
            except AravisError:  # it is gone
                self._lost = True
        for thing in (stream, camera):
            if thing is not None:
                library.release(thing)

    def next_frame(self) -> Frame:
        """The newest frame. With a software trigger its exposure begins now.

        Raises:
            ImageError: the frame is incomplete, or has values above its depth.
            SourceError: the connection is lost, or no frame came in time. A hardware trigger may take any time.
        """
        library, stream = load_aravis(), self._stream
        if stream is None:
            raise ValueError(f"{self.description}: read while it is not open")
        if self._settings.trigger == SOFTWARE:
            try:
                library.call("camera_software_trigger", self._camera)
            except AravisError as error:
                raise SourceError(f"{self.description}: cannot be triggered: {error}") from error
        buffer = self._wait(library, stream)
        while (newer := library.call("stream_try_pop_buffer", stream)) is not None:
            self._leave_out(library, buffer)
            library.call("stream_push_buffer", stream, buffer)
            buffer = newer
        try:
            image, at_s = self._image(library, buffer), self._arrival_s(library, buffer)
        finally:
            library.call("stream_push_buffer", stream, buffer)
        frame = Frame(image, at_s, self._skipped, self._damaged, self._damage)
        self._forget_skipped()
        return frame

    def _wait(self, library: Aravis, stream: int) -> int:
        """The next buffer."""
        deadline_s = time.monotonic() + self._settings.timeout_s
        while True:
            buffer: int | None = library.call("stream_timeout_pop_buffer", stream, int(POLL_S * 1e6))
            if buffer is not None:
                return buffer
            if self._lost:
                raise SourceError(f"{self.description}: the connection is lost. Check power and cable")
            if self._settings.trigger in (OFF, SOFTWARE) and time.monotonic() > deadline_s:
                raise SourceError(f"{self.description}: no frame for {self._settings.timeout_s:g} s")

    def _arrival_s(self, library: Aravis, buffer: int) -> float:
        """When the first packet arrived: aravis holds a frame until lost packets of it and of earlier ones came."""
        since_s = time.time() - library.call("buffer_get_system_timestamp", buffer) / 1e9
        return time.monotonic() - max(0.0, since_s)  # less than 0: the clock was set back

    def _leave_out(self, library: Aravis, buffer: int) -> None:
        self._skipped += 1
        if (damage := self._damage_of(library, buffer)) is not None:
            self._damaged += 1
            self._damage = damage

    def _forget_skipped(self) -> None:
        self._skipped = self._damaged = 0
        self._damage = None

    def _damage_of(self, library: Aravis, buffer: int) -> str | None:
        """Why a buffer has no whole frame, or None."""
        status = library.call("buffer_get_status", buffer)
        if status == _SUCCESS:
            return None
        return f"{self.description}: the frame is incomplete: {_DAMAGES.get(status, f'status {status} of aravis')}"

    def _image(self, library: Aravis, buffer: int) -> Any:
        if (damage := self._damage_of(library, buffer)) is not None:
            raise ImageError(damage)
        size, x_padding, y_padding = c_size_t(), c_int(), c_int()
        address = library.call("buffer_get_data", buffer, byref(size))
        library.call("buffer_get_image_padding", buffer, byref(x_padding), byref(y_padding))
        w, h, code = (library.call(f"buffer_get_image_{name}", buffer) for name in ("width", "height", "pixel_format"))
        data = ctypes.string_at(address, size.value)
        try:
            return image_of(data, code, (w, h), row_padding=x_padding.value, bit_depth=self._settings.bit_depth)
        except ImageError as error:
            raise ImageError(f"{self.description}: {error}") from error
