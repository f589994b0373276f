"""Files of a model hub: from the cache or downloaded. Offline, an error names the file to download, without a wait."""

from collections.abc import Sequence
from pathlib import Path

from zsad_core.errors import WeightsError

TIMEOUT_S = 5.0  # until the hub's first response; the library's own retries take 30 s


def fetch(
    repository: str,
    filenames: Sequence[str],
    *,
    name_it_with: str,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """The local path of the first of `filenames` that `repository` has.

    Args:
        repository: owner/name on the hub.
        filenames: in order of preference.
        name_it_with: flag or setting with which the user can give a local file; for the error.
        endpoint: the hub's address; None: the setting of huggingface_hub.
        cache_dir: folder of downloaded files; None: the folder of huggingface_hub.

    Raises:
        WeightsError: not in the cache, and the hub does not respond or has no such file.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    for filename in filenames:
        cached = hub.try_to_load_from_cache(repository, filename, cache_dir=cache_dir)
        if isinstance(cached, str):
            return Path(cached)
    urls = {filename: hub.hf_hub_url(repository, filename, endpoint=endpoint) for filename in filenames}
    for filename, url in urls.items():
        try:
            hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
            return Path(hub.hf_hub_download(repository, filename, endpoint=endpoint, cache_dir=cache_dir))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's library and its HTTP client raise different errors
            reason = str(error).partition("\n")[0].rstrip(".")
            raise WeightsError(
                f"{url} cannot be fetched: {type(error).__name__}: {reason}. "
                f"Fetch it elsewhere and name the file with {name_it_with}."
            ) from error
    raise WeightsError(f"the hub's repository {repository} has none of {', '.join(filenames)}")
