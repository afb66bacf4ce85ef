"""The record in other programs' forms, by their published definitions, whatever an agent put into it."""

import csv
import io
import json

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from strategies import values

from agentix.agentctl.export import FORMATS
from agentix_kernel.history.rows import _sent
from agentix_syscalls import wire

texts = st.text(st.characters(codec="utf-8"), max_size=20)


def row(data, rule=""):
    """As it comes over the wire."""
    made = {"seq": 1, "wall_ns": 1_700_000_000_000_000_001, "mono_ns": 5, "agent": 7, "life": 1, "kind": "call",
            "phase": "event", "verdict": "denied", "rule": rule, "correlation": 1 << 62, "data": _sent(data)}
    return wire.decode(wire.pack(made))


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=8), values, max_size=4), texts)
def test_every_value_fits_every_form(data, rule):
    rows = [row(data, rule), row({})]
    lines = "".join(FORMATS["jsonl"]([rows])).splitlines()
    assert len(lines) == 2
    assert all(line.isascii() for line in lines)
    assert json.loads(lines[0], parse_constant=lambda word: 1 / 0)["correlation"] == 1 << 62
    table = list(csv.DictReader(io.StringIO("".join(FORMATS["csv"]([rows])), newline="")))
    assert [found["time"] for found in table] == ["2023-11-14T22:13:20.000000001Z"] * 2
    assert json.loads(table[0]["data"]) == json.loads(lines[0])["data"]
    text = "".join(FORMATS["otel"]([rows, []]))
    assert text.count("\n") == 1
    found = json_format.Parse(text, LogsData()).resource_logs[0].scope_logs[0].log_records
    assert [log.time_unix_nano for log in found] == [1_700_000_000_000_000_001] * 2
    assert [log.event_name for log in found] == ["agentix.call"] * 2


def test_numbers_keep_all_their_digits():
    text = "".join(FORMATS["otel"]([[row({"big": (1 << 63) - 1, "mask": (1 << 64) - 1, "flag": True, "half": 0.5,
                                          "raw": b"\xff", "none": None, "list": [1, "a"]})]]))
    log = json_format.Parse(text, LogsData()).resource_logs[0].scope_logs[0].log_records[0]
    data = {pair.key: pair.value for pair in log.attributes[-1].value.kvlist_value.values}
    assert data["big"].int_value == (1 << 63) - 1
    assert data["mask"].string_value == str((1 << 64) - 1)
    assert data["flag"].bool_value is True
    assert (data["half"].double_value, data["raw"].bytes_value) == (0.5, b"\xff")
    assert data["none"].WhichOneof("value") is None
    assert [one.WhichOneof("value") for one in data["list"].array_value.values] == ["int_value", "string_value"]
