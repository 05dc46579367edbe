"""Take a model out: as an ONNX file, as text, as a picture.

A model and its schema come in; a file, a text or a figure goes out, in the words and units of the schema. `onnx_file`
writes models for onnxruntime, and `freezing_cost` measures what their frozen leaves lose. `tree_text`, `tree_dot` and
`tree_picture` show one tree, `labels` puts its tests and leaves into words, and `columns` names columns and hashed
entries. How a family is written is in `families/graphs.py` and `families/frozen.py`; the contributions to one answer
are in `families/explain.py`, and the command that finds the model of a loop in `loop/export.py`.
"""

from everlearn.export.columns import entry_names
from everlearn.export.freezing_cost import FreezingCost, cost
from everlearn.export.onnx_file import inputs as onnx_inputs
from everlearn.export.onnx_file import write as onnx
from everlearn.export.tree_dot import dot
from everlearn.export.tree_picture import picture
from everlearn.export.tree_text import text
from everlearn.families.frozen import names as trees
from everlearn.families.frozen import tree

__all__ = ["FreezingCost", "cost", "dot", "entry_names", "onnx", "onnx_inputs", "picture", "text", "tree", "trees"]
