"""Parts of an archive on Ray actors, each with its own compiled model."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_agent.archive.parts import Part, Settings, digest_of, text_of, write_part
from zsad_core.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from zsad_agent.tools.score import Judged, Scorer

Verdicts = Counter[str]
MOST_FRUITLESS = 20  # more than halving a part takes
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


@dataclass(frozen=True, kw_only=True)
class _Task:
    method: str  # of `PartScorer`
    part: Part
    ended: int = 0  # processes that ended at it

    def again(self) -> list[_Task]:
        """What is to be done after its process has ended: the same once more, then halves, then none."""
        half, ended = len(self.part) // 2, self.ended + 1
        if ended < 2 or self.method == "give_up":
            return [replace(self, ended=ended)]
        if half:
            return [replace(self, part=part) for part in (self.part[:half], self.part[half:])]
        return [_Task(method="give_up", part=self.part)]


def score_parts(parts: Iterable[Part], make_actor: Callable[[], Any], most_actors: int) -> Iterator[Verdicts]:
    """The counts of each part, as they come. `parts` is read as actors become free. Ray must be connected.

    A part whose process ends goes to another actor, then in halves, so that one picture alone is given up.

    Raises:
        ZsadError, OSError: as of `PartScorer.score`.
    """
    import ray

    source, waiting = iter(parts), list[_Task]()
    free: list[Any] = []
    running: dict[Any, tuple[Any, _Task]] = {}
    fruitless = 0  # processes in a row that ended without a result

    def start(actor: Any, task: _Task) -> None:
        running[getattr(actor, task.method).remote(task.part)] = actor, task

    def wait_for_actors(count: int) -> bool:
        """Whether so many tasks do."""
        while len(waiting) < count and (part := next(source, None)) is not None:
            waiting.append(_Task(method="score", part=part))
        return len(waiting) >= count

    while True:
        while free and wait_for_actors(1):
            start(free.pop(), waiting.pop())
        opening = sum(task.method == "open" for _, task in running.values())
        while len(running) + len(free) < most_actors and wait_for_actors(opening + 1):
            start(make_actor(), _Task(method="open", part=[]))
            opening += 1
        if not waiting and opening == len(running):
            return  # a model that the cluster has no room for is never open
        (answer,), _ = ray.wait(list(running))
        actor, task = running.pop(answer)
        try:
            yield ray.get(answer)
            free.append(actor)
            fruitless = 0
        except ray.exceptions.RayActorError as error:
            fruitless += 1
            if fruitless > MOST_FRUITLESS + most_actors:
                raise DeviceError(f"the processes of the model end: {error}") from error
            waiting += task.again() if task.part else []
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from error
