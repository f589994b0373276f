"""Data sets as their authors publish them: samples, layouts, listings, reading. Runs without torch.

May import `picture` and the top of core.
"""

from zsad_core.data.reader import raise_faults, scan_dataset
from zsad_core.data.sample import GOOD, Sample, Split, mask_parts, size_fault
from zsad_core.data.table import LayoutName

__all__ = [
    "GOOD",
    "LayoutName",
    "Sample",
    "Split",
    "mask_parts",
    "raise_faults",
    "scan_dataset",
    "size_fault",
]
