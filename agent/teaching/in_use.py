"""The predictor of the agent: the bundle, and the profiles that were taught when it was made.

One factory makes it for the start, for another bundle and after a failed self-test, so all of them predict alike.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zsad_agent import teaching
from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, FeatureNetworks, Predictor
from zsad_agent.system import give_back_memory
from zsad_agent.teaching.store import ProfileStore, is_new, naming_taught
from zsad_core.bundle import GENERIC_PRODUCT, Bundle, FeatureScale
from zsad_core.errors import ProductError, ProfileError, ZsadError
from zsad_core.types import Prediction

if TYPE_CHECKING:  # without a profile none is imported, so that the first verdict comes earlier
    from zsad_agent.teaching.profile import Profile
    from zsad_agent.teaching.taught import Followed

logger = logging.getLogger(__name__)

TURN_S = 0.001  # between two pictures of a profile that is made again: for the inspection


def make_predictor(
    bundle: Bundle,
    config: InferenceConfig,
    store: ProfileStore | None,
    *,
    products: Collection[str] = (),
    cameras: int = 1,
    read_only: bool = False,
    later: bool = False,
) -> ProductPredictor:
    """A compiled predictor. The feature networks are compiled only if something was taught.

    Args:
        bundle: with its model.
        config: device, threads, budget.
        store: what was taught; None: nothing taught is used.
        products: of the cameras; each takes up to 35 MB. One that `is_new` is inspected as the generic one.
        cameras: their number: each may be given another product by a command.
        read_only: a profile that is made again for this bundle is not stored before `keep_made`.
        later: such a profile is not made before `make_waiting`; until then the product's pictures fail.

    Raises:
        ZsadError: as of `Detector`.
    """
    taught: list[str] = []
    unreadable = None
    try:
        if store is not None:
            taught = store.products()
    except ProfileError as error:
        logger.error("every verdict is unknown: %s", error)
        unreadable = error
    known = bundle.manifest.products
    may_be_new = unreadable is None and config.product in products and is_new(config.product, known, store)
    if config.product not in known and (may_be_new or config.product in taught or unreadable is not None):
        config = config.model_copy(update={"product": GENERIC_PRODUCT})  # what was taught may be new to the bundle
    with naming_taught(config.product, known, store):
        detector = Detector(bundle, config)
    networks = FeatureNetworks(bundle, config, detector) if taught and bundle.manifest.features is not None else None
    return ProductPredictor(
        detector,
        networks,
        store,
        config,
        bundle=bundle.without_model(),
        taught=taught,
        unreadable=unreadable,
        products=products,
        cameras=cameras,
        read_only=read_only,
        later=later,
    )


class _Stopped(Exception):
    """`make_waiting` was asked to end."""


class ProductPredictor:
    """Predicts with the product's profile if it has one, else with the bundle alone: `zsad_agent.model.Predictor`.

    A product that was taught never falls back to the bundle alone: without a usable profile its pictures fail.
    """

    def __init__(
        self,
        detector: Detector,
        networks: FeatureNetworks | None,
        store: ProfileStore | None,
        config: InferenceConfig,
        *,
        bundle: Bundle | None = None,
        taught: list[str],
        unreadable: ProfileError | None = None,
        products: Collection[str] = (),
        cameras: int = 1,
        read_only: bool = False,
        later: bool = False,
    ) -> None:
        """Reads no profile yet.

        Args:
            detector: the zero-shot model.
            networks: of the same bundle; None if nothing was taught, or if the bundle has none.
            store: of the profiles; None: nothing taught is used.
            config: see `TaughtPredictor`.
            taught: the products in the store.
            unreadable: why these are unknown; every picture then fails with this reason.
            bundle: without its model, for networks that are needed later.
            products: as of `make_predictor`.
            cameras: the same.
            read_only: the same.
            later: the same.
        """
        self._read_only, self._later = read_only, later
        self._waiting: list[str] = []  # products whose profiles are made by `make_waiting`
        self._unsaved: dict[str, tuple[Profile, str]] = {}  # product -> made again, and the hash of what it was made of
        self._stopped: Callable[[], bool] = lambda: False
        self._unreadable, self._bundle, self._config = unreadable, bundle, config
        self._products = frozenset(products)
        self._untaught: set[str] = set()  # of these, the ones that are inspected as the generic one
        self._most_held = max(cameras, len(self._products)) + 1  # the next one is prepared during the inspection
        self.detector = detector
        self.trial_s = detector.trial_s
        self._networks, self._store, self._taught = networks, store, set(taught)
        self._held: OrderedDict[str, Profile | ProfileError] = OrderedDict()
        self._asked = itertools.count()  # numbers the calls of `prepare`
        self._held_since: dict[str, int] = {}  # product -> number of the call that set it
        self._turn = threading.Lock()  # held while a network runs and while what is below or `_held` changes
        self._followed: dict[str, Followed] = {}  # by the hash of the profile
        self._predictor: Predictor = detector
        if networks is not None:
            self._use(networks)

    def _use(self, networks: FeatureNetworks) -> None:
        self._predictor = teaching.TaughtPredictor(
            self.detector, networks, self._profile_of, self._config, self._most_held, self._followed_of
        )
        self._networks = networks

    def follow(self, sha256: str, followed: Followed) -> None:
        """Uses what was followed since this profile came into use, from the next picture on."""
        with self._turn:
            self._followed[sha256] = followed
            held = {found.sha256 for found in self._held.values() if not isinstance(found, ProfileError)}
            for old in self._followed.keys() - held - {sha256}:
                del self._followed[old]

    def _followed_of(self, profile: Profile) -> Followed | None:
        return self._followed.get(profile.sha256)

    def for_learning(self) -> tuple[Predictor, FeatureNetworks]:
        """The detector and networks for a teach-in in another thread: pictures of the inspection come in between.

        Compiles the networks if nothing was taught before.

        Raises:
            BundleError: the bundle has no feature networks.
            DeviceError: the device cannot run them.
        """
        if self._networks is None:
            if self._bundle is None:
                raise ProfileError("this predictor was made without a bundle, so it cannot learn")
            networks = FeatureNetworks(self._bundle, self._config, self.detector)
            with self._turn:
                self._use(networks)
        assert self._networks is not None
        return _SharedDetector(self.detector, self._turn), _SharedNetworks(self._networks, self._turn)

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        """As `zsad_agent.model.Predictor.predict`.

        Raises:
            ProfileError: what was taught about the product cannot be used.
        """
        if self._unreadable is not None:
            raise self._unreadable
        if self._networks is None and product in self._taught:
            raise self._without_networks(product)
        with self._turn:
            if product in self._untaught:
                return self.detector.predict(image_bgr, GENERIC_PRODUCT)
            return self._predictor.predict(image_bgr, product)

    def is_taught(self, product: str) -> bool:
        """As `zsad_agent.model.Predictor.is_taught`."""
        return self._unreadable is not None or product in self._taught

    def prepare(self, product: str) -> None:
        """As `zsad_agent.model.Predictor.prepare`. Reads the profile, and makes it again if it does not fit.

        For any thread: the inspection continues meanwhile.
        """
        if self._unreadable is not None:
            raise self._unreadable
        if self._store is None or not self._store.has(product):
            self._prepare_untaught(product)
            self._taught.discard(product)
            return
        if self._networks is None:
            if self._bundle is None or self._bundle.manifest.features is None:
                raise self._without_networks(product)
            self.for_learning()
        assert self._networks is not None
        self._taught.add(product)
        self._untaught.discard(product)
        number = next(self._asked)
        with self._turn:
            before = self._held.get(product)
        try:
            profile = self._read(product)
            if not profile.fits(self._networks.bundle.sha256):
                profile = self._for_this_bundle(profile, self._networks)
            with self._turn:
                if self._held_since.get(product, -1) < number:  # else a later call has read what is in use
                    self._held_since[product] = number
                    self._hold(product, profile)
                self._predictor.prepare(product)
            give_back_memory()  # of the file, and of the compiler at a first product
        except ProfileError as error:
            with self._turn:  # what another camera uses stays in use
                held = before if self._held_since.get(product) == number else self._held.get(product)
                self._hold(product, error if not held or isinstance(held, ProfileError) else held)
            raise

    def _prepare_untaught(self, product: str) -> None:
        known = () if self._bundle is None else self._bundle.manifest.products
        try:
            with naming_taught(product, known, self._store):
                self.detector.prepare(product)
        except ProductError:
            if product not in self._products or not is_new(product, known, self._store):
                raise
            logger.warning("product %r is new: it is inspected as %r until it is taught", product, GENERIC_PRODUCT)
            self._untaught.add(product)

    def make_waiting(self, stopped: Callable[[], bool]) -> None:
        """Makes the profiles that `prepare` has put off. The inspection continues meanwhile.

        `stopped`: asked after each picture; if it is true, this ends.
        """
        self._later, self._stopped = False, stopped
        waiting, self._waiting = self._waiting, []
        with self._turn:
            for number, product in enumerate(waiting, start=1):
                self._hold(product, ProfileError(f"{_again(product)} ({number} of {len(waiting)})"))
        for product in waiting:
            try:
                self.prepare(product)
                logger.warning("the profile of %s was made again for this bundle and is in use", product)
            except _Stopped:
                return
            except ZsadError as error:
                logger.error("every verdict of %s is unknown: %s", product, error)

    def keep_made(self) -> None:
        """Stores what was made again so far: the bundle stays in use."""
        self._read_only = False
        unsaved, self._unsaved = self._unsaved, {}
        for profile, instead_of in unsaved.values():
            self._save(profile, instead_of)

    def taught_with_mask(self, product: str) -> bool | None:
        """Whether a mask of the camera applied in teach-in; None: no usable profile of the product is prepared."""
        with self._turn:
            held = self._held.get(product)
        return None if held is None or isinstance(held, ProfileError) else held.ignored is not None

    def self_test(self) -> None:
        """As `zsad_agent.model.Predictor.self_test`."""
        with self._turn:
            self._predictor.self_test()

    def _profile_of(self, product: str) -> Profile | None:
        """For the inspection, at every picture."""
        if product not in self._taught:
            return None
        held = self._held.get(product)
        if held is None:
            try:
                held = self._read(product)
                if self._networks is not None and not held.fits(self._networks.bundle.sha256):
                    raise ProfileError(
                        f"the profile of {product} was made {_made_with(held, self._networks.bundle)}. It "
                        "is made again when the product is chosen or the agent is reloaded"
                    )
            except ProfileError as error:
                held = error
            self._hold(product, held)
        self._held.move_to_end(product)
        if isinstance(held, ProfileError):
            raise held
        return held

    def _read(self, product: str) -> Profile:
        profile = self._store.current(product) if self._store is not None else None
        if profile is None:
            raise ProfileError(f"what was taught about {product} was removed. Reload the agent")
        return profile

    def _hold(self, product: str, found: Profile | ProfileError) -> None:
        """Keeps what the next pictures need. The caller holds the lock."""
        self._held[product] = found if isinstance(found, ProfileError) else replace(found, goods=())
        self._held.move_to_end(product)  # what was used last is kept longest
        while len(self._held) > self._most_held:
            self._held.popitem(last=False)

    def _without_networks(self, product: str) -> ProfileError:
        if product in self._taught:
            return ProfileError(
                f"{product} was taught, but this bundle has no feature networks. Use a newer bundle, or remove what "
                "was taught (zsad-agent profiles remove)"
            )
        return ProfileError(f"{product} was taught after the agent started. Reload the agent to use it")

    def _for_this_bundle(self, old: Profile, networks: FeatureNetworks) -> Profile:
        """What was made of the same pictures with these networks: a kept profile, else a new one. It comes into use.

        Raises:
            ProfileError: it cannot be made, or it is made later.
        """
        assert self._store is not None
        unsaved = [profile for profile, _ in self._unsaved.values()]
        kept = (
            profile
            for profile in itertools.chain(unsaved, self._store.kept(old.product))
            if profile.fits(networks.bundle.sha256)
            and {profile.sha256, profile.made_of} & ({old.sha256, old.made_of} - {None})
        )
        found = next(kept, None)
        if found is None and self._later:
            if old.product not in self._waiting:
                self._waiting.append(old.product)
            raise ProfileError(_again(old.product))
        if found is None:
            made = self._made_again(old, networks)
            found = teaching.decode_profile(teaching.encode_profile(made), old.product)
        if self._read_only:
            self._unsaved[old.product] = found, old.sha256
        else:
            self._save(found, old.sha256)
        return found

    def _save(self, profile: Profile, instead_of: str) -> None:
        assert self._store is not None
        try:
            self._store.add(profile, instead_of=instead_of)
        except ProfileError as error:
            text = "the profile of %s for this bundle is not stored, so the next start makes it again: %s"
            logger.warning(text, profile.product, error)

    def _made_again(self, old: Profile, networks: FeatureNetworks) -> Profile:
        """The profile from its kept pictures, with these networks.

        Raises:
            ProfileError: it cannot be made.
        """

        def check_stop(what: str, done: int, total: int) -> None:
            if self._stopped():
                raise _Stopped

        text = f"the profile of {old.product} was made {_made_with(old, networks.bundle)}"
        logger.warning("%s: it is made again from %d kept pictures", text, len(old.goods))
        map_hw = networks.bundle.manifest.model.map_hw
        ignored = old.ignored
        if ignored is not None:
            ignored = cv2.resize(ignored.astype(np.uint8), map_hw[::-1], interpolation=cv2.INTER_NEAREST) > 0
        try:
            detector, shared = self.for_learning()
            kit = teaching.Networks(detector=detector, features=shared, config=self._config)
            taught = teaching.teach_again(replace(old, ignored=ignored), kit, check_stop)
        except ZsadError as error:
            raise ProfileError(f"{text}, and cannot be made again: {error}. Teach the product again") from error
        return replace(taught.profile, goods=old.goods, rebuilt_from=old.bundle, made_of=old.sha256)


def _made_with(profile: Profile, bundle: Bundle) -> str:
    """Why it does not fit."""
    name = profile.bundle
    return "by an earlier agent" if name.sha256 == bundle.sha256 else f"with the bundle {name.name} {name.version}"


def _again(product: str) -> str:
    return f"the profile of {product} is being made again for this bundle"


class _SharedDetector:
    """The detector, for one picture at a time."""

    def __init__(self, detector: Detector, turn: threading.Lock) -> None:
        self._detector, self._turn = detector, turn

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        with self._turn:
            found = self._detector.predict(image_bgr, product)
        time.sleep(TURN_S)
        return found

    def prepare(self, product: str) -> None:
        self._detector.prepare(product)

    def is_taught(self, product: str) -> bool:
        return False

    def self_test(self) -> None:
        with self._turn:
            self._detector.self_test()


class _SharedNetworks(FeatureNetworks):
    """The networks, for one picture at a time."""

    def __init__(self, networks: FeatureNetworks, turn: threading.Lock) -> None:
        self.scales, self.bundle = networks.scales, networks.bundle
        self._shared, self._turn = networks, turn

    def tokens(self, view_bgr: np.ndarray, scale: FeatureScale, *, strip: bool = False) -> np.ndarray:
        with self._turn:
            found = self._shared.tokens(view_bgr, scale, strip=strip)
        time.sleep(TURN_S)
        return found

    def time_ms(self, scale: FeatureScale) -> float:
        return self._shared.time_ms(scale)

    def self_test(self) -> None:
        with self._turn:
            self._shared.self_test()
