"""The hot path: predictions, feedback and examples over HTTP, answered in groups."""
