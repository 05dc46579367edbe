"""Use our models in other libraries, and models of other libraries here.

`sklearn` and `river` hold our models as estimators of scikit-learn and River. `foreign` is the family of models of
these two libraries, which learn inside a loop. `mlflow` copies versions, metrics and aliases of a loop to a tracking
server, and starts loops from a registered model. `rows` turns matrices and data frames into batches. Each module needs
its library only when it is imported; the loop itself lives in `loop/`, and reading files in `stream/`.
"""
