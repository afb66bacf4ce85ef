"""What boot decides by itself: which layers may be missing, and how a kernel's cgroups are called."""

import pytest

from agentix_kernel import boot, layers
from agentix_kernel.boot import BootError, Machine
from agentix_kernel.config import Config, ConfigError, load


def check(monkeypatch, off=(), accept=(), state=layers.OFF):
    """Check the layers of a machine that lacks some; the table of layers is the real one."""
    rows = [layers.Row(layer.name, state if layer.name in off else layers.ON, "as tested", layer.remedy)
            for layer in layers.LAYERS]
    monkeypatch.setattr(layers, "probe_all", lambda: rows)
    said = []
    values = load("/nowhere").values | {"accept_missing": accept}
    machine = Machine(Config("/nowhere", "agentd.toml", values), lambda text, **_: said.append(text))
    boot._check_layers(machine)
    return machine, said[0]


REQUIRED = [layer.name for layer in layers.LAYERS if layer.required]
OPTIONAL = [layer.name for layer in layers.LAYERS if not layer.required]


def test_a_whole_machine(monkeypatch):
    machine, said = check(monkeypatch)
    assert said == f"layers: {len(layers.LAYERS)} on, none missing"
    assert machine.accepted == ()
    assert len(machine.layers) == len(layers.LAYERS)


@pytest.mark.parametrize("state", [layers.OFF, layers.PARTIAL])
@pytest.mark.parametrize("name", REQUIRED)
def test_each_required_layer_stops_the_boot_with_its_remedy(monkeypatch, name, state):
    with pytest.raises(BootError) as caught:
        check(monkeypatch, off=[name], state=state)
    assert f"{name}: as tested" in str(caught.value)
    assert layers.table.BY_NAME[name].remedy in str(caught.value)


@pytest.mark.parametrize("name", REQUIRED)
def test_each_may_be_accepted_by_name_and_is_then_shown(monkeypatch, name):
    machine, said = check(monkeypatch, off=[name], accept=(name,))
    assert machine.accepted == (name,)
    assert said.endswith(f"accepted as missing: {name}")
    row = next(row for row in machine.layers if row["layer"] == name)
    assert (row["state"], row["accepted"]) == (layers.OFF, True)


def test_accepting_one_accepts_no_other(monkeypatch):
    with pytest.raises(BootError, match="seccomp: as tested") as caught:
        check(monkeypatch, off=["landlock", "seccomp"], accept=("landlock",))
    assert "landlock: as tested" not in str(caught.value)


def test_what_is_accepted_and_there_is_not_called_missing(monkeypatch):
    machine, said = check(monkeypatch, accept=("landlock",))
    assert machine.accepted == ()
    assert "none missing" in said


def test_optional_layers_stop_nothing(monkeypatch):
    machine, _ = check(monkeypatch, off=OPTIONAL)
    assert machine.accepted == ()


def test_a_name_that_is_no_layer_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="'lanlock', which is no layer"):
        check(monkeypatch, accept=("lanlock",))


def test_each_prefix_has_cgroups_of_its_own():
    names = {boot.cgroup_root(load(prefix)) for prefix in (None, "/tmp/a", "/tmp/b")}
    assert len(names) == 3
    assert boot.cgroup_root(load("/tmp/a")) == boot.cgroup_root(load("/tmp//a/."))
