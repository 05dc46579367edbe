# %% [markdown]
# # A loop in a notebook
# Cells are marked with `# %%`, as editors expect: run them one by one, or all with `python examples/notebook.py`.

# %%
import tempfile
from importlib.resources import as_file, files

import everlearn as el

home = tempfile.mkdtemp(prefix="everlearn-notebook-")
with as_file(files("everlearn") / "data" / "elec2.parquet") as path:
    stream = el.read(path, label="label")

# %% [markdown]
# The loop in this process, with the same semantics as on a server.

# %%
loop = el.open({"schema": stream.schema, "mode": "live", "warm_start": 0.1}, home=home)
loop.run(stream, progress=loop.watch())  # live metrics while it learns

# %%
answer = loop.predict({"nswprice": 0.06, "nswdemand": 0.44, "day": 2})
print(answer.value, answer.proba, answer.version)
loop.feedback(answer.id, label=answer.value)

# %% [markdown]
# Serve it: separate processes, the same home. While it is served, use the server's client.

# %%
with loop.serve(port=0) as server:
    client = server.client()
    remote = client.predict({"nswprice": 0.06, "nswdemand": 0.44, "day": 2})
    client.feedback(remote.id, label=remote.value)
    print(f"{server.url}: {remote.value}, weights no older than {1000 * remote.staleness:.0f} ms")

# %% [markdown]
# Afterwards the notebook has the loop again, with everything that the server learned.

# %%
print(loop.report()["examples"], "examples;", [decision.action for decision in loop.decisions()][-3:])
loop.watch()
loop.close()
