"""Leave out the doctests of modules whose package is not installed for tests."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") else ["src/everlearn/scale/ray_places.py", "src/everlearn/scale/ray_placer.py"]
