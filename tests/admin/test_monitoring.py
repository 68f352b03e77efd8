"""What is in ``etc/`` for Grafana and Prometheus, and docs/admin.md, name what there is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as read_text

from streamcache.admin.answers import Question
from streamcache.admin.board import Board
from streamcache.stats import Statistics
from tests.admin.test_metrics import metrics
from tests.requirements import program

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = REPOSITORY / "etc" / "streamcache-dashboard.json"
ALERTS = REPOSITORY / "etc" / "streamcache-alerts.yml"
NAME = re.compile(r"streamcache_[a-z_]+")
SERVER = 'instance="one:9100",job="streamcache"'


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    """The names of all samples, and their labels."""
    shared = Board(2)
    shared.slot(0).publish(Statistics(), 0)
    text = metrics(shared).scrape(Question("GET", "/metrics")).body.decode()
    found: dict[str, set[str]] = {}
    for family in read_text(text):
        found.setdefault(family.name, set())
        if family.type == "counter":
            found.setdefault(f"{family.name}_total", set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


def test_the_dashboard_asks_for_nothing_that_is_not_there(told: dict[str, set[str]]) -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 20
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    asked = {name for panel in panels for text in expressions(panel) for name in NAME.findall(text)}
    assert asked <= set(told)
    for panel in panels:
        assert panel["title"] and expressions(panel)
        for text in expressions(panel):
            for label in re.findall(r"by \(([^)]*)\)", text):
                names = {each.strip() for each in label.split(",")} - {"le"}
                assert all(names <= told[name] for name in NAME.findall(text)), text


def test_the_panels_of_the_dashboard_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_each_family_is_on_the_dashboard_and_in_the_docs(told: dict[str, set[str]]) -> None:
    board, docs = DASHBOARD.read_text(), (REPOSITORY / "docs" / "admin.md").read_text()
    text = metrics(Board(1)).scrape(Question("GET", "/metrics")).body.decode()
    for family in read_text(text):
        assert family.name in board, family.name
        shown = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{shown.removeprefix('streamcache_')}" in docs, shown


def test_the_alerts_ask_for_nothing_that_is_not_there(told: dict[str, set[str]]) -> None:
    text = ALERTS.read_text()
    assert set(NAME.findall(text)) <= set(told)
    names = re.findall(r"- alert: (\w+)", text)
    assert len(names) == text.count("description:") == text.count("severity:") > 10
    docs = (REPOSITORY / "docs" / "admin.md").read_text()
    assert [name for name in names if f"`{name}`" not in docs] == []


def promtool(*arguments: str) -> None:
    ended = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_takes_the_alerts() -> None:
    promtool("check", "rules", str(ALERTS))


def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    """By Prometheus' own evaluation, one sample a minute."""

    def series(name: str, values: str, labels: str = "") -> dict[str, str]:
        given = f"{SERVER},{labels}" if labels else SERVER
        return {"series": f"{name}{{{given}}}", "values": values}

    def case(name: str, at: str, fires: bool, *given: dict[str, str], **labels: str) -> Any:
        alert = {"eval_time": at, "alertname": name}
        if fires:
            alert["exp_alerts"] = [{"exp_labels": labels}]
        return {"interval": "1m", "input_series": list(given), "alert_rule_test": [alert]}

    fine = 'cache="hit",code="2xx"'
    failed = 'cache="miss",code="5xx"'
    one = {"instance": "one:9100"}
    both = {**one, "job": "streamcache"}
    errors = (
        series("streamcache_requests_total", "0+100x30", fine),
        series("streamcache_requests_total", "0+0x10 0+5x20", failed),
    )
    breaker = series("streamcache_source_breaker_open", "0x5 1x10", 'worker="w1"')
    age = (
        series("streamcache_evicted_age_seconds_sum", "0+60000x600"),
        series("streamcache_evicted_age_seconds_count", "0+100x600"),
    )
    tests = [
        case("StreamcacheServerErrors", "10m", False, *errors),
        case("StreamcacheServerErrors", "25m", True, *errors, severity="critical", **one),
        case("StreamcacheSourceDoesNotAnswer", "5m", False, breaker),
        case("StreamcacheSourceDoesNotAnswer", "10m", True, breaker, severity="critical", **one),
        case("StreamcacheCacheTooSmall", "9h", True, *age, severity="info", **both),
        case("StreamcacheDown", "3m", True, series("up", "0x10"), severity="critical", **both),
        case("StreamcacheDown", "3m", False, series("up", "1x10")),
    ]
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]  # their words would have to be repeated here
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"rule_files": ["rules.json"], "tests": tests}))
    promtool("test", "rules", str(path))
