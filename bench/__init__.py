"""Benchmarks: ``python -m bench``. README.md says what is measured, and how. No part of the package."""
