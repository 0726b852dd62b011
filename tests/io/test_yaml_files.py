"""Our own YAML: what cannot be read is one line that names file, line and cause."""

from pathlib import Path

import pytest

from vibe_pipeline.io.yaml_files import read_mapping


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a:\n  b: 1\n  c: 2\n\td: 3\n", r"line 4, column \d: tabs are not allowed in YAML; use spaces$"),
        (b"a: 1\n  \tb: 2\n", r"line 2, column \d: tabs are not allowed in YAML; use spaces$"),
        (b"a: 1\nb: [1, 2\n", r"line 3, column 1: expected ',' or ']'"),
        (b"a: 1\na: 2\n", r"line 1, column 1: the key 'a' stands twice$"),
        (b"a: \0\n", r"special characters are not allowed|x0000"),
    ],
)
def test_what_is_not_yaml_is_named_with_line_and_cause(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "claims.yml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"claims\.yml cannot be read as YAML: .*{said}"):
        read_mapping(tmp_path / "claims.yml")


def test_what_is_not_utf8_comes_with_a_command(tmp_path: Path) -> None:
    (tmp_path / "claims.yml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ValueError, match=r"claims\.yml, line 2: byte 0xe9 is not UTF-8; .*`iconv -f WINDOWS-1252"):
        read_mapping(tmp_path / "claims.yml")
