"""A GigE Vision camera at 127.0.0.1 that sends lost packets again, in a process that can be killed.

Registers and XML are those of aravis' fake camera, which itself cannot send packets again. Each frame shows its number.
`python gige_camera.py LOST_RATIO FPS` runs it.
"""

import ctypes
import random
import select
import socket
import struct
import sys
import time
from collections import OrderedDict
from ctypes import byref, c_uint32, c_void_p

import numpy as np
from aravis_camera import AravisCamera

ADDRESS = "127.0.0.1"
PORT = 3956
SIDE = 512  # pixels
KEPT_FRAMES = 8  # that can be sent again
HEAD = struct.Struct("<qqq")  # the first bytes of each frame: number, monotonic ns, packets sent again so far
_IP, _CAPABILITY, _PRIVILEGE, _STREAM_PORT, _PACKET_SIZE, _STREAM_IP = 0x24, 0x934, 0xA00, 0xD00, 0xD04, 0xD18
_DISCOVERY, _RESEND, _READ_REGISTER, _WRITE_REGISTER, _READ_MEMORY, _WRITE_MEMORY = 0x02, 0x40, 0x80, 0x82, 0x84, 0x86
_LEADER, _TRAILER, _PAYLOAD, _MONO8 = 1, 2, 3, 0x0108_0001
_OVERHEAD = 36  # bytes of a packet that are no pixels: IP, UDP, GVSP


def pattern(number: int) -> np.ndarray:
    """uint8 [SIDE, SIDE] of a frame, without its HEAD."""
    return (np.add.outer(np.arange(SIDE), np.arange(SIDE)) + number).astype(np.uint8)


class _Camera:
    def __init__(self, lost_ratio: float, fps: float) -> None:
        self._aravis = ctypes.CDLL("libaravis-0.8.so.0")
        self._aravis.arv_fake_camera_new.restype = c_void_p
        self._camera = c_void_p(self._aravis.arv_fake_camera_new(b"RESENDS"))
        for register, value in ((_IP, 0x7F00_0001), (_CAPABILITY, 1 << 2)):
            self._aravis.arv_fake_camera_write_register(self._camera, register, value)
        self._period_s, self._lost_ratio = 1 / fps, lost_ratio
        self._control, self._stream = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        self._control.bind((ADDRESS, PORT))
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()  # frame id -> its packets
        self._number = self._resent = 0
        self._pattern = pattern(0)

    def run(self) -> None:
        """Does not end."""
        due_s = time.monotonic()
        while True:
            if select.select([self._control], [], [], max(0.0, due_s - time.monotonic()))[0]:
                self._answer(*self._control.recvfrom(2048))
            elif self._register(_PRIVILEGE) and self._aravis.arv_fake_camera_get_acquisition_status(self._camera):
                self._send_frame()
                due_s = max(due_s + self._period_s, time.monotonic() - 1)
            else:
                due_s = time.monotonic() + 0.01

    def _register(self, address: int) -> int:
        value = c_uint32()
        self._aravis.arv_fake_camera_read_register(self._camera, address, byref(value))
        return value.value

    def _answer(self, message: bytes, sender: tuple[str, int]) -> None:
        command, _, number = struct.unpack_from(">HHH", message, 2)
        data = message[8:]
        if command == _RESEND:
            self._resend(*struct.unpack_from(">III", data))
            return
        first = struct.unpack_from(">I", data)[0] if data else 0
        answer = struct.pack(">I", 1)
        if command == _DISCOVERY:
            answer = self._memory(0, 0xF8)
        elif command == _READ_REGISTER:
            answer = struct.pack(">I", self._register(first))
        elif command == _WRITE_REGISTER:
            self._aravis.arv_fake_camera_write_register(self._camera, first, struct.unpack_from(">I", data, 4)[0])
        elif command == _READ_MEMORY:
            answer = data[:4] + self._memory(first, struct.unpack_from(">I", data, 4)[0])
        elif command == _WRITE_MEMORY:
            self._aravis.arv_fake_camera_write_memory(self._camera, first, len(data) - 4, data[4:])
        self._control.sendto(struct.pack(">HHHH", 0, command + 1, len(answer), number) + answer, sender)

    def _memory(self, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        self._aravis.arv_fake_camera_read_memory(self._camera, address, size, buffer)
        return buffer.raw

    def _send_frame(self) -> None:
        self._number += 1
        frame_id = (self._number - 1) % 65_535 + 1
        image = self._pattern + np.uint8(self._number % 256)
        image.reshape(-1)[: HEAD.size] = np.frombuffer(
            HEAD.pack(self._number, time.monotonic_ns(), self._resent), np.uint8
        )
        pixels, step = image.tobytes(), (self._register(_PACKET_SIZE) & 0xFFFF) - _OVERHEAD
        leader = struct.pack(">HHQIIIIIHH", 0, 1, time.time_ns(), _MONO8, SIDE, SIDE, 0, 0, 0, 0)
        parts = [(_LEADER, leader)]
        parts += [(_PAYLOAD, pixels[start : start + step]) for start in range(0, len(pixels), step)]
        parts.append((_TRAILER, struct.pack(">II", 1, SIDE)))
        packets = [
            struct.pack(">HHI", 0, frame_id, kind << 24 | index) + part for index, (kind, part) in enumerate(parts)
        ]
        self._kept[frame_id] = packets
        if len(self._kept) > KEPT_FRAMES:
            self._kept.popitem(last=False)
        for packet in packets:
            self._send(packet)

    def _resend(self, frame_id: int, first: int, last: int) -> None:
        for packet in self._kept.get(frame_id & 0xFFFF, [])[first : last + 1]:
            self._resent += 1
            self._send(b"\1\0" + packet[2:])  # the status of a packet that was sent again

    def _send(self, packet: bytes) -> None:
        if random.random() >= self._lost_ratio:
            host = socket.inet_ntoa(struct.pack(">I", self._register(_STREAM_IP)))
            self._stream.sendto(packet, (host, self._register(_STREAM_PORT) & 0xFFFF))


class ResendingCamera(AravisCamera):
    """Runs from `__enter__` to `__exit__`."""

    def __init__(self, lost_ratio: float = 0.0, *, fps: float = 25.0) -> None:
        """`lost_ratio`: share of the packets that are lost, also of those that are sent again."""
        self._command = [__file__, str(lost_ratio), str(fps)]


if __name__ == "__main__":
    camera = _Camera(*map(float, sys.argv[1:]))
    print("runs", flush=True)
    camera.run()
