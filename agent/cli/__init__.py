"""The command line: one file per command.

A command parses its flags, calls other rooms and prints. It contains no rules of the inspection. May import every room
of the agent.
"""
