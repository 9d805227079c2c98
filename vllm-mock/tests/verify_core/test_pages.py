"""Line-by-line comparison of pages."""

import pytest
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.metrics import config_of, first_difference, page_lines

CONFIG = EngineConfig(num_gpu_blocks=512, block_size=32, max_model_len=2048)
START = ServeSettings(max_num_seqs=CONFIG.max_num_seqs)  # pyright: ignore[reportCallIssue]
PAGE = EngineMetrics(CONFIG, "m").engine_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# TYPE vllm:num_requests_running gauge", "# TYPE vllm:num_requests_running counter", ", recorded "),
        ('le="0.04"', 'le="0.05"', ", recorded "),
        ('reason="capacity"', 'reason="queue"', ", recorded "),
        ('running{engine="0",model_name="m"} 0.0', 'running{engine="0",model_name="m"} 1.0', "is 1.0, recorded 0.0"),
        ("vllm:num_preemptions_total{", "vllm:num_preemption_total{", ", recorded "),
    ],
)
def test_a_changed_line_is_a_difference(old: str, new: str, message: str) -> None:
    assert old in PAGE
    difference = first_difference(page_lines(PAGE), page_lines(PAGE.replace(old, new)))
    assert difference is not None
    assert message in difference


def test_missing_and_additional_lines_are_differences() -> None:
    lines = page_lines(PAGE)
    assert "is missing" in (first_difference(lines, lines[:-1]) or "")
    assert "is not recorded" in (first_difference(lines[:-1], lines) or "")


def test_another_order_of_families_is_a_difference() -> None:
    lines = page_lines(PAGE)
    assert first_difference(lines, [*lines[2:4], *lines[:2], *lines[4:]]) is not None


def test_only_times_may_differ() -> None:
    other = EngineMetrics(CONFIG, "m", unix_s=lambda: 5.0)
    other.first_token(1, 0, 3.0)
    assert first_difference(page_lines(PAGE), page_lines(other.engine_text())) is not None
    mine = EngineMetrics(CONFIG, "m")
    mine.first_token(1, 0, 0.001)
    assert first_difference(page_lines(mine.engine_text()), page_lines(other.engine_text())) is None


def test_a_page_contains_the_settings_of_its_server() -> None:
    assert config_of(PAGE, START) == CONFIG
    with pytest.raises(ValueError, match="no vllm:cache_config_info"):
        config_of("# TYPE vllm:x gauge\n", START)
