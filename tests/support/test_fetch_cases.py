"""Real cases are brought whole and right, or not at all, and a test without its case says so."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from node.modelstore.download import Download
from node.modelstore.pull import WeightsSource
from tests.support.cases import CaseFile, Cases, Source, lay_packaged, manifest, roots, sources
from tests.support.fetch_cases import Fetch, NothingShown, fetch, main
from tests.support.file_server import Files, serving_files

CONTENT = bytes(range(256)) * 2000
PLACE = "/raw/image.dcm"


def case_file(source: Source, content: bytes = CONTENT, place: str = "image.dcm") -> CaseFile:
    return CaseFile(
        path=f"data/one/{place}",
        source=source,
        place=place,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def public(files: Files) -> Source:
    return Source(title="A publisher", licence="CC BY 4.0", url=f"{files.url}/raw")


@dataclass
class Told:
    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)


def fetching(root: Path, mirror: WeightsSource | None = None) -> Fetch:
    calm = Download(session=requests.Session(), progress=NothingShown(), wait=lambda _: None)
    return Fetch(root=root, mirror=mirror, download=calm)


def test_a_file_comes_from_its_publisher_and_its_licence_is_told(tmp_path: Path) -> None:
    told = Told()
    with serving_files(Files(contents={PLACE: CONTENT})) as files:
        failed = fetch(fetching(tmp_path), [case_file(public(files))], told)

    assert failed == 0
    assert (tmp_path / "data/one/image.dcm").read_bytes() == CONTENT
    assert any("CC BY 4.0" in line for line in told.lines)


def test_what_broke_off_goes_on(tmp_path: Path) -> None:
    with serving_files(Files(contents={PLACE: CONTENT}, cuts=[1 << 18])) as files:
        failed = fetch(fetching(tmp_path), [case_file(public(files))], Told())

    assert failed == 0
    assert [asked[1] for asked in files.asked] == ["", f"bytes={1 << 18}-"]
    assert (tmp_path / "data/one/image.dcm").read_bytes() == CONTENT


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    told = Told()
    with serving_files(Files(contents={PLACE: CONTENT[::-1]})) as files:
        failed = fetch(fetching(tmp_path), [case_file(public(files))], told)

    assert failed == 1
    assert not (tmp_path / "data/one/image.dcm").exists()
    assert any("data/one/image.dcm" in line and "SHA-256" in line for line in told.lines)


def test_a_good_file_is_not_asked_for_and_a_spoilt_one_is_mended(tmp_path: Path) -> None:
    other = "/raw/other.dcm"
    with serving_files(Files(contents={PLACE: CONTENT, other: CONTENT})) as files:
        both = [case_file(public(files)), case_file(public(files), place="other.dcm")]
        fetch(fetching(tmp_path), both, Told())
        (tmp_path / "data/one/other.dcm").write_bytes(CONTENT[::-1])
        files.asked.clear()

        failed = fetch(fetching(tmp_path), both, Told())

    assert failed == 0
    assert [asked[0] for asked in files.asked] == [other]
    assert (tmp_path / "data/one/other.dcm").read_bytes() == CONTENT


def test_one_that_is_not_to_be_had_does_not_keep_the_others_back(tmp_path: Path) -> None:
    with serving_files(Files(contents={PLACE: CONTENT})) as files:
        wanted = [case_file(public(files), place="gone.dcm"), case_file(public(files))]
        failed = fetch(fetching(tmp_path), wanted, Told())

    assert failed == 1
    assert (tmp_path / "data/one/image.dcm").is_file()


def test_members_of_an_archive_come_out_of_one_download(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/1.dcm", CONTENT)
        archive.writestr("in/2.dcm", CONTENT[::-1])
    with serving_files(Files(contents={"/all.zip": packed.getvalue()})) as files:
        source = Source(title="Packed", licence="MIT", archive=f"{files.url}/all.zip")
        wanted = [
            case_file(source, place="in/1.dcm"),
            case_file(source, CONTENT[::-1], place="in/2.dcm"),
        ]
        failed = fetch(fetching(tmp_path), wanted, Told())

    assert failed == 0
    assert len(files.asked) == 1
    assert (tmp_path / "data/one/in/2.dcm").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_mirror_has_even_what_nobody_publishes(tmp_path: Path, kind: str) -> None:
    private = case_file(Source(title="Derived", licence="CC BY 3.0"))
    (tmp_path / "mirror/data/one").mkdir(parents=True)
    (tmp_path / "mirror/data/one/image.dcm").write_bytes(CONTENT)
    contents = {f"/m/{private.path}": CONTENT}
    with serving_files(Files(contents=contents)) as files:
        place = {"folder": (tmp_path / "mirror").as_uri(), "http": f"{files.url}/m"}[kind]
        mirror = WeightsSource.parse(place, "--mirror")

        failed = fetch(fetching(tmp_path / "here", mirror), [private], Told())

    assert failed == 0
    assert (tmp_path / "here/data/one/image.dcm").read_bytes() == CONTENT


def test_what_nobody_publishes_is_named_and_no_failure(tmp_path: Path) -> None:
    told = Told()

    failed = fetch(fetching(tmp_path), [case_file(Source(title="Derived", licence="MIT"))], told)

    assert failed == 0
    assert any("only a mirror has them: Derived" in line for line in told.lines)


def test_a_mirror_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = Told()

    status = main(["--into", str(tmp_path), "--mirror", f"file://{tmp_path}/none"], told)

    assert status == 2
    assert "--mirror" in told.lines[-1]


def test_what_pydicom_carries_is_laid_without_a_network(tmp_path: Path) -> None:
    lay_packaged(tmp_path)

    cases = Cases("data", (tmp_path,))
    names = ("charsets", "ct_tiny_series", "dicomdir_tiny_alpha", "mr_small_transfer_syntaxes")
    assert [name for name in names if cases.find(name) is None] == []


def test_a_test_whose_case_is_not_whole_is_skipped_with_the_way_to_get_it(tmp_path: Path) -> None:
    lay_packaged(tmp_path)

    with pytest.raises(pytest.skip.Exception, match="make test-data"):
        Cases("data", (tmp_path,)) / "broken_files"  # two of its files come from elsewhere


def test_a_case_that_is_not_listed_is_a_mistake_and_no_skip(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no_such_case"):
        Cases("data", (tmp_path,)) / "no_such_case"


def test_the_list_is_one_of_files_whose_source_is_told() -> None:
    paths = [file.path for file in manifest()]

    assert len(paths) == len(set(paths))
    assert all(source.licence and source.title for source in sources().values())
    assert {file.source for file in manifest()} == set(sources().values())
    assert all(bool(file.place) == file.source.is_public for file in manifest())


def test_the_list_says_what_lies_here() -> None:
    here = [
        (file, (root / file.path).read_bytes())
        for file in manifest()
        for root in roots()
        if file.is_at(root)
    ]

    assert [file.path for file, content in here if not file.is_these(content)] == []
