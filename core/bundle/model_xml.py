"""A look at a model.xml before OpenVINO parses it: size, depth, and none of XML's dangerous parts.

OpenVINO's own parser expands no entities and survives any depth (tried with 2026.4: billion laughs, an external
entity, 3 million levels). The check keeps it so for other versions, and for graphs that are nested in graphs.
"""

from xml.parsers import expat

from zsad_core.errors import BundleError

MAX_DEPTH = 64  # levels of elements; OpenVINO writes 7, and 5 more for each graph inside a graph


def check_model_xml(text: bytes, source: str) -> None:
    """Nothing, if `text` is well-formed XML of bounded depth without a document type.

    Raises:
        BundleError: it is not.
    """
    depth = 0

    def start(name: str, attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise BundleError(f"{source}: elements lie deeper than {MAX_DEPTH} levels. Export the bundle again.")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise BundleError(f"{source}: has a document type, in which entities could be declared. Export it again.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: a strange encoding
        raise BundleError(f"{source}: no well-formed XML: {error}. Export the bundle again.") from error
