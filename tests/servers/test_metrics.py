"""wsgi-tb metrics on real gunicorn, judged by promtool and scraped by Prometheus."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.exposition import values
from tests.support.interpreters import needs_outside_help
from tests.support.programs import PROJECT, require_program
from tests.support.servers import Server
from tests.support.stalling import telling
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartGunicorn

COMMAND = (sys.executable, "-m", "wsgi_tracebacker", "metrics")
CONFIGURATION = ("-c", "python:wsgi_tracebacker.servers.gunicorn")
RULES = PROJECT / "docs" / "prometheus-alerts.yml"

#: promtool takes the ``tb`` in ``wsgi_tb_`` for terabytes, and has nothing else to say.
_TERABYTES = "metric names should not contain abbreviated units"


def metrics(*arguments: str, code: int = 0) -> str:
    done = subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, cwd=PROJECT, check=False, timeout=30)
    assert done.returncode == code, done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_two_workers_do_is_counted(gunicorn: StartGunicorn, base: str) -> None:
    """Requests in flight by phase and age, slots, memory, CPU; promtool can read all of it."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION, "--workers", "2", "--threads", "2")
    for _ in range(5):
        server.get("/")
    with server.in_flight("/slow?seconds=60"):
        text = wait_until(
            lambda: text if values(text := metrics(base), "waiting", **{"for": "sleep"}) == {base: 1} else None,
            "the request is old enough to be asked what it waits for",
        )
        assert text is not None
        assert values(text, "workers", state="alive") == {base: 2}
        assert sum(values(text, "requests_total", base=base).values()) == 6
        assert values(text, "oldest_request_seconds")[base] > 0
        assert values(text, "cores", state="busy") == {base: 1}
        assert values(text, "requests_in_flight", phase="app") == {base: 1}
        assert values(text, "accept_queue") == {base: 0}
        assert set(values(text, "resident_bytes", base=base)) == set(values(text, "cpu_seconds_total", base=base))
        assert min(values(text, "resident_bytes").values()) > 2**20
    checked = subprocess.run(
        [require_program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    complaints = [line.partition(" ")[2] for line in (checked.stdout + checked.stderr).splitlines()]
    assert set(complaints) == {_TERABYTES}


def test_counters_survive_the_death_of_a_worker(gunicorn: StartGunicorn, base: str) -> None:
    """While its number is free and when a successor has it: the requests so far, and one death more."""
    server = gunicorn("example_app.wsgi:application", *CONFIGURATION)
    for _ in range(5):
        server.get("/")
    assert values(metrics(base), "requests_total") == {f"{base} 1": 5}
    assert values(metrics(base), "deaths_total") == {f"{base} 1": 0}
    [worker] = server.workers()
    # The master does not see the death before it is allowed to go on.
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    try:
        text = wait_until(
            lambda: text if values(text := metrics(base), "workers", state="dead") == {base: 1} else None, "it is dead"
        )
        assert text is not None
        assert values(text, "requests_total") == {f"{base} 1": 5}
        assert values(text, "deaths_total") == {f"{base} 1": 1}
    finally:
        os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: values(metrics(base), "workers", state="alive") == {base: 1}, "a successor is there")
    server.get("/")
    assert values(metrics(base), "requests_total") == {f"{base} 1": 6}
    assert values(metrics(base), "deaths_total") == {f"{base} 1": 1}


def test_overdue_requests_are_counted_by_their_verdict(gunicorn: StartGunicorn, base: str) -> None:
    """One that sleeps is overdue, and waits."""
    server = gunicorn(
        "example_app.wsgi:application", *CONFIGURATION, env={"WSGI_TB_HARAKIRI": "0.5", "WSGI_TB_SLOW": "0.2"}
    )
    with server.in_flight("/slow?seconds=60"):
        wait_until(lambda: sum(values(metrics(base), "harakiri_total").values()), "it is overdue")
        text = metrics(base)
    counted = {kind: count for kind, count in values(text, "harakiri_total", base=base, worker="1").items() if count}
    assert len(counted) == 1
    assert set(counted) <= {"log waiting", "log frozen", "log unknown"}
    assert values(text, "slow_total") == {f"{base} 1": 1}


def test_a_base_without_workers(base: str) -> None:
    """It is in the metrics with no worker in any state, so that an alert can be about it."""
    text = metrics(base)
    assert set(values(text, "workers", base=base).values()) == {0}
    assert values(text, "requests_total") == {}


def test_a_file_is_replaced_in_one_step(gunicorn: StartGunicorn, base: str, tmp_path: Path) -> None:
    """Whoever has the old file open goes on reading that; the new one may be read by everybody."""
    gunicorn("example_app.wsgi:application", *CONFIGURATION)
    file = tmp_path / "wsgi-tb.prom"
    file.write_text("old")
    with file.open() as opened:
        assert metrics(base, "-o", str(file)) == ""
        assert opened.read() == "old"
    assert values(file.read_text(), "workers", state="alive") == {base: 1}
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["wsgi-tb.prom"]
    assert list(tmp_path.glob(".*")) == []
    metrics(base, "-o", str(tmp_path / "nowhere" / "file"), code=4)


def test_an_address_that_is_taken(base: str) -> None:
    """One line and an exit code of its own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics(base, "--listen", f"127.0.0.1:{taken.getsockname()[1]}", code=4)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "::1:9180", ":9180"])
def test_an_address_that_is_none(base: str, address: str) -> None:
    """It is misuse."""
    metrics(base, "--listen", address, code=2)


def serving(base: str, log: Path) -> tuple[Server, tuple[str, int]]:
    server = Server([*COMMAND, base, "--listen", "127.0.0.1:0"], log)
    try:
        port = int(server.wait_for_log(r"metrics at http://127\.0\.0\.1:(\d+)/metrics")[1])
    except BaseException:
        server.stop()
        raise
    return server, ("127.0.0.1", port)


def test_metrics_are_served(gunicorn: StartGunicorn, base: str, tmp_path: Path) -> None:
    """GET and HEAD of /metrics; nothing else is there, and nothing can be done."""
    gunicorn("example_app.wsgi:application", *CONFIGURATION)
    server, address = serving(base, tmp_path / "metrics.log")
    with server:
        answer = clients.request(address, "/metrics")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert values(answer.text, "workers", state="alive") == {base: 1}
        assert clients.request(address, "/").status == 404
        assert raw(address, b"HEAD /metrics HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")
        assert raw(address, b"POST /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 501")


def raw(address: tuple[str, int], question: bytes) -> bytes:
    with clients.connect(address) as connection:
        connection.sendall(question)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@needs_outside_help
def test_prometheus_scrapes_and_an_alert_fires_for_a_stuck_worker(base: str, tmp_path: Path) -> None:
    """All shipped rules are loaded and can be evaluated; a worker in which Python cannot run is an alert."""
    program = require_program("prometheus")
    rules = re.sub(r"for: \w+", "for: 1s", RULES.read_text())
    (tmp_path / "rules.yml").write_text(rules)
    with telling("stalling_worker", base, "deadlock"):
        exporter, (host, port) = serving(base, tmp_path / "metrics.log")
        with exporter:
            config = {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(tmp_path / "rules.yml")],
                "scrape_configs": [{"job_name": "wsgi_tb", "static_configs": [{"targets": [f"{host}:{port}"]}]}],
            }
            # JSON is YAML.
            (tmp_path / "prometheus.yml").write_text(json.dumps(config))
            own = free_port()
            command = [
                *(program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
                *(f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"),
            ]
            with Server(command, tmp_path / "prometheus.log") as prometheus:
                prometheus.wait_until_connectable(("127.0.0.1", own))

                def firing() -> list[dict[str, Any]]:
                    prometheus.check_running()
                    alerts = api(own, "alerts").get("alerts", [])
                    return [each for each in alerts if each["labels"]["alertname"] == "WsgiWorkerStalled"]

                wait_until(
                    lambda: any(each["state"] == "firing" for each in firing()),
                    lambda: f"the alert fires: {api(own, 'alerts')} {api(own, 'targets')}",
                    timeout_seconds=40,
                )
                [alert] = firing()
                assert (alert["labels"]["base"], alert["labels"]["severity"]) == (base, "critical")
                [group] = api(own, "rules")["groups"]
                assert {rule["health"] for rule in group["rules"]} == {"ok"}
                assert len(group["rules"]) == rules.count("alert:")


def api(port: int, path: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
            content = json.load(answer)
    except OSError:
        # It listens before it is ready.
        return {}
    assert content["status"] == "success"
    return dict(content["data"])
