"""Take a model out: as an ONNX file, as text, as a picture.

A model and its schema come in; a file, a text or a figure goes out, in the words and units of the schema. `onnx` writes
models for onnxruntime, `text`, `dot` and `picture` show one tree, `labels` puts tests and leaves into words, `columns`
names columns and hashed entries, and `cost` measures what frozen leaves lose. How a family is written is in
`families/graphs.py` and `families/frozen.py`; the contributions to one answer are in `families/explain.py`, and the
command that finds the model of a loop in `loop/export.py`.
"""

from everlearn.export.columns import entry_names
from everlearn.export.cost import Cost, cost
from everlearn.export.dot import dot
from everlearn.export.onnx import write as onnx
from everlearn.export.picture import picture
from everlearn.export.text import text
from everlearn.families.frozen import names as trees

__all__ = ["Cost", "cost", "dot", "entry_names", "onnx", "picture", "text", "trees"]
