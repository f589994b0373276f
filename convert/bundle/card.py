"""A bundle's model card, made from its manifest only.

The headings are those of Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993).
"""

from collections.abc import Iterable, Sequence

from zsad_core.bundle import Evaluation, Gate, Manifest, ResizeRule, SecondModel, Variant
from zsad_core.facts import EvaluationRow, ScoreRule

MODEL_CARD = "MODEL_CARD.md"  # not a file of the manifest; devices do not read it

_METHODS = {
    "ava_dino": "AVA-DINO (arXiv 2605.12069)",
    "ad_dinov3": "AD-DINOv3 (arXiv 2509.14084)",
    "visualad": "VisualAD (arXiv 2603.07952)",
}
_METRICS = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "recall",
    "false_reject_rate",
)  # fmt: skip


def model_card(manifest: Manifest) -> str:
    """The card as Markdown."""
    parts = [
        f"# {manifest.name} {manifest.version}",
        "Made from `manifest.json`; `zsad-convert card BUNDLE` prints it again.",
        "## Model details",
        _details(manifest),
        "## Intended use",
        "Finds surface defects in images of parts, also of products that it was not trained on. It gives a score, a "
        "verdict against a threshold, and a map of the defects. **Calibrate the threshold on good parts of your line** "
        "(`zsad-agent calibrate`). Scores rank parts of one product; scores of two products cannot be compared.",
        "It is not made for parts in the wrong place or of the wrong kind, for measuring, for images of people, or as "
        "the only safeguard where a missed defect can hurt somebody.",
        "## Factors",
        f"The whole image is scaled to {_size(manifest.model.input_hw)} px, by the rule below. A defect that is then "
        "smaller than a few pixels is lost. Light, focus and the crop of the camera's view change scores.",
        "The rule that scales an image, for other programs that should give the same scores: "
        + _resize(manifest.resize),
        "## Metrics and threshold",
        "A higher score is worse. Image metrics rank images by their score, pixel metrics rank pixels by their map "
        "value. " + _threshold(manifest),
        "## Evaluation data and results",
        _evaluation(manifest.evaluation),
        "## Training data and weights",
        _table(("what", "licence", "source"), ((one.what, one.licence, one.source) for one in manifest.licences)),
        "## Checks of the export",
        *_exported(manifest),
        "## Caveats",
        _caveats(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _score(rule: ScoreRule) -> str:
    mean = "mean" if rule.power == 1 else f"power mean (power {rule.power:g})"
    return f"{mean} of the highest {100 * rule.top_fraction:g} % of the map"


def _details(manifest: Manifest) -> str:
    model, score = manifest.model, manifest.model.score
    products = ", ".join(manifest.products) or "any: the method uses no text"
    rows = [
        ("method", _METHODS.get(model.method, model.method)),
        ("backbone", f"{model.backbone}, taps {', '.join(map(str, model.taps))}"),
        *([("joined with", _second(model.second))] if model.second else []),
        ("text encoder, on the host", model.text_encoder),
        ("input", f"{_size(model.input_hw)} px, uint8, {model.colour_order}"),
        ("map", f"{_size(model.map_hw)} values"),
        ("score", _score(score) if score else "the method's own"),
        ("weights", model.precision + (" and int8; each machine runs the faster one" if manifest.variant else "")),
        ("teach-in", _scales(manifest)),
        ("products", products),
        ("made by", f"`{manifest.made_by}`"),
        ("exported", _exported_with(manifest)),
        ("bundle format", f"{manifest.format_version}, read by zsad-agent {manifest.needs_agent} and newer"),
    ]
    return _table(("", ""), rows)


def _second(second: SecondModel) -> str:
    facts = f"{second.backbone}, taps {', '.join(map(str, second.taps))}, {_size(second.input_hw)} px"
    return f"a second detector: {facts}. The map is the mean of both maps' logits"


def _scales(manifest: Manifest) -> str:
    rows = [
        f"{one.name} ({_size(one.input_hw)} px{', 2 x 2 tiles' if one.tiles == 2 else ''})"
        for one in manifest.features or ()
    ]
    return ", ".join(rows) or "the bundle has no feature networks"


def _exported_with(manifest: Manifest) -> str:
    day = "date not recorded" if manifest.built_at is None else f"on {manifest.built_at} (UTC)"
    versions = manifest.built_with.model_dump(exclude_none=True) if manifest.built_with else {}
    said = ", ".join(f"{name.replace('_', '-')} {version}" for name, version in versions.items())
    return f"{day}, with {said or 'versions not recorded'}"


def _threshold(manifest: Manifest) -> str:
    one = manifest.threshold
    rejected = ""
    if one.false_reject_rate is not None:
        rejected = f". It rejected {_percent(one.false_reject_rate)} % of those good images"
    return f"The shipped threshold is {one.value:.3f}. Rule: {one.method}{rejected}."


def _resize(rule: ResizeRule) -> str:
    numbers = ", ".join(f"{name} = {value}" for name, value in rule.model_dump(exclude={"words"}).items())
    return f"{rule.words} ({numbers})"


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "**The bundle has none.** Measure it on your own parts (`zsad-evaluate`)."
    head = ("data set", "trained on", "images", *(name.replace("_", " ") for name in _METRICS))
    rows = (
        (one.dataset, "yes" if one.seen_in_training else "no", str(one.images), *(_metric(one, m) for m in _METRICS))
        for one in evaluation.rows
    )
    return f"In percent; {evaluation.protocol}.\n\n{_table(head, rows)}"


def _exported(manifest: Manifest) -> list[str]:
    main = Variant(
        precision=manifest.model.precision,
        parity=manifest.parity,
        gate=manifest.gate,
        calibration=manifest.calibration,
        accepted_loss=manifest.accepted_loss,
    )
    tokens = [
        f"- {scale.name}: over {scale.parity.images} images of {scale.parity.source}, a value of a token differs from "
        f"torch's by at most {scale.parity.max_difference:.1e} (allowed {scale.parity.tolerance:g})."
        for scale in manifest.features or ()
        if scale.parity is not None
    ]
    return [*(_proof(one) for one in (main, manifest.variant) if one is not None), *tokens]


def _proof(one: Variant) -> str:
    parity = one.parity
    lines = [
        f"- {one.precision}: over {parity.images} images of {parity.source}, the graph's map differs from torch's by "
        f"at most {parity.max_map_difference:.1e} (allowed {parity.map_tolerance:g}), the score by "
        f"{parity.max_score_difference:.1e} (allowed {parity.score_tolerance:g})."
    ]
    for row in one.gate.rows if isinstance(one.gate, Gate) else ():
        pixels = "" if row.pixel_ap_ir is None else f", pixel AP {row.pixel_ap_ir:.4f} (torch {row.pixel_ap_torch:.4f})"
        lines.append(
            f"- {one.precision}: on {row.images} images of {row.dataset}, image AUROC {row.image_auroc_ir:.4f} "
            f"(torch {row.image_auroc_torch:.4f}){pixels}; {row.changed_verdicts} verdicts change."
        )
    if one.gate == "left out":
        lines.append(f"- {one.precision}: **metrics were not compared with torch.**")
    if one.calibration is not None:
        lines.append(f"- {one.precision}: calibrated on {one.calibration.images} images of {one.calibration.source}.")
    lines += [f"- {one.precision}: **accepted although above its tolerance: {loss}**" for loss in one.accepted_loss]
    return "\n".join(lines)


def _caveats(manifest: Manifest) -> str:
    lines = ["- The results hold for the named data only. On other products the model is better or worse."]
    rows = [one for one in (manifest.evaluation.rows if manifest.evaluation else ()) if not one.seen_in_training]
    for metric in ("image_auroc", "pixel_ap", "recall"):
        known = [(value, one.dataset) for one in rows if (value := getattr(one, metric)) is not None]
        if known:
            value, dataset = min(known)
            lines.append(f"- Lowest {metric.replace('_', ' ')} on data not trained on: {_percent(value)}, {dataset}.")
    rejects = [(one.false_reject_rate, one.dataset) for one in rows if one.false_reject_rate is not None]
    if rejects:
        value, dataset = max(rejects)
        lines.append(
            f"- Highest share of good parts rejected at the shipped threshold: {_percent(value)} %, {dataset}."
        )
    return "\n".join(lines)


def _metric(row: EvaluationRow, name: str) -> str:
    value = getattr(row, name)
    return "-" if value is None else _percent(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _size(height_width: tuple[int, int]) -> str:
    return f"{height_width[1]} x {height_width[0]}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
