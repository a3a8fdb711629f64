"""The benchmark of merges measures one."""

from benchmarks.merge import main


def test_a_merge_is_measured_and_deleted_again(tmp_path, capsys):
    found = main(["--model", "tiny", "--scratch", str(tmp_path)])
    assert 0.9 < found["kept_share"] <= 1.001
    assert found["written_gb"] > 0
    assert found["seconds"] > 0
    assert "kept_share" in capsys.readouterr().out
    assert not (tmp_path / "merged").exists()
    again = main(["--model", "tiny", "--scratch", str(tmp_path)])
    assert again["kept_share"] == found["kept_share"]
