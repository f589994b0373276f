"""The value of a command on `update/set`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from zsad_core.bundle import ProductName, Sha256
from zsad_core.config import StrictModel

_KEYS = {  # (action, kind) -> keys that it needs, beside `sha256`
    ("fetch", "bundle"): {"url", "bytes"},
    ("fetch", "profile"): {"url", "bytes"},
    ("rollback", "bundle"): set(),
    ("rollback", "profile"): {"product"},
}


class UpdateRequest(StrictModel):
    """What to take into use, or to leave."""

    action: Literal["fetch", "rollback"]
    kind: Literal["bundle", "profile"]
    sha256: Sha256  # fetch: of the file; rollback: of the bundle's manifest or the profile, which must be in use
    url: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    signature: Annotated[str, Field(min_length=1, max_length=512)] | None = None  # the line of a profile's .sig
    product: ProductName | None = None

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        needed = _KEYS[self.action, self.kind]
        allowed = needed | {"action", "kind", "sha256"} | ({"signature"} if self.kind == "profile" else set())
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if odd := given - allowed:
            raise ValueError(f"{min(odd)} does not belong to {self.action} of a {self.kind}")
        if missing := needed - given:
            raise ValueError(f"{self.action} of a {self.kind} needs {min(missing)}")
        return self
