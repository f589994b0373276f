"""Checks a model.xml before OpenVINO parses it: well-formed, limited depth, no document type.

OpenVINO's own parser expands no entities and survives any depth (tested with 2026.4: billion laughs, an external
entity, 3 million levels). This check also protects other versions, and graphs that are nested in graphs.
"""

from xml.parsers import expat

from zsad_core.errors import BundleError

MAX_DEPTH = 64  # levels of elements; OpenVINO writes 7, and 5 more per nested graph


def check_model_xml(text: bytes, source: str) -> None:
    """Checks that `text` is well-formed XML of at most `MAX_DEPTH` levels, without a document type.

    Raises:
        BundleError: it is not.
    """
    depth = 0

    def start(name: str, attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise BundleError(f"{source}: elements are nested deeper than {MAX_DEPTH} levels. Export the bundle again.")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise BundleError(f"{source}: has a document type, which could declare entities. Export it again.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: an unknown encoding
        raise BundleError(f"{source}: not well-formed XML: {error}. Export the bundle again.") from error
