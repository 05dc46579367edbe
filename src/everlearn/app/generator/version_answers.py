"""GET /label/answers: the prompt of a pair, answered by the first version of the policy and by the present one."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from everlearn.app.admin.http import uncached, wrong
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.device import ServedPolicy
from everlearn.app.generator.page_tree import tree
from everlearn.app.generator.rendering import rendered
from everlearn.client.label_records import VersionAnswers
from everlearn.families.preference import asking
from everlearn.families.preference.sampling import generate_many
from everlearn.feedback import admission
from everlearn.schema import question

SEED = 1  # of both answers: they differ by what was learned alone


async def answers(context: GeneratorContext, request: Request) -> Response:
    """GET /label/answers"""
    id = request.query_params.get("id", "")
    if not 0 < len(id) <= 200:
        raise wrong("id", id, "the id of a pair")
    found = await asyncio.to_thread(admission.prediction, context.log, id)
    if found is None:
        raise admission.unknown(id)
    prompt = question.unpack_ids(question.decode(found.payload).prompt).tolist()

    def work(policy: ServedPolicy) -> VersionAnswers:
        model = policy.model
        (present,) = asking.sample(model, prompt, seed=SEED)
        limit = model.settings.pairs.answer_tokens
        with model.policy.reference() as module:  # the weights that the policy started from
            ((first,),) = generate_many(module, [prompt], 1, seeds=[SEED], limit=limit, stop=model.stop)
        before, now = (tree(rendered(asking.spelled(model, one.ids))) for one in (first, present))
        return VersionAnswers(id, before, now, policy.version)

    return uncached(await context.compute(work))
