import importlib
import subprocess
import sys

import pytest

PROGRAM = """
import threading
from zsad_core.openvino_offline import openvino_core
found = []
threads = [threading.Thread(target=lambda: found.append(openvino_core())) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), len({id(core) for core in found}))
"""


def test_threads_that_load_networks_at_once_share_one_core() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "4 1\n", done.stderr


def test_tests_cannot_send_usage_data() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
