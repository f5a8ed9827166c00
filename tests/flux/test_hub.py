"""Where a pipeline is found, and what is said when it isn't."""

from __future__ import annotations

from unittest import mock

import huggingface_hub
import pytest
from huggingface_hub import errors

from ea_jax.flux import hub


def response(code):
    return mock.MagicMock(status_code=code, headers={})


def caused(error, code):
    """As `snapshot_download` raises it: the hub's own answer is the cause."""
    error.__cause__ = errors.HfHubHTTPError(str(code), response=response(code))
    return error


def test_a_folder_is_itself(tmp_path):
    assert hub.locate(tmp_path, ["*"]) == tmp_path


def test_flux_tiny_is_in_the_package():
    assert hub.locate("flux-tiny", ["*"]).parts[-3:] == ("ea_jax", "assets", "flux-tiny")


def test_a_hub_id_is_downloaded_with_the_patterns_asked_for(monkeypatch, tmp_path):
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.locate("owner/name", ["vae/*"], "v1") == tmp_path
    assert asked == {"name": "owner/name", "revision": "v1", "allow_patterns": ["vae/*"]}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            lambda: errors.GatedRepoError("401", response=response(401)),
            "owner/name is gated: accept its licence at https://huggingface.co/owner/name, then "
            "run 'hf auth login' or set HF_TOKEN",
        ),
        (
            lambda: errors.RepositoryNotFoundError("404", response=response(404)),
            "neither a folder here nor a repository",
        ),
        (
            lambda: errors.RevisionNotFoundError("404", response=response(404)),
            "owner/name has no revision 'v1'",
        ),
        (lambda: errors.LocalEntryNotFoundError("offline"), "the hub can't be reached"),
        (lambda: errors.OfflineModeIsEnabled("offline"), "run 'hf download owner/name'"),
        (lambda: ConnectionError("unreachable"), "the hub can't be reached"),
        (lambda: errors.HfHubHTTPError("500", response=response(500)), "the hub can't be reached"),
        (
            lambda: RuntimeError("reset by peer\nat line 3"),
            "owner/name was not downloaded (RuntimeError: reset by peer); start again",
        ),
        (
            lambda: PermissionError(13, "Permission denied", "/cache"),
            "owner/name was not downloaded (PermissionError: [Errno 13] Permission denied: '/cach",
        ),
        (
            lambda: errors.HfHubHTTPError("403", response=response(403)),
            "refuses this account's token for owner/name",
        ),
        (lambda: OSError(28, "No space left on device"), "the disk is full"),
        (
            lambda: RuntimeError("IO Error: No space left on device (os error 28)"),
            "the disk is full; free some space, or set HF_HOME",
        ),
        (
            lambda: caused(errors.LocalEntryNotFoundError("Got: 403\nAn error happened"), 403),
            "refuses this account's token for owner/name",
        ),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(monkeypatch, error, said):
    def refuse(*args, **options):
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match="owner/name") as caught:
        hub.locate("owner/name", ["*"], "v1")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["./absent", "/absent/folder", "absent", "a/b/c", "a/"])
def test_what_is_neither_folder_nor_hub_id_is_named(source):
    with pytest.raises(ValueError, match="is no folder here; give the folder of a FLUX"):
        hub.locate(source, ["*"])


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_model_is_not_the_folder_one_stands_in(name):
    with pytest.raises(ValueError, match="the model is empty; give a folder"):
        hub.locate(name, [])


def test_a_file_is_no_pipeline(tmp_path):
    path = tmp_path / "flux1-dev.safetensors"
    path.touch()
    with pytest.raises(ValueError, match=r"flux1-dev\.safetensors is a file; give the folder"):
        hub.locate(path, [])


def test_the_home_of_nobody_is_no_folder():
    with pytest.raises(ValueError, match="is no folder here"):
        hub.locate("~nobody-of-this-name/FLUX", [])
