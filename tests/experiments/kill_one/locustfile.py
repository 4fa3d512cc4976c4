"""A steady stream of reads and writes, counted second by second.

Locust's own history averages over ten seconds, which would hide what this experiment is about.
"""

import csv
import json
import os
import random
import time
from collections import defaultdict

from locust import FastHttpUser, constant_throughput, events, task

RATE = float(os.environ.get("KILL_ONE_RATE", "300"))
USERS = 50
KEYS = 1000

seconds = defaultdict(lambda: [0, 0, 0.0])  # second -> requests, failures, slowest in ms
began = None


class Client(FastHttpUser):
    wait_time = constant_throughput(RATE / USERS)
    network_timeout = 10.0
    connection_timeout = 10.0

    def key(self):
        return f"/v1/kv/experiment/k{random.randrange(KEYS)}"

    @task
    def read(self):
        # No such key is an answer, not a failure.
        with self.client.get(self.key(), name="GET", catch_response=True) as answer:
            if answer.status_code in (200, 300, 404):
                answer.success()

    @task
    def write(self):
        """A read-modify-write, as a client should: with the context of what it replaces."""
        key = self.key()
        with self.client.get(key, name="GET", catch_response=True) as answer:
            if answer.status_code in (200, 300, 404):
                answer.success()
            context = (answer.headers or {}).get("causal-context")
        headers = {"content-type": "application/json"}
        if context:
            headers["causal-context"] = context
        body = json.dumps({"at": time.time(), "pad": "x" * 200})
        self.client.put(key, data=body, headers=headers, name="PUT")


@events.test_start.add_listener
def start(**_):
    global began
    began = time.time()


@events.request.add_listener
def count(response_time, exception, **_):
    second = seconds[int(time.time() - began)]
    second[0] += 1
    second[1] += exception is not None
    second[2] = max(second[2], response_time or 0.0)


@events.test_stop.add_listener
def stop(**_):
    with open(os.environ.get("KILL_ONE_CSV", "seconds.csv"), "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["second", "requests", "failures", "slowest_ms"])
        for second in sorted(seconds):
            requests, failures, slowest = seconds[second]
            out.writerow([second, requests, failures, round(slowest, 1)])
