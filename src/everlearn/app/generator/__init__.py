"""Answer chats with a language model, and show its answers to people who judge them.

Requests in OpenAI's form and texts of a model come in; replies, chunks of streams and safe HTML go out.
`openai_records` reads and writes the form of requests and replies, and `rendering` turns Markdown into HTML that holds
no code. Neither generates text: the policy and its reward model live in `families/preference/`.
"""
