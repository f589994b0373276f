"""A fake teacher, and parts that pass by."""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from profile_maker import make_profile
from result_maker import make_result

from zsad_agent.config import LearningConfig
from zsad_agent.learning import LineLearner, RecentPart
from zsad_agent.messages import Result
from zsad_agent.teaching import LeftOut, Picture, ProfileStore, Recall, Taught
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

MAP = np.zeros((4, 6), np.float32)


class FakeTeach:
    """Learns all pictures but the first ones. Waits for `let_go` before it ends.

    `fault`: why it refuses. `defect`: what it raises. `left_out`, `share`: why and how much it leaves out.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.defect: Exception | None = None
        self.left_out = LeftOut(name="", reason="may be defective", score=3.0)
        self.share = 0.0  # of the pictures; at least one is left out
        self.calls: list[dict[str, Any]] = []
        self.let_go = threading.Event()
        self.let_go.set()

    def __call__(
        self,
        camera: str,
        pictures: Sequence[tuple[str, Picture]],
        *,
        product: str,
        rate: float,
        trusted: bool,
        kept: Sequence[tuple[str, Picture]],
        bad: Sequence[tuple[str, Picture]],
        progress: Callable[[str, int, int], None],
    ) -> Taught:
        names = [name for name, _ in pictures]
        more = {"kept": [name for name, _ in kept], "bad": [name for name, _ in bad]}
        self.calls.append(
            {"camera": camera, "product": product, "rate": rate, "trusted": trusted, "names": names, **more}
        )
        while not self.let_go.wait(0.01):
            progress("learning", 1, len(names))
        if self.defect is not None:
            raise self.defect
        if self.fault is not None:
            raise ZsadError(self.fault)
        count = max(1, round(self.share * len(names)))
        profile = make_profile(product, seed=len(self.calls))
        recall = Recall(found=len(bad), total=len(bad)) if bad else None
        top = profile.levels[-1].model_copy(update={"recall": recall})
        profile = replace(profile, levels=(*profile.levels[:-1], top))
        return Taught(
            profile=profile,
            left_out=tuple(replace(self.left_out, name=name) for name in names[:count]),
            good_scores=dict.fromkeys([*names[count:], *more["kept"]], 0.1),
            bad_scores=dict.fromkeys(more["bad"], 0.8),
        )


class FakeFeedback:
    def give(self, part: RecentPart, *, good: bool) -> str:
        return f"{part.id} is {'good' if good else 'bad'}"


class LearnerLine:
    """A learner in a folder. `pass_by` shows it parts and waits until it has looked at them."""

    def __init__(self, folder: Path, *, free_running: Sequence[str] = (), **config: Any) -> None:
        self.folder = folder
        self.store = ProfileStore(folder / "profiles")
        self.teach = FakeTeach()
        self.prepared: list[str] = []
        self.drifts: dict[str, str | None] = {}
        self.cut_height: int | None = None  # of the cameras' regions, pixels
        self.learner = LineLearner(
            LearningConfig(**{"parts": 20, **config}),
            folder / "learning",
            self.store,
            self.teach,
            self.prepared.append,
            FakeFeedback(),  # type: ignore[arg-type]
            free_running=free_running,
            on_drift=self._note_drift,
            cut=lambda camera, frame_bgr: frame_bgr[: self.cut_height],
            product_of=lambda camera: "nut",
        )
        self._seq = 0
        self._boot = secrets.token_hex(4)

    def _note_drift(self, camera: str, fault: str | None) -> None:
        self.drifts[camera] = fault

    def __enter__(self) -> "LearnerLine":
        self.learner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.learner.__exit__()

    def part(self, seed: int | None = None, **changes: Any) -> tuple[Result, np.ndarray]:
        """The next part's result and picture."""
        self._seq += 1
        random = np.random.default_rng(None if seed is None else seed)
        fields = {"provisional": True, "product": "nut", "verdict": Verdict.OK, **changes}
        fields["id"] = f"line3-{self._boot}-{self._seq}"
        return make_result(self._seq, **fields), random.integers(0, 255, (48, 64, 3), np.uint8)

    def pass_by(self, count: int, **changes: Any) -> None:
        for _ in range(count):
            self.learner.take(*self.part(**changes), MAP)
            self.learner.wait_idle(60)

    @property
    def state(self) -> dict[str, Any]:
        return self.learner.state("cam0")

    def give(self, seed: int, *, good: bool = True) -> str:
        """A person gives a picture to the lesson."""
        return self.learner.give_picture("cam0", f"p{seed}.png", self.part(seed)[1], good=good)

    def learn_asked(self, count: int = 6) -> None:
        """A lesson that a person started, up to its first offer."""
        self.learner.begin("cam0", "nut", count, None)
        self.pass_by(count)
        assert self.state["phase"] == "offered"

    def pictures(self, **wanted: str) -> list[str]:
        """The ids of the lesson's pictures with these fields."""
        found = self.learner.pictures("cam0")
        return [one.id for one in found if all(getattr(one, name) == value for name, value in wanted.items())]

    @property
    def stored(self) -> list[str]:
        """Names of the files of all lessons."""
        files = (path for path in (self.folder / "learning").rglob("*") if path.is_file())
        return sorted(path.name for path in files if path.parent.name != "recent")
