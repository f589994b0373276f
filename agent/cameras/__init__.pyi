from .aravis import load_aravis as load_aravis
from .frame import DirectCamera as DirectCamera
from .frame import Frame as Frame
from .genicam import GenicamCamera as GenicamCamera
from .genicam import GenicamSettings as GenicamSettings
from .pixel_formats import image_of as image_of
from .snapshot import SnapshotCamera as SnapshotCamera
from .snapshot import status_text as status_text
