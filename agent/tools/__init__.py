"""Commands that work with pictures, beside the daemon: one file per command, and the flags that several share.

A command parses its flags, calls other rooms and prints. It contains no rules of the inspection. May import every room
of the agent except `cli`, `daemon` and `control`.
"""
