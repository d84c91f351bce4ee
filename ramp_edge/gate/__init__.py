"""Judges records of builds, benches and task evaluations against a budget."""
