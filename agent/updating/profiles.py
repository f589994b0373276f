"""Takes profiles into use that another device or a host has made."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from zsad_agent.model import CameraInUse, ModelInUse
from zsad_agent.teaching import ProfileStore, decode_profile
from zsad_core.bundle import TrustedKey, check_profile_signature
from zsad_core.errors import ImageError, ProfileError


class InstalledProfiles:
    """Changes the store, and the predictor in use. For one thread."""

    def __init__(
        self,
        store: ProfileStore,
        models: ModelInUse,
        cameras: Callable[[], Sequence[CameraInUse]],
        keys: Sequence[TrustedKey],
    ) -> None:
        """`keys`: if there are any, one of them must have signed a profile."""
        self._store, self._models, self._cameras, self._keys = store, models, cameras, keys

    def in_use(self, product: str) -> str | None:
        """The hash of the product's profile; None: it has none that can be read."""
        with contextlib.suppress(ProfileError):
            if (profile := self._store.current(product)) is not None:
                return profile.sha256
        return None

    def use(self, path: Path) -> None:
        """Checks the profile in a file, takes it into use and tries it on the last pictures of its product.

        Raises:
            ZsadError: it is refused; what was in use before is in use.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
        if self._keys:
            check_profile_signature(content, path, self._keys)
        profile, bundle = decode_profile(content, path.name), self._models.current.bundle
        if not profile.fits(bundle.sha256):
            made_with = profile.bundle
            raise ProfileError(
                f"the profile of {profile.product} was made with the bundle {made_with.name} {made_with.version} "
                f"({made_with.sha256[:12]}), this device uses {bundle.manifest.name} {bundle.manifest.version} "
                f"({bundle.sha256[:12]}). Update the bundle first"
            )
        before = self.in_use(profile.product)
        self._store.import_from(path, self._keys)
        try:
            self._try(profile.product)
        except Exception:  # a model can fail in any way
            if before is None:
                self._store.remove(profile.product)
            elif before != profile.sha256:
                self._store.roll_back(profile.product)
            self._models.current.predictor.prepare(profile.product)
            raise

    def leave(self, product: str) -> None:
        """Takes the profile before the one in use into use.

        Raises:
            ZsadError: there is none, or it cannot be used.
        """
        self._store.roll_back(product)
        self._models.current.predictor.prepare(product)

    def _try(self, product: str) -> None:
        predictor = self._models.current.predictor
        predictor.prepare(product)
        for camera in self._cameras():
            for image_bgr in camera.images_bgr if camera.product == product else ():
                with self._models.model_lock, contextlib.suppress(ImageError):  # a picture may show no part
                    predictor.predict(image_bgr, product)
