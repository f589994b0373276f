"""For tests whose pictures have one colour, which an agent with the default limits does not inspect."""

from zsad_agent.config import HealthConfig

UNCHECKED = HealthConfig(dark_below=0, bright_above=255, plain_below=0)
UNCHECKED_YAML = "{dark_below: 0, bright_above: 255, plain_below: 0}"
