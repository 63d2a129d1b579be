"""What schemathesis has to know of the shop: which ids exist, and what the description says in words alone.

The environment names what exists: API_FUZZ_IDS is a JSON object of lists of ids, by the path that takes them or what it begins with.
"""

import json
import os
import random
import re
import uuid

import schemathesis

CHANCE = random.Random(1)
IDS = json.loads(os.environ["API_FUZZ_IDS"])


def known(ids, text):
    """One that exists for every other valid id, always the same for the same text; else the text as it is."""
    try:
        number = uuid.UUID(text).int
    except (AttributeError, TypeError, ValueError):
        return text
    return ids[number // 2 % len(ids)] if ids and number % 2 else text


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Random ids name nothing, and an API that only ever says 404 is hardly tested."""
    if path_parameters and "id" in path_parameters:
        path = context.operation.path
        ids = IDS.get(path) or IDS.get(path.split("/{id}")[0])
        path_parameters["id"] = known(ids, path_parameters["id"])
    return path_parameters


@schemathesis.hook
def map_body(context, body):
    """Orders name products, and payments an amount: for every other one, those that exist."""
    if not isinstance(body, dict):
        return body
    lines = body.get("lines")
    for line in lines if isinstance(lines, list) else []:
        if isinstance(line, dict) and "productId" in line:
            line["productId"] = known(IDS["/api/v1/products"], line["productId"])
    if "paymentKey" in body and is_money(body.get("amount")) and body["amount"]["amount"] % 2:
        body["amount"] = {"amount": 15000, "currency": "KRW"}
    return body


def is_money(value):
    """An amount that the description allows: what it forbids has to stay as it is."""
    if not isinstance(value, dict) or set(value) != {"amount", "currency"}:
        return False
    amount, currency = value["amount"], value["currency"]
    counted = isinstance(amount, int) and not isinstance(amount, bool) and 0 <= amount < 2**53
    return counted and isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency) is not None


@schemathesis.hook
def before_call(context, case, kwargs):
    """A call that needs an Idempotency-Key and has none is refused before anything else is looked at: one in four is enough of that.

    The description says in words alone that only a dry run can do without. One in four of all others becomes a dry run.
    """
    if needs_a_key(case.operation) and "Idempotency-Key" not in case.headers and CHANCE.random() < 0.75:
        case.headers["Idempotency-Key"] = str(uuid.UUID(int=CHANCE.getrandbits(128)))
    if "dryRun" in case.operation.query and "dryRun" not in case.query and CHANCE.random() < 0.25:
        case.query["dryRun"] = "true"


def needs_a_key(operation):
    key = operation.headers.get("Idempotency-Key")
    return key is not None and "Required unless" in key.definition["description"]


@schemathesis.check
def dry_runs_answer_events(ctx, response, case):
    """Events for a dry run and for nothing else; and what a dry run can do without is needed by all other calls."""
    if response.status_code >= 300 or "dryRun" not in case.operation.query:
        return
    dry = re.findall("[?&]dryRun=([^&]*)", response.request.url)[-1:] == ["true"]
    events = response.status_code == 200 and set(response.json()) == {"events"}
    if dry and not events:
        raise AssertionError("a dry run answers 200 and its events")
    if events and not dry:
        raise AssertionError("a call that is no dry run answers as one")
    if not dry and needs_a_key(case.operation) and "Idempotency-Key" not in response.request.headers:
        raise AssertionError("this was done without an Idempotency-Key")
