"""Agents for the servers that bring none; they run in those servers' environments."""
