"""A site's program that does its worst; run under the name ``flwr-clientapp`` by that site's SuperNode.

It is the real ClientApp of a site that sends back the model that it got, with its answer changed on the way.
It imports no torch, as the real one: Flower gives a program half a minute to report for work.
"""

import importlib
import json
import sys
import time

import numpy as np

from client.app import app as client_app
from client.flower import CLIENTAPP_PROGRAM, CLIENTAPP_RUNTIME
from client.service import registry
from client.service.fit import FitReply
from mediclip.protocol import CONFIG, METRICS, NUM_EXAMPLES
from tests.packets import change_tensors, unpacked

PATH = "/scans/ward-7/DOE^JANE.dcm"


class Mirror:
    """A site that trains on nothing."""

    def __init__(self, name):
        self.name = name

    def schema_digest(self, _):
        return ""

    def fit(self, request):
        return FitReply(request.tensors, 4, {})


def commit(deed, content, sent, reach):
    """Change an update.

    Args:
        deed: What to do.
        content: The update.
        sent: The global model.
        reach: How far an honest site's optimiser can move a value in a round.
    """
    numbers = content[METRICS]
    first = next(iter(sent))

    def send(**values):
        change_tensors(content, lambda tensors: tensors.update(values))

    match deed:
        case "nan":
            send(**{first: np.full_like(sent[first], np.nan)})
        case "shape":
            send(**{first: sent[first][:-1]})
        case "dtype":
            send(**{first: sent[first].astype(np.float64)})
        case "metric":
            numbers["patient_age"] = 61.0
        case "hundredfold":
            send(**{name: value + np.float32(100 * reach) for name, value in sent.items()})
        case "many":
            numbers[NUM_EXAMPLES] = 10**9
        case "raise":
            error = f"cannot read {PATH}"
            raise OSError(error)
        case "silent":
            time.sleep(10**6)


def run(name, deeds):
    """Be one ClientApp for one message.

    Args:
        name: What to answer the roll call with.
        deeds: What to do in each round, the first at index 0.
    """
    registry.serve(name, Mirror(name))

    def app(message, context):
        config = dict(message.content[CONFIG])
        sent = unpacked(message.content)
        context.node_config["site"] = name
        reply = client_app(message, context)
        if sent:
            reach = json.loads(config["recipe"])["learning_rate"] * config["local-steps"]
            commit(deeds[config["server-round"] - 1], reply.content, sent, reach)
        else:
            reply.content[CONFIG]["schema-digest"] = config["schema-digest"]
        return reply

    runtime = importlib.import_module(CLIENTAPP_RUNTIME)
    runtime.install_from_fab = lambda *_, **__: None
    runtime.get_load_client_app_fn = lambda **_: lambda *_: app
    importlib.import_module(CLIENTAPP_PROGRAM).flwr_clientapp()


if __name__ == "__main__":
    name, deeds = sys.argv[1:3]
    del sys.argv[1:3]
    run(name, deeds.split(","))
