"""The rules, in order: where the facts of a situation fit `when`, the settings `sets` override those of earlier rules.

A rule is one line of a table: `everlearn advise --rules` prints them all. Numbers called measured are of the streams
that docs/how-to/advise.md names.
"""

from __future__ import annotations

from everlearn.advise.keeping import ANCHORS, BORDERS, CLASSES, FORGETTING, MEMORY, PRIVACY
from everlearn.advise.learning import DRIFT, FAMILY, SAFETY, SIZE, UPDATES

RULES = (*FAMILY, *UPDATES, *DRIFT, *FORGETTING, *PRIVACY, *BORDERS, *CLASSES, *SIZE, *SAFETY, *ANCHORS, *MEMORY)
