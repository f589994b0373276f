"""Parts of an archive on Ray actors, each with its own compiled model."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_agent.archive.parts import Part, Settings, digest_of, text_of, write_part
from zsad_core.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from zsad_agent.tools.score import Judged, Scorer

Verdicts = Counter[str]
CRASHED = "the process that scores it ended: it needs too much memory, or crashes the decoder"


def read_settings(args: argparse.Namespace) -> Settings:
    """Everything that the results depend on. `args`: of the flags of `zsad-score`.

    Raises:
        ZsadError: the config, the bundle or the profile cannot be used.
    """
    from zsad_agent.model import choose_model, open_bundle
    from zsad_agent.tools.flags import profile_store
    from zsad_agent.tools.score import settings_of

    config, camera = settings_of(args)
    product = args.product or camera.product or config.inference.product
    bundle = open_bundle(config.inference)
    store = profile_store(config)
    profile = store.current(product) if store is not None and product in store.products() else None
    decision = camera.decision or config.decision
    mask = None if camera.ignore_mask is None else digest_of({"mask": camera.ignore_mask.read_bytes().hex()})
    return {
        "bundle": bundle.sha256,
        "model": choose_model(bundle, config.inference),
        "device": config.inference.device,
        "precision": config.inference.precision,
        "budget_ms": config.inference.budget_ms,
        "product": product,
        "profile": None if profile is None else profile.sha256,
        "threshold": decision.threshold,
        "region_level": decision.region_level,
        "region_xywh": camera.region_xywh and list(camera.region_xywh),
        "ignore_mask": mask,
        "bit_depth": camera.bit_depth if args.bit_depth == "auto" else args.bit_depth,
        "limits": None
        if args.unchecked
        else camera.health.model_dump(include={"dark_below", "bright_above", "plain_below"}),
    }


class PartScorer:
    """A Ray actor."""

    def __init__(self, args: argparse.Namespace, settings: Settings, folder: Path, cpus: int) -> None:
        """Loads nothing yet."""
        self._args = args
        self._settings = settings
        self._folder = folder
        self._cpus = cpus
        self._scorer: Scorer | None = None

    def open(self, _: Part) -> Verdicts:
        """Compiles the model.

        Raises:
            ZsadError: it cannot be used, or this machine has another one than the one that gave the command.
        """
        self._opened()
        return Counter()

    def score(self, part: Part) -> Verdicts:
        """Writes the results of a part, and counts its verdicts.

        Raises:
            ZsadError: as of `open`, which is done again when Ray has started the process again.
            OSError: the results cannot be written.
        """
        from zsad_agent.tools.score import judge_picture

        scorer = self._opened()
        rows = [self._row(scorer, judge_picture(path, self._args, scorer)) for path in part]
        return self._write(part, rows)

    def give_up(self, part: Part) -> Verdicts:
        """As `score` for pictures that have ended an actor: their verdicts are `unknown`."""
        from zsad_agent.tools.score import Judged

        scorer = self._opened()
        rows = [self._row(scorer, Judged(scorer.unknown(path, CRASHED), None, None)) for path in part]
        return self._write(part, rows)

    def _write(self, part: Part, rows: list[dict[str, Any]]) -> Verdicts:
        for path, row in zip(part, rows, strict=True):
            row["path"] = text_of(path)
        write_part(self._folder, digest_of(self._settings), rows)
        return Counter(row["verdict"] for row in rows)

    def _opened(self) -> Scorer:
        if self._scorer is not None:
            return self._scorer
        from zsad_agent.system import configure_logging, prepare_environment
        from zsad_agent.tools.score import open_scorer

        prepare_environment()
        configure_logging("WARNING")
        here = read_settings(self._args)
        if changes := [name for name in here if here[name] != self._settings[name] and name != "model"]:
            raise ConfigError(f"{os.uname().nodename} has another {' and '.join(changes)}. Give all machines the same")
        self._scorer = open_scorer(self._args, threads=self._cpus, model=self._settings["model"])
        return self._scorer

    def _row(self, scorer: Scorer, judged: Judged) -> dict[str, Any]:
        from zsad_agent.inspection import View

        score, regions = judged.score, []
        if judged.prediction is not None and judged.frame_wh is not None:
            regions = (scorer.view or View()).regions(
                judged.prediction,
                judged.frame_wh,
                level=scorer.region_level,
                bundle_level=scorer.bundle.manifest.region_level,
            )
        return {
            "verdict": str(score.verdict),
            "anomaly_score": score.anomaly_score,
            "threshold": score.threshold,
            "reason": score.reason,
            "regions": [asdict(region) for region in regions],
            "provisional": score.provisional,
            "profile_sha256": score.profile and score.profile["sha256"],
            "latency_ms": score.latency_ms,
        }


def score_parts(parts: Iterable[Part], make_actor: Callable[[], Any], most_actors: int) -> Iterator[Verdicts]:
    """The counts of each part, as they come. `parts` is read as actors become free. Ray must be connected.

    A part that ends its actor twice is scored in halves, so that one picture alone is given up.

    Raises:
        ZsadError, OSError: as of `PartScorer.score`.
    """
    import ray

    source, waiting = iter(parts), list[tuple[str, Part]]()
    free: list[Any] = []
    running: dict[Any, tuple[Any, str, Part]] = {}

    def start(actor: Any, method: str, part: Part) -> None:
        running[getattr(actor, method).remote(part)] = actor, method, part

    def wait_for_actors(count: int) -> bool:
        """Whether so many parts do."""
        while len(waiting) < count and (part := next(source, None)) is not None:
            waiting.append(("score", part))
        return len(waiting) >= count

    while True:
        while free and wait_for_actors(1):
            start(free.pop(), *waiting.pop())
        opening = sum(method == "open" for _, method, _ in running.values())
        while len(running) + len(free) < most_actors and wait_for_actors(opening + 1):
            start(make_actor(), "open", [])
            opening += 1
        if not waiting and all(method == "open" for _, method, _ in running.values()):
            return  # a model that the cluster has no room for is never open
        (answer,), _ = ray.wait(list(running))
        actor, method, part = running.pop(answer)
        try:
            yield ray.get(answer)
            free.append(actor)
        except ray.exceptions.RayActorError as error:
            if method != "score":
                raise DeviceError(f"the process of the model ends when it is loaded: {error}") from error
            half = len(part) // 2
            waiting += [("score", part[:half]), ("score", part[half:])] if half else [("give_up", part)]
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from error
