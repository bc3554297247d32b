"""The metrics are what Prometheus's own parser understands, and say what the status says."""

from tests.support.harness import need_modules

need_modules("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from nbdfork import metrics, status  # noqa: E402
from nbdfork.server.scoreboard import Scoreboard  # noqa: E402
from nbdfork.server.slots import Slot, State  # noqa: E402

FACTS = {"version": "1", "started": 17.0, "max_clients": 256, "one_process": False}


def test_what_the_status_says() -> None:
    board = Scoreboard(2)
    for state in (State.SERVING, State.IDLE):
        slots = board.claim(1)
        assert slots is not None
        slot = Slot(board.share(slots), 0)
        slot.set(state)
        if state is State.SERVING:
            slot.begin("somebody")
            slot.set_export('a "disk"\n')
            slot.count(5, 4096, 512, 1, 0)
    document = status.document(board, FACTS, {"generation": 2, "draining": True})
    kind, text = metrics.exposition(document)
    assert kind.startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found[("nbdfork_requests_total",)] == 5
    assert found[("nbdfork_read_bytes_total",)] == 4096
    assert found[("nbdfork_written_bytes_total",)] == 512
    assert found[("nbdfork_request_errors_total",)] == 1
    assert found[("nbdfork_generation",)] == 2
    assert found[("nbdfork_draining",)] == 1
    assert found[("nbdfork_clients_connected", 'a "disk"\n')] == 1
    assert found[("nbdfork_workers", "idle")] == 1
    assert found[("nbdfork_batch_duration_seconds_bucket", "+Inf")] == 5
