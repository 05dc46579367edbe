"""Read files, tables and standard input as streams of encoded examples.

Paths, globs, DataFrames, Arrow tables and standard input come in; chunks of examples and rejected rows go out, each row
with its position. `opening` finds the source and infers its schema, `stream` reads it, `sources` and `text` read each
format, `labels` reads labels that come later, `preferences` reads and writes preference data of language models, and
`json_values` turns raw values into what the log can hold. The meaning of a value lives in `schema/`; the loop that
learns from a stream lives in `loop/`.
"""

from everlearn.stream.json_values import plain
from everlearn.stream.opening import about, columns, infer_file, read, source_of
from everlearn.stream.stream import Chunk, Records, Stream, digest, rejected_rows

__all__ = [
    "Chunk",
    "Records",
    "Stream",
    "about",
    "columns",
    "digest",
    "infer_file",
    "plain",
    "read",
    "rejected_rows",
    "source_of",
]
