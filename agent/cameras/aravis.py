"""The functions of libaravis 0.8 that are used, through ctypes: no binding has to be installed."""

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from zsad_core.errors import SourceError

_INTS = POINTER(c_int)
ON_LOST = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
# Name without arv_ -> type of the result, types of the arguments. These can fail: GError** is their last argument.
_CALLS: dict[str, tuple[Any, ...]] = {
    "camera_new": (c_void_p, c_char_p),
    "camera_set_pixel_format_from_string": (None, c_void_p, c_char_p),
    "camera_get_pixel_format": (c_uint, c_void_p),
    "camera_dup_available_pixel_formats_as_strings": (POINTER(c_char_p), c_void_p, POINTER(c_uint)),
    "camera_set_region": (None, c_void_p, c_int, c_int, c_int, c_int),
    "camera_get_region": (None, c_void_p, _INTS, _INTS, _INTS, _INTS),
    "camera_is_exposure_auto_available": (c_int, c_void_p),
    "camera_set_exposure_time_auto": (None, c_void_p, c_int),
    "camera_set_exposure_time": (None, c_void_p, c_double),
    "camera_is_gain_auto_available": (c_int, c_void_p),
    "camera_set_gain_auto": (None, c_void_p, c_int),
    "camera_set_gain": (None, c_void_p, c_double),
    "camera_is_feature_available": (c_int, c_void_p, c_char_p),
    "camera_clear_triggers": (None, c_void_p),
    "camera_set_trigger": (None, c_void_p, c_char_p),
    "camera_software_trigger": (None, c_void_p),
    "camera_set_acquisition_mode": (None, c_void_p, c_int),
    "camera_gv_auto_packet_size": (c_uint, c_void_p),
    "camera_get_payload": (c_uint, c_void_p),
    "camera_create_stream": (c_void_p, c_void_p, c_void_p, c_void_p),
    "camera_start_acquisition": (None, c_void_p),
    "camera_stop_acquisition": (None, c_void_p),
}
_PLAIN: dict[str, tuple[Any, ...]] = {
    "enable_interface": (None, c_char_p),
    "update_device_list": (None,),
    "get_n_devices": (c_uint,),
    "get_device_id": (c_char_p, c_uint),
    "camera_is_gv_device": (c_int, c_void_p),
    "camera_set_range_check_policy": (None, c_void_p, c_int),
    "camera_gv_set_stream_options": (None, c_void_p, c_int),
    "camera_get_device": (c_void_p, c_void_p),
    "buffer_new_allocate": (c_void_p, c_size_t),
    "buffer_get_status": (c_int, c_void_p),
    "buffer_get_system_timestamp": (c_uint64, c_void_p),
    "buffer_get_data": (c_void_p, c_void_p, POINTER(c_size_t)),
    "buffer_get_image_pixel_format": (c_uint, c_void_p),
    "buffer_get_image_width": (c_int, c_void_p),
    "buffer_get_image_height": (c_int, c_void_p),
    "buffer_get_image_padding": (None, c_void_p, _INTS, _INTS),
    "stream_push_buffer": (None, c_void_p, c_void_p),
    "stream_timeout_pop_buffer": (c_void_p, c_void_p, c_uint64),
    "stream_try_pop_buffer": (c_void_p, c_void_p),
}


class AravisError(Exception):
    """A function of aravis failed; the text is its reason."""


class _GError(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", c_int), ("message", c_char_p))


class Aravis:
    """libaravis. Objects are addresses; `release` gives them back."""

    def __init__(self) -> None:
        """Raises OSError if the library is not installed."""
        self._aravis = ctypes.CDLL("libaravis-0.8.so.0")
        self._glib = ctypes.CDLL("libglib-2.0.so.0")
        self._gobject = ctypes.CDLL("libgobject-2.0.so.0")
        self._glib.g_strfreev.argtypes = self._glib.g_error_free.argtypes = self._glib.g_free.argtypes = (c_void_p,)
        self._gobject.g_object_unref.argtypes = (c_void_p,)
        connect = self._gobject.g_signal_connect_data
        connect.argtypes = (c_void_p, c_char_p, ON_LOST, c_void_p, c_void_p, c_int)
        connect.restype = ctypes.c_ulong
        for calls, last in ((_CALLS, (POINTER(POINTER(_GError)),)), (_PLAIN, ())):
            for name, (result, *arguments) in calls.items():
                function = getattr(self._aravis, f"arv_{name}")
                function.restype, function.argtypes = result, (*arguments, *last)

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls `arv_<name>`.

        Raises:
            AravisError: it failed.
        """
        function = getattr(self._aravis, f"arv_{name}")
        if name in _PLAIN:
            return function(*arguments)
        error = POINTER(_GError)()
        result = function(*arguments, byref(error))
        if error:
            text = (error.contents.message or b"no reason given").decode("utf-8", "replace")
            self._glib.g_error_free(error)
            raise AravisError(text)
        return result

    def device_ids(self) -> list[str]:
        """The cameras that answer on the networks and USB ports of this machine. Takes about a second."""
        self.call("update_device_list")
        ids = (self.call("get_device_id", index) for index in range(self.call("get_n_devices")))
        return [each.decode("utf-8", "replace") for each in ids if each]

    def format_names(self, camera: int) -> list[str]:
        """The pixel formats that a camera offers now."""
        count = c_uint()
        names = self.call("camera_dup_available_pixel_formats_as_strings", camera, byref(count))
        try:
            return [(names[index] or b"").decode("utf-8", "replace") for index in range(count.value)]
        finally:
            self._glib.g_free(ctypes.cast(names, c_void_p))  # the texts belong to the camera

    def set_properties(self, thing: int, **values: int) -> None:
        """Sets whole-number properties of an object."""
        for name, value in values.items():
            self._gobject.g_object_set(c_void_p(thing), name.replace("_", "-").encode(), c_int(value), c_void_p(None))

    def on_lost(self, device: int, action: Any) -> None:
        """Calls `action`, an ON_LOST that the caller keeps, when the connection to the device is lost."""
        self._gobject.g_signal_connect_data(device, b"control-lost", action, None, None, 0)

    def release(self, thing: int) -> None:
        self._gobject.g_object_unref(thing)


@functools.cache
def load_aravis() -> Aravis:
    """The library.

    Raises:
        SourceError: it is not installed.
    """
    try:
        return Aravis()
    except (OSError, AttributeError) as error:
        advice = "sudo apt-get install libaravis-0.8-0"
        raise SourceError(f"GenICam cameras need the library aravis 0.8: {advice} ({error})") from error
