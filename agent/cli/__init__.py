"""The command line: one file a command.

A command parses its flags, calls the rooms below and prints. No rule of the inspection belongs here. May import
every room of the agent.
"""
