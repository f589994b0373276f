from .camera_status import INFERENCE as INFERENCE
from .camera_status import PROCESS as PROCESS
from .camera_status import CameraStatus as CameraStatus
from .capture import Capture as Capture
from .capture import Captured as Captured
from .capture import Fault as Fault
from .trigger_queue import MAX_ID_CHARACTERS as MAX_ID_CHARACTERS
