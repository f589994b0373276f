from pathlib import Path

import pytest
from profile_maker import make_profile

from zsad_agent.cli.main import main
from zsad_agent.teaching import ProfileStore
from zsad_core.data import scan_dataset


def test_profiles_export_writes_a_data_set_that_training_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ProfileStore(tmp_path / "profiles").add(make_profile("nut", goods=6))
    place = ["--profiles", str(tmp_path / "profiles"), "--config", "/dev/null"]
    assert main(["profiles", "export", "--dataset", str(tmp_path / "set"), *place]) == 0
    assert f"{tmp_path / 'set'}: 6 pictures" in capsys.readouterr().out
    assert len(scan_dataset(tmp_path / "set")[0]) == 6
    assert main(["profiles", "export", "--dataset", str(tmp_path / "set"), *place]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nut"], ["nut", "a.profile", "--dataset", "set"]])
def test_profiles_export_needs_either_a_product_and_a_file_or_a_folder(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles", "export", *arguments]) == 2
    assert "--dataset" in capsys.readouterr().err
