"""A profile of another bundle or of an earlier agent is made again from its pictures."""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taught_fakes import MAP_HW, good_part
from taught_line import CONFIG, OTHER, Line

from zsad_agent import teaching
from zsad_agent.messages import BundleName
from zsad_agent.teaching import (
    KeptPicture,
    Networks,
    Profile,
    learn_good,
)
from zsad_core.errors import ProfileError


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_a_profile_of_another_bundle_is_made_again_from_its_pictures(line: Line) -> None:
    other = BundleName(name="before", version="0.9", sha256="cd" * 32)
    old = line.teach("nut", bundle=other, ignored=np.arange(100).reshape(10, 10) < 20)
    predictor = line.start()
    with pytest.raises(ProfileError, match=r"made with the bundle before 0.9. It is made again when"):
        predictor.predict(good_part(0), "nut")
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now is not None
    assert (now.rebuilt_from, now.bundle.sha256) == (other, line.networks.bundle.sha256)
    assert now.ignored is not None and now.ignored.shape == MAP_HW
    assert now.goods == old.goods and now.asked_rate == old.asked_rate
    assert now.levels[-1].recall is None
    assert line.store.entry("nut").numbers == (1, 2)
    found = predictor.predict(good_part(60), "nut").profile
    assert found is not None and found.sha256 == now.sha256


def test_a_part_that_a_person_kept_is_known_to_the_next_bundle(line: Line) -> None:
    odd = good_part(30, stain=24)
    kit = Networks(detector=line.detector, features=line.networks, config=CONFIG)
    profile = line.teach("nut", bundle=OTHER)
    kept = learn_good(profile, KeptPicture.of("odd", odd), kit)
    line.store.add(kept)
    predictor = line.start()
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now.rebuilt_from == OTHER
    assert (now.apart, now.kept) == ((), ("odd",))
    assert predictor.predict(odd, "nut").anomaly_score < 0.5
    line.store.add(replace(kept, kept=()))  # without a person's word it is left out
    predictor = line.start()
    predictor.prepare("nut")
    assert line.store.current("nut").apart == ("odd",)
    assert predictor.predict(odd, "nut").anomaly_score >= 0.5


def test_the_bundle_before_uses_its_kept_profile_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = teaching.teach_again
    monkeypatch.setattr(teaching, "teach_again", lambda *args: made.append("again") or make(*args))  # type: ignore[func-returns-value]
    old = line.teach(bundle=OTHER)
    line.start().prepare("nut")
    assert (made, line.number()) == (["again"], 2)
    here = line.networks.bundle.sha256
    for sha256, number in ((OTHER.sha256, 3), (here, 4), (OTHER.sha256, 5)):
        line.networks.bundle.sha256 = sha256
        line.start().prepare("nut")
        assert line.number() == number
    assert made == ["again"]
    now = line.store.current("nut")
    assert now is not None and now.sha256 == old.sha256
    line.teach(bundle=OTHER)  # what a person taught since then is made again
    line.networks.bundle.sha256 = here
    line.start().prepare("nut")
    assert (made, line.number()) == (["again"] * 2, 7)


def test_a_profile_that_is_made_for_a_bundle_on_trial_is_stored_after_its_probation(line: Line) -> None:
    old = line.teach(bundle=OTHER)
    predictor = line.start(read_only=True)
    predictor.prepare("nut")
    found = predictor.predict(good_part(60), "nut").profile
    assert found is not None and found.sha256 != old.sha256
    predictor.prepare("nut")
    assert line.number() == 1
    predictor.keep_made()
    now = line.store.current("nut")
    assert now is not None and now.sha256 == found.sha256


def test_a_profile_that_is_made_again_does_not_replace_what_was_taught_meanwhile(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.teach(bundle=OTHER)
    predictor = line.start(read_only=True)
    predictor.prepare("nut")
    taught = line.teach(asked_rate=0.2)
    predictor.keep_made()
    now = line.store.current("nut")
    assert now is not None and now.sha256 == taught.sha256
    assert "another profile came into use meanwhile" in caplog.text


def test_profiles_are_made_again_after_the_start_while_their_verdicts_are_unknown(line: Line) -> None:
    for product in ("nut", "bolt"):
        line.teach(product, bundle=OTHER)
    predictor = line.start(later=True, products=("nut", "bolt"))
    for product in ("nut", "bolt", "nut"):
        with pytest.raises(ProfileError, match=f"{product} is being made again for this bundle"):
            predictor.prepare(product)
    assert predictor.predict(good_part(0), "object").profile is None
    stops = iter([False, True])
    predictor.make_waiting(lambda: next(stops))
    for number, product in enumerate(("nut", "bolt"), start=1):
        with pytest.raises(ProfileError, match=rf"{product} is being made again for this bundle \({number} of 2\)"):
            predictor.predict(good_part(0), product)
    predictor = line.start(later=True, products=("nut", "bolt"))
    for product in ("nut", "bolt"):
        with pytest.raises(ProfileError):
            predictor.prepare(product)
    predictor.make_waiting(lambda: False)
    assert all(predictor.predict(good_part(0), product).profile is not None for product in ("nut", "bolt"))


def test_a_profile_of_an_earlier_agent_is_made_again_from_its_pictures(line: Line) -> None:
    line.teach("nut", background=None)
    predictor = line.start()
    with pytest.raises(ProfileError, match=r"made by an earlier agent\. It is made again when"):
        predictor.predict(good_part(0), "nut")
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now is not None and now.background is not None
    assert predictor.predict(good_part(60), "nut").anomaly_score < 0.5


def test_the_inspection_continues_while_a_profile_is_made_again(line: Line) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32))
    predictor = line.start()
    teaching = threading.Thread(target=predictor.prepare, args=["nut"])
    teaching.start()
    inspected = 0
    while teaching.is_alive():
        predictor.predict(good_part(0), "object")
        inspected += 1
    teaching.join()
    assert inspected > 3
    assert predictor.predict(good_part(0), "nut").profile is not None


def test_what_is_taught_while_a_profile_is_made_again_stays_in_use(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.teach("nut", bundle=OTHER)
    predictor, again = line.start(), teaching.teach_again
    begun, let_go = threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        begun.set()
        assert let_go.wait(60)
        return again(*args)

    monkeypatch.setattr(teaching, "teach_again", slowly)
    making = threading.Thread(target=predictor.prepare, args=["nut"])
    making.start()
    assert begun.wait(60)
    taught = line.teach("nut", asked_rate=0.2)
    predictor.prepare("nut")
    let_go.set()
    making.join()
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and found.sha256 == taught.sha256


def test_a_call_that_fails_does_not_stop_one_that_is_still_making_the_profile(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.teach("nut", bundle=OTHER)
    predictor, again = line.start(), teaching.teach_again

    def fail_meanwhile(*args: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(line.store, "current", lambda product: None)
            with pytest.raises(ProfileError, match="was removed"):
                predictor.prepare("nut")
        return again(*args)

    monkeypatch.setattr(teaching, "teach_again", fail_meanwhile)
    predictor.prepare("nut")
    assert predictor.predict(good_part(0), "nut").profile is not None


def test_a_profile_that_cannot_be_stored_is_used_all_the_same(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32))
    predictor = line.start()

    def full(profile: Profile, **_: object) -> Profile:
        raise ProfileError("No space left on device")

    monkeypatch.setattr(line.store, "add", full)
    with caplog.at_level(logging.WARNING):
        predictor.prepare("nut")
    assert "the next start makes it again: No space left" in caplog.text
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and len(found.sha256) == 64


def test_a_profile_whose_pictures_teach_nothing_is_a_fault(line: Line) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32), goods=())
    with pytest.raises(ProfileError, match=r"and cannot be made again: too few pictures.*Teach the product again"):
        line.start().prepare("nut")
