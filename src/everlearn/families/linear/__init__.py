"""Linear models: logistic, softmax and regression, dense and hashed, learned one row at a time."""

from everlearn.families.linear.model import Linear, build

__all__ = ["Linear", "build"]
