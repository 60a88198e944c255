"""Pulling: every file is the right one, whole, from the one place that was named."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from node.domain.errors import ConfigInvalid, JobFailed, NodeError
from node.infer.assets import Asset, check_assets
from node.modelstore.download import Download
from node.modelstore.pull import WeightsSource, licence_sentences, pull
from tests.support.file_server import Files, serving_files

WEIGHTS = bytes(range(256)) * 4000  # about a megabyte
CUT = 1 << 18
RECIPE = b'{"network": 1}'


@dataclass(frozen=True)
class Model:
    name: str
    files: tuple[Asset, ...] = ()
    weights: tuple[Asset, ...] = ()


@dataclass
class Told:
    """What the pull said of its progress."""

    places: list[str] = field(default_factory=list)
    begun: list[tuple[int, int | None]] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    bytes_came: int = 0

    def starts(self, asset: Asset, place: str) -> None:
        self.places.append(place)

    def begin(self, done_bytes: int, total_bytes: int | None) -> None:
        self.begun.append((done_bytes, total_bytes))

    def advance(self, count_bytes: int) -> None:
        self.bytes_came += count_bytes

    def ends(self, asset: Asset, *, was_there: bool) -> None:
        (self.there if was_there else self.fetched).append(asset.path)


@dataclass
class Machine:
    """The weights_dir of a machine, and pulls on it that wait for nothing."""

    weights_dir: Path
    waited_s: list[float] = field(default_factory=list)

    def pull(self, model: Model, origin: WeightsSource | None = None) -> Told:
        told = Told()
        with requests.Session() as session:
            session.trust_env = False
            download = Download(session=session, progress=told, wait=self.waited_s.append)
            pull(model, self.weights_dir, origin or WeightsSource(), download, told)
        return told

    def has(self, model: Model, path: str) -> bytes:
        return (self.weights_dir / model.name / path).read_bytes()

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.weights_dir.rglob("*.part*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "weights")


@pytest.fixture
def site() -> Iterator[Files]:
    with serving_files(Files({"/zoo/recipe.json": RECIPE, "/big/net_v1.pt": WEIGHTS})) as files:
        yield files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def model_at(url: str, **hashes: str) -> Model:
    """A model with one file and one of weights; the weights' hashes are told or not."""
    return Model(
        "net",
        files=(
            Asset(path="configs/recipe.json", url=f"{url}/zoo/recipe.json", sha256=sha256(RECIPE)),
        ),
        weights=(
            Asset(path="models/model.pt", url=f"{url}/big/net_v1.pt", licence="MIT", **hashes),
        ),
    )


@pytest.fixture
def model(site: Files) -> Model:
    return model_at(site.url, sha256=sha256(WEIGHTS))


@pytest.fixture
def unhashed(site: Files) -> Model:
    return model_at(site.url)


def test_files_come_whole_and_pass_the_check_of_a_run(machine: Machine, model: Model) -> None:
    told = machine.pull(model)

    assert machine.has(model, "models/model.pt") == WEIGHTS
    assert machine.has(model, "configs/recipe.json") == RECIPE
    assert check_assets(model, machine.weights_dir).keys() == {
        "configs/recipe.json",
        "models/model.pt",
    }
    assert told.begun == [(0, len(RECIPE)), (0, len(WEIGHTS))]
    assert told.bytes_came == len(RECIPE) + len(WEIGHTS)
    assert machine.leftovers() == []


@pytest.mark.parametrize("hashes", [{"md5": md5(WEIGHTS)}, {}], ids=["md5", "no hash"])
def test_what_was_seen_is_recorded_where_no_sha256_is_declared(
    machine: Machine, site: Files, hashes: dict[str, str]
) -> None:
    model = model_at(site.url, **hashes)
    machine.pull(model)

    record = json.loads(machine.has(model, "pulled.json"))["models/model.pt"]

    assert record["sha256"] == sha256(WEIGHTS)
    assert record["source"] == f"{site.url}/big/net_v1.pt"
    assert record["at"].endswith("+00:00")
    check_assets(model, machine.weights_dir)
    (machine.weights_dir / "net/models/model.pt").write_bytes(b"another")
    with pytest.raises(JobFailed, match="is not the file with the hash"):
        check_assets(model, machine.weights_dir)


def test_a_record_does_not_speak_for_another_edition(machine: Machine, site: Files) -> None:
    machine.pull(model_at(site.url, md5=md5(WEIGHTS)))
    newer = model_at(site.url, md5=md5(b"newer"))

    with pytest.raises(JobFailed, match="was not brought by segnode models pull"):
        check_assets(newer, machine.weights_dir)

    site.contents["/big/net_v1.pt"] = b"newer"
    assert machine.pull(newer).fetched == ["models/model.pt"]
    check_assets(newer, machine.weights_dir)


def test_good_files_are_not_fetched_again_and_wrong_ones_are(
    machine: Machine, model: Model, site: Files
) -> None:
    machine.pull(model)
    asked = len(site.asked)

    again = machine.pull(model)

    assert len(site.asked) == asked
    assert again.there == ["configs/recipe.json", "models/model.pt"]
    (machine.weights_dir / "net/models/model.pt").write_bytes(WEIGHTS[:-1])
    assert machine.pull(model).fetched == ["models/model.pt"]
    assert machine.has(model, "models/model.pt") == WEIGHTS


def test_a_file_put_there_by_hand_is_taken_where_its_md5_is_known(
    machine: Machine, site: Files
) -> None:
    model = model_at(site.url, md5=md5(WEIGHTS))
    path = machine.weights_dir / "net/models/model.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)

    told = machine.pull(model)

    assert told.fetched == ["configs/recipe.json"]
    check_assets(model, machine.weights_dir)


def test_a_file_put_there_by_hand_is_fetched_anew_where_nothing_is_known(
    machine: Machine, unhashed: Model
) -> None:
    path = machine.weights_dir / "net/models/model.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"whatever")

    machine.pull(unhashed)

    assert path.read_bytes() == WEIGHTS


def test_a_line_that_is_cut_is_gone_on_with(machine: Machine, model: Model, site: Files) -> None:
    site.cuts = [len(RECIPE), CUT, CUT]

    told = machine.pull(model)

    ranges = [asked[1] for asked in site.asked if asked[0] == "/big/net_v1.pt"]
    assert ranges == ["", "bytes=262144-", "bytes=524288-"]
    assert told.bytes_came == len(RECIPE) + len(WEIGHTS)
    assert machine.waited_s == [1.0, 2.0]
    assert machine.has(model, "models/model.pt") == WEIGHTS


def test_a_pull_that_failed_is_gone_on_with_by_the_next(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    site.cuts = [len(RECIPE), CUT, 0, 0, 0, 0]
    with pytest.raises(NodeError, match="broke off 5 times; what came is kept"):
        machine.pull(unhashed)
    assert not (machine.weights_dir / "net/models/model.pt").exists()

    told = machine.pull(unhashed)

    assert site.asked[-1] == ("/big/net_v1.pt", "bytes=262144-", '"one"')
    assert told.begun == [(CUT, len(WEIGHTS))]
    assert machine.has(unhashed, "models/model.pt") == WEIGHTS
    assert machine.leftovers() == []


def test_a_file_that_changed_meanwhile_is_fetched_from_its_first_byte(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    site.cuts = [len(RECIPE), CUT, 0, 0, 0, 0]
    with pytest.raises(NodeError):
        machine.pull(unhashed)
    site.contents["/big/net_v1.pt"] = newer = b"newer" * 100_000
    site.etag = '"two"'

    machine.pull(unhashed)

    assert machine.has(unhashed, "models/model.pt") == newer


def test_without_an_etag_only_a_file_with_a_hash_is_gone_on_with(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    site.etag = ""
    site.cuts = [len(RECIPE), CUT]

    machine.pull(unhashed)

    assert [asked[1] for asked in site.asked] == ["", "", ""]
    assert machine.has(unhashed, "models/model.pt") == WEIGHTS


def test_a_part_of_another_state_is_thrown_away_once_its_hash_is_wrong(
    machine: Machine, model: Model, site: Files
) -> None:
    site.etag = ""
    site.contents["/big/net_v1.pt"] = b"x" * len(WEIGHTS)
    site.cuts = [len(RECIPE), CUT, 0, 0, 0, 0]
    with pytest.raises(NodeError, match="broke off"):
        machine.pull(model)
    site.contents["/big/net_v1.pt"] = WEIGHTS

    machine.pull(model)

    assert machine.has(model, "models/model.pt") == WEIGHTS


def test_a_server_without_ranges_starts_anew(machine: Machine, model: Model, site: Files) -> None:
    site.has_ranges = False
    site.cuts = [len(RECIPE), CUT]

    machine.pull(model)

    assert site.asked[-1][1] == "bytes=262144-"
    assert machine.has(model, "models/model.pt") == WEIGHTS


def test_a_server_that_gives_less_than_was_asked_for_is_asked_for_the_rest(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    site.cuts = [len(RECIPE), CUT]
    site.most_of_a_range = 400_000

    machine.pull(unhashed)

    assert site.asked[-1][1] == f"bytes={CUT + 400_000}-"
    assert machine.has(unhashed, "models/model.pt") == WEIGHTS


def test_a_rest_that_begins_elsewhere_is_not_joined(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    site.cuts = [len(RECIPE), CUT]
    site.rounds_down_to = 100_000

    machine.pull(unhashed)

    assert machine.has(unhashed, "models/model.pt") == WEIGHTS


def test_a_part_longer_than_the_file_is_thrown_away(
    machine: Machine, model: Model, site: Files
) -> None:
    site.etag = ""
    site.cuts = [len(RECIPE), CUT, 0, 0, 0, 0]
    with pytest.raises(NodeError):
        machine.pull(model)
    (machine.weights_dir / "net/models/model.pt.part").write_bytes(WEIGHTS + b"more")

    machine.pull(model)

    assert site.asked[-1][1] == ""
    assert machine.waited_s[-1] == 1.0
    assert machine.has(model, "models/model.pt") == WEIGHTS


def test_a_part_that_was_whole_already_is_only_checked(
    machine: Machine, model: Model, site: Files
) -> None:
    site.cuts = [len(RECIPE), CUT, 0, 0, 0, 0]
    with pytest.raises(NodeError):
        machine.pull(model)
    part = machine.weights_dir / "net/models/model.pt.part"
    part.write_bytes(WEIGHTS)

    told = machine.pull(model)

    assert told.bytes_came == 0
    assert machine.has(model, "models/model.pt") == WEIGHTS


@pytest.mark.parametrize("hashes", [{"sha256": sha256(b"else")}, {"md5": md5(b"else")}])
def test_a_wrong_file_is_not_kept(machine: Machine, site: Files, hashes: dict[str, str]) -> None:
    model = model_at(site.url, **hashes)

    with pytest.raises(
        NodeError, match=r"net_v1.pt is not the file that the model names: its (sha256|md5)"
    ):
        machine.pull(model)

    assert not (machine.weights_dir / "net/models/model.pt").exists()
    assert machine.leftovers() == []


def test_a_wrong_file_does_not_replace_what_was_there(
    machine: Machine, model: Model, site: Files
) -> None:
    machine.pull(model)
    path = machine.weights_dir / "net/models/model.pt"
    path.write_bytes(b"damaged")
    site.contents["/big/net_v1.pt"] = b"wrong"

    with pytest.raises(NodeError):
        machine.pull(model)

    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "is not there"), (403, "is refused"), (401, "is refused")],
)
def test_a_refusal_is_told_with_its_status(
    machine: Machine, model: Model, site: Files, status: int, sentence: str
) -> None:
    site.refusals = [status]

    with pytest.raises(NodeError, match=rf"recipe.json {sentence} \(HTTP {status}\)"):
        machine.pull(model)

    assert machine.waited_s == []


def test_a_server_that_is_busy_is_asked_again(machine: Machine, model: Model, site: Files) -> None:
    site.refusals = [503, 429]

    machine.pull(model)

    assert machine.waited_s == [1.0, 2.0]


def test_a_host_that_is_not_there_is_told_at_once(machine: Machine) -> None:
    with pytest.raises(NodeError, match="cannot be reached from here; --from and weights_mirror"):
        machine.pull(model_at("http://127.0.0.1:1"))

    assert machine.waited_s == []


def test_a_web_page_is_no_file(machine: Machine, unhashed: Model, site: Files) -> None:
    site.content_type = "text/html; charset=utf-8"

    with pytest.raises(NodeError, match="answers with a web page"):
        machine.pull(unhashed)


def test_a_pointer_is_no_file(machine: Machine, unhashed: Model, site: Files) -> None:
    site.contents["/big/net_v1.pt"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"

    with pytest.raises(NodeError, match="it is a pointer of Git LFS"):
        machine.pull(unhashed)


def test_a_file_of_which_nothing_is_known_is_not_taken(
    machine: Machine, unhashed: Model, site: Files
) -> None:
    machine.pull(model_at(site.url, sha256=sha256(WEIGHTS)))
    shutil.rmtree(machine.weights_dir / "net/models")
    site.tells_length = False

    with pytest.raises(NodeError, match="nothing would say that the file is whole"):
        machine.pull(unhashed)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    machine: Machine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(machine.weights_dir.parent)._replace(free=50_500_000)
    monkeypatch.setattr("node.modelstore.download.shutil.disk_usage", lambda _: usage)

    with pytest.raises(NodeError, match="1 MB more are needed and 50 MB are free in weights_dir"):
        machine.pull(model)

    assert not (machine.weights_dir / "net/models/model.pt.part").exists()


def test_secrets_in_a_url_stay_out_of_messages_and_records(
    machine: Machine, model: Model, site: Files
) -> None:
    site.contents = {"/m/net/configs/recipe.json": RECIPE, "/m/net/models/model.pt": WEIGHTS}
    base = site.url.replace("http://", "http://anna:geheim@") + "/m"

    machine.pull(model, WeightsSource.parse(base, "--from"))

    assert set(site.authorizations) == {"Basic YW5uYTpnZWhlaW0="}
    assert b"geheim" not in machine.has(model, "pulled.json")
    site.contents.clear()
    shutil.rmtree(machine.weights_dir)
    with pytest.raises(NodeError) as failure:
        machine.pull(model, WeightsSource.parse(base, "--from"))
    assert "geheim" not in str(failure.value)


def test_a_redirect_is_followed_and_the_publisher_is_recorded(
    machine: Machine, model: Model, site: Files
) -> None:
    site.redirects["/big/net_v1.pt"] = f"{site.url}/cdn/signed?token=geheim"
    site.contents["/cdn/signed"] = WEIGHTS

    machine.pull(model)

    record = machine.has(model, "pulled.json")
    assert b"geheim" not in record
    assert b"/big/net_v1.pt" in record


@pytest.mark.parametrize("layout", ["net/{path}", "{path}", "url"])
def test_a_folder_serves_in_any_layout(machine: Machine, tmp_path: Path, layout: str) -> None:
    model = model_at("http://127.0.0.1:1", md5=md5(WEIGHTS))
    for asset, content in zip((*model.files, *model.weights), (RECIPE, WEIGHTS), strict=True):
        place = Path(asset.url).name if layout == "url" else layout.format(path=asset.path)
        path = tmp_path / "given" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    machine.pull(model, WeightsSource.parse(str(tmp_path / "given"), "--from"))

    assert machine.has(model, "models/model.pt") == WEIGHTS
    check_assets(model, machine.weights_dir)


def test_the_weights_folder_of_one_machine_serves_another_as_file_url(
    machine: Machine, model: Model, site: Files, tmp_path: Path
) -> None:
    machine.pull(model)
    site.contents.clear()
    other = Machine(tmp_path / "other machine")

    other.pull(model, WeightsSource.parse(machine.weights_dir.as_uri(), "--from"))

    assert other.has(model, "models/model.pt") == WEIGHTS


def test_a_name_alone_never_decides(machine: Machine, tmp_path: Path, unhashed: Model) -> None:
    (tmp_path / "net_v1.pt").write_bytes(WEIGHTS)
    (tmp_path / "recipe.json").write_bytes(RECIPE)

    with pytest.raises(NodeError, match=r"models/model\.pt of net is not there: neither"):
        machine.pull(unhashed, WeightsSource.parse(str(tmp_path), "--from"))


def test_a_mirror_is_the_only_place_that_is_asked(
    machine: Machine, model: Model, site: Files
) -> None:
    with serving_files(Files({"/net/configs/recipe.json": RECIPE})) as mirror:
        with pytest.raises(NodeError, match=r"models/model\.pt of net is not there"):
            machine.pull(model, WeightsSource.parse(mirror.url, "weights_mirror"))

        assert [asked[0] for asked in mirror.asked][1:] == [
            "/net/models/model.pt",
            "/models/model.pt",
        ]
    assert site.asked == []


def test_a_url_of_a_model_may_be_a_local_file(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "own weights.pt").write_bytes(WEIGHTS)
    asset = Asset(
        path="model.pt", url=(tmp_path / "own weights.pt").as_uri(), sha256=sha256(WEIGHTS)
    )
    model = Model("own", weights=(asset,))

    machine.pull(model)

    assert machine.has(model, "model.pt") == WEIGHTS


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("ftp://host/models", "ftp:// is not known"), ("/no/such/folder", "is not a folder")],
)
def test_a_source_that_is_none_is_refused(given: str, sentence: str) -> None:
    with pytest.raises(ConfigInvalid, match=sentence):
        WeightsSource.parse(given, "--from")


def test_two_pulls_of_one_model_do_not_meet(machine: Machine, model: Model) -> None:
    (machine.weights_dir / "net").mkdir(parents=True)

    with (machine.weights_dir / "net/.pull.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NodeError, match="another pull of net is under way"):
            machine.pull(model)


def test_licences_are_told_and_what_they_ask_for() -> None:
    def weights(path: str, licence: str, *, commercial_use: bool) -> Asset:
        return Asset(path=path, url="x", licence=licence, commercial_use=commercial_use)

    model = Model(
        "net",
        weights=(
            weights("a", "MIT", commercial_use=True),
            weights("b", "NC", commercial_use=False),
        ),
    )

    free, locked = licence_sentences(model, [])

    assert free == "licence of the weights: MIT"
    assert "accept_licences in the configuration names 'NC'" in locked
    assert list(licence_sentences(model, ["NC"]))[1].endswith("no commercial use; accepted here")
