"""The command line: the table of the commands, the daemon's start, and what concerns the config alone.

Commands that work with pictures are in `tools`. May import every room of the agent.
"""
