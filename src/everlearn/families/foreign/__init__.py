"""The family of models of other libraries: River, and scikit-learn where a model has `partial_fit`.

Encoded rows come in and become dicts or matrices (`rows`); scores go out. `model` holds the settings and the contract,
and `pickles` writes the state of such a model so that equal states have equal bytes. The other direction, our models
as estimators of these libraries, lives in `bridges/`.
"""

from everlearn.families.foreign.model import ForeignModel, build

__all__ = ["ForeignModel", "build"]
