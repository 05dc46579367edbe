"""Short import paths of networks, as release 0.1.0 had them: `everlearn.neural.lora` and `everlearn.neural.settings`.

Nothing is defined here. The code lives in `everlearn.families.neural`.
"""

from everlearn.families.neural import Neural, build

__all__ = ["Neural", "build"]
