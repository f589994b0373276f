"""The statistics on `<prefix>/<device_id>/stats`, schema `zsad.stats/1`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from zsad_agent.messages.result import BundleName, Text, TopicLevel, Unit, UtcTime, encode
from zsad_core.config import StrictModel

Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


class VerdictCounts(StrictModel):
    ok: Count
    anomalous: Count
    unknown: Count


class Percentiles(StrictModel):
    p50: NotNegative
    p95: NotNegative


class RecentLatency(StrictModel):
    """Milliseconds over the last five minutes; null without a result in them."""

    capture_to_result: Percentiles | None
    inference: Percentiles | None


class DriftStats(StrictModel):
    """Scores of the parts beside those of the taught goods, since the profile came into use."""

    accepted_p50: Unit | None = Field(description="Median of the last 500 accepted parts; null: none yet.")
    accepted_p90: Unit | None = Field(description="Their 90 % quantile.")
    goods_p50: Unit
    goods_p90: Unit
    rejects: Count
    overridden: Count = Field(description="Rejected parts that a person marked as good.")


class CameraStats(StrictModel):
    up: bool = Field(description="It delivers pictures that can be judged.")
    reason: str | None = Field(description="Why it is not up.")
    results: VerdictCounts
    dropped: Count = Field(description="Frames that a newer one replaced.")
    latency_ms: RecentLatency
    provisional_frames: Count | None = Field(
        default=None, description="Of the next result: while it is not null, teach the product."
    )
    drift: DriftStats | None = Field(default=None, description="Null while nothing was taught for the product.")


class BundleStats(BundleName):
    device: Text = Field(description="What it runs on, in OpenVINO's words.")


class SpoolStats(StrictModel):
    entries: Count = Field(description="Results that wait for the broker.")
    bytes: Count = Field(description="Size of the file.")
    oldest_age_s: NotNegative | None = Field(description="Age of the oldest result that waits; null: none waits.")


class BrokerStats(StrictModel):
    connections: Count
    acknowledged: Count = Field(description="Results that the broker has.")
    replayed: Count = Field(description="Results sent as replayed, again or for the first time.")
    given_up: dict[str, Count] = Field(description="Results lost, by cause.")
    attached_images_given_up: dict[str, Count] = Field(
        description="Pictures that were to follow their results (spool.pictures) and are lost, by cause."
    )


class EvidenceStats(StrictModel):
    kept: Count = Field(description="Results that were written.")
    dropped: Count = Field(description="Results left out: the disk was too slow, full or broken.")
    pruned: Count = Field(description="Results deleted for a limit.")
    bytes: Count = Field(description="On disk now.")


def _complete_schema(schema: dict[str, Any]) -> None:
    schema |= {"title": "zsad.stats/1", "$id": "urn:zsad:stats:1", "required": sorted(schema["properties"])}


class Stats(StrictModel, json_schema_extra=_complete_schema):
    """The agent's counts, as published, retained, on <prefix>/<device_id>/stats. Counts are since the start."""

    schema_name: Literal["zsad.stats/1"] = Field(default="zsad.stats/1", alias="schema")
    device_id: TopicLevel
    instance: Text = Field(description="Random, another one after each start or reload of the agent.")
    at: UtcTime = Field(description="UTC, with milliseconds.")
    uptime_s: NotNegative = Field(description="Seconds since the start of the agent.")
    version: Text = Field(description="The agent's.")
    bundle: BundleStats
    cameras: dict[TopicLevel, CameraStats]
    spool: SpoolStats
    broker: BrokerStats
    evidence: EvidenceStats | None = Field(description="Null when evidence is off.")
    faults: tuple[Text, ...] = Field(description="Faults of the agent's parts at present, except of cameras.")
    command_nonce: Text | None = Field(description="Proves a command to be new; null when commands are off.")

    def encode(self) -> bytes:
        """The message: UTF-8 JSON without spaces."""
        return encode(self.model_dump(by_alias=True))
