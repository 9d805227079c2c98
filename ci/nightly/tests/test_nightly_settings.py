"""The settings and manifests of the nightly job."""

from pathlib import Path

import pytest
import yaml
from nightly.settings import BadSettings, read_settings

FOLDER = Path(__file__).parents[1]


def written(folder: Path, text: str) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(text)
    return path


ONE = "comparisons: [{name: a, strategy: DEFAULT, load: ''}]\n"


@pytest.mark.parametrize("folder", ["manifests", "kind"])
def test_the_settings_of_each_folder_are_valid_and_compare_both_strategies(folder: str) -> None:
    settings = read_settings(FOLDER / folder / "nightly.yaml")
    assert [comparison.strategy for comparison in settings.comparisons] == ["DEFAULT", "PREFIX_CACHE"]


@pytest.mark.parametrize("folder", ["manifests", "kind"])
def test_files_of_the_settings_are_mounted_or_in_the_image(folder: str) -> None:
    settings = read_settings(FOLDER / folder / "nightly.yaml")
    job = yaml.safe_load((FOLDER / "manifests" / "cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.keep in mounted
    chart = FOLDER.parents[1] / "charts" / "inference-gateway"
    for file in (*settings.values, *settings.objects):
        within = file.removeprefix("/charts/inference-gateway/")
        assert (chart / within).exists() if within != file else (FOLDER / folder / Path(file).name).exists()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("comparisons: []\n", "comparisons"),
        (ONE + "round: 3\n", "round"),
        (ONE + "rounds: 0\n", "rounds"),
        (ONE + "namespace: Night\n", "namespace"),
        (ONE + "bucket: /tmp\n", "bucket"),
        ("comparisons: [{name: a, strategy: FASTEST, load: ''}]\n", "strategy"),
        ("comparisons: [{name: ../a, strategy: DEFAULT, load: ''}]\n", "name"),
    ],
)
def test_an_invalid_setting_is_rejected_by_its_name(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(BadSettings, match=field):
        read_settings(written(tmp_path, text))


def test_a_missing_file_is_reported_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"nothing\.yaml"):
        read_settings(tmp_path / "nothing.yaml")
