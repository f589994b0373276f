"""From labelled data sets to a checkpoint, and its evaluation. Host only."""
