"""From a captured picture to a result: model, verdict, regions, overlay, and handing the result to the sinks.

Taking pictures belongs in `capture`, sending in `mqtt`. May import `capture`, `model`, `messages` and below.
"""

from zsad_agent.inspection.inspector import Identity, Inspected, Inspector
from zsad_agent.inspection.overlay import render_snapshot
from zsad_agent.inspection.pipeline import Line, Pipeline, Sink
from zsad_agent.inspection.sinks import HeatmapFolderSink, PrintSink
from zsad_agent.inspection.stations import check_mask, check_products, make_lines, make_view, product_of
from zsad_agent.inspection.view import View

__all__ = [
    "HeatmapFolderSink",
    "Identity",
    "Inspected",
    "Inspector",
    "Line",
    "Pipeline",
    "PrintSink",
    "Sink",
    "View",
    "check_mask",
    "check_products",
    "make_lines",
    "make_view",
    "product_of",
    "render_snapshot",
]
