"""The rules, in order: where the facts of a situation fit `when`, `sets` is put over what the rules before have set.

A rule is read like a line of a table, and is one: `everlearn advise --rules` prints them all. Numbers called measured
are of the streams that docs/how-to/advise.md names.
"""

from __future__ import annotations

from everlearn.advise.keeping import ANCHORS, BORDERS, CLASSES, FORGETTING, MEMORY, PRIVACY
from everlearn.advise.learning import DRIFT, FAMILY, SAFETY, SIZE, UPDATES

RULES = (*FAMILY, *UPDATES, *DRIFT, *FORGETTING, *PRIVACY, *BORDERS, *CLASSES, *SIZE, *SAFETY, *ANCHORS, *MEMORY)
