"""The parts of `tools/compare.py`: rivals, ramp-edge with and without its parts, speed, record, table and plot."""
