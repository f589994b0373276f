"""From data sets in MVTec layout to a checkpoint, and its evaluation. Host only."""
