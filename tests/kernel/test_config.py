"""Configuration: one table of keys; what is wrong is named with its remedy."""

import pytest

from agentix_kernel.config import KEYS, ConfigError, load


def write(tmp_path, text):
    (tmp_path / "agentd.toml").write_text(text)
    return str(tmp_path)


def test_a_prefix_holds_everything(tmp_path):
    config = load(str(tmp_path))
    assert {config.mount, config.state_dir, config.run_dir} == {
        f"{tmp_path}/agent", f"{tmp_path}/state", f"{tmp_path}/run"}
    assert config.memory_bytes == 512 << 20


def test_every_key_has_a_default_that_passes_its_own_check(tmp_path):
    for key in KEYS:
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        assert key.check(default) == key.default, key.name


@pytest.mark.parametrize(("text", "told"), [
    ("memery_bytes = 1", "nearest known one is 'memory_bytes'"),
    ("qqqqqqqq = 1", r"unknown key 'qqqqqqqq' \(see"),
    ("pids = 'many'", "pids: wants a whole number"),
    ("pids = 1", "from 3"),
    ("mount = 'relative'", "absolute path"),
    ("accept_missing = 'landlock'", "list of texts"),
    ("cgroup = 'v3'", "wants one of auto, v2, hybrid, v1"),
    ("pids = ", "Invalid value"),
    ("pids = true", "whole number"),
])
def test_bad_values_are_named(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load(write(tmp_path, text))
    assert "agentd.toml" in str(caught.value)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(None, f"{tmp_path}/none.toml")


def test_a_prefix_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="107 bytes"):
        load(f"{tmp_path}/{'x' * 120}")
