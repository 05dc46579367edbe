"""Use our models in other libraries, and copy loops to a registry.

`sklearn` and `river` hold our models as estimators of scikit-learn and River; `rows` and `dicts` turn what these give
into batches. `mlflow` copies versions, metrics and aliases of a loop to a tracking server, and `mirror` does so in a
thread. `pyfunc` is the form in which a version is registered; a loop may begin with one. Each module needs its library
only when it is imported or used. Models of other libraries that learn here are in `families/foreign/`, loops in
`loop/`.
"""
