"""Data and worlds that come with the package.

Nothing comes in; the stream of the demo, and the answers, the taste and the language model of the service desk go out.
`service_desk` is the language and its annotator, `tiny_model` the model that speaks it. The demos live in `cli/`.
"""
