"""Benchmarks of the live log. Each is one command; README.md has the figures. No part of the package."""
