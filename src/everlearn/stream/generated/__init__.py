"""Generate streams whose drift and whose best possible error are known.

The name of a stream, its concepts, positions of drift and a seed come in; a `Stream` goes out, as `everlearn.read`
returns one of a file. `functions` holds streams whose label is a function of the features, `mixtures` those whose
features are drawn for a label, `schedule` says which concept a row has, and `generator` puts them together. Each row is
a function of the seed and its number, so the rows do not depend on how the stream is read. Streams from files live
beside this package.
"""

from everlearn.stream.generated.generator import Generator, Truth
from everlearn.stream.generated.opening import generate

__all__ = ["Generator", "Truth", "generate"]
