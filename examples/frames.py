# %% [markdown]
# # Data frames in, data frames out
# Cells are marked with `# %%`, as editors expect: run them one by one, or all with `python examples/frames.py`.

# %%
import tempfile

import numpy as np
import pandas as pd
import polars as pl

import everlearn as el

draw = np.random.default_rng(2)
visits = pd.DataFrame({"pages": draw.integers(1, 20, 3000), "source": draw.choice(["search", "mail", "ad"], 3000)})
odds = 1 / (1 + np.exp(3.0 - 0.3 * visits["pages"] - 1.0 * (visits["source"] == "mail")))  # the truth
visits["bought"] = draw.random(3000) < odds

# %% [markdown]
# The schema comes from the frame. History, whose labels are known, is predicted and learned.

# %%
schema = el.read(visits, label="bought").schema
loop = el.open({"schema": schema}, home=tempfile.mkdtemp(prefix="everlearn-frames-"))
loop.learn_many(visits[:2000])
print(loop.report()["metrics"]["champion"]["accuracy"])

# %% [markdown]
# Predict a frame of pandas: the answer is one, too, with the same index.

# %%
new = visits[2000:]
answers = loop.predict_many(new.drop(columns="bought"))
error = np.abs(answers["proba_True"] - odds[2000:]).mean()
print(f"mean error of the probability: {error:.3f}")

# %% [markdown]
# Labels come later, here as a frame of polars, which names the predictions by their ids.

# %%
labels = pl.DataFrame({"id": answers["id"].tolist(), "bought": new["bought"].tolist()})
known = loop.feedback_many(labels)
print(type(known).__module__.split(".")[0], known["known"].sum(), "known before")
print(loop.report()["examples"], "examples")
print(loop.feedback_many(labels)["known"].sum(), "known the second time")
loop.close()
