"""Turn raw records into encoded batches, by a schema.

Records, columns or tables of raw values come in; batches of dense and hashed columns go out, with the values that
cannot be used. `encoder` encodes, `layout` gives the width of each field, `meaning` reads a single value, `columnar`
reads whole columns, `hashing` holds the kernels, `guessing` infers a schema, and `origins` names the field of each
column. `reading` picks what the task reads from predictions: `encoder` their features, `pairs` the answers that
`question` describes. Reading files lives in `stream/`; models, which see only batches, live in `families/`.
"""

from everlearn.schema.encoder import Encoder, Problem
from everlearn.schema.guessing import infer
from everlearn.schema.layout import KINDS, check, require, shape, width
from everlearn.schema.reading import Reading, features, reading

__all__ = [
    "KINDS",
    "Encoder",
    "Problem",
    "Reading",
    "check",
    "features",
    "infer",
    "reading",
    "require",
    "shape",
    "width",
]
