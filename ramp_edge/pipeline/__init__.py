"""The steps of a build, each joining stages that do not know each other; `ramp_edge/build.py` reads them in order."""
