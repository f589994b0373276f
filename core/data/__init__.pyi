from .reader import raise_faults as raise_faults
from .reader import scan_dataset as scan_dataset
from .sample import GOOD as GOOD
from .sample import Sample as Sample
from .sample import Split as Split
from .sample import mask_parts as mask_parts
from .sample import size_fault as size_fault
from .table import LayoutName as LayoutName
