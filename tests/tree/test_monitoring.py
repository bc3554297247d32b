"""The alert rules and the dashboard: Prometheus's own tool understands them, and they ask for
metrics that there are.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.harness import need, need_modules, output
from tests.support.paths import ROOT

PLACE = ROOT / "contrib" / "monitoring"


def test_prometheus_takes_the_rules_and_each_alert_comes_when_it_should() -> None:
    need("promtool")
    output("promtool", "check", "rules", "alerts.yml", cwd=PLACE)
    output("promtool", "test", "rules", "alerts_test.yml", cwd=PLACE)


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "query") and isinstance(inner, str):
                yield inner
            yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


def test_rules_and_panels_ask_for_metrics_that_there_are() -> None:
    need_modules("prometheus_client")
    from nbdfork import metrics, status
    from nbdfork.server.scoreboard import Scoreboard

    facts = {"version": "1", "started": 1.0, "max_clients": 1, "one_process": False}
    state = {"generation": 1, "draining": False}
    _, text = metrics.exposition(status.document(Scoreboard(1), facts, state))
    there = set(re.findall(r"^(?:# TYPE )?(nbdfork_\w+)", text.decode(), re.MULTILINE))
    asked = " ".join(expressions(json.loads((PLACE / "grafana.json").read_text())))
    rules = (PLACE / "alerts.yml").read_text()
    asked += " ".join(re.findall(r"^ +expr: (.*(?:\n {10}.*)?)", rules, re.MULTILINE))
    names = set(re.findall(r"\bnbdfork_\w+", asked))
    assert len(names) > 8
    assert names <= there


def test_every_alert_has_its_test() -> None:
    alerts = re.findall(r"alert: (\w+)", (PLACE / "alerts.yml").read_text())
    tested = re.findall(r"alertname: (\w+)", (PLACE / "alerts_test.yml").read_text())
    assert set(alerts) == set(tested)
