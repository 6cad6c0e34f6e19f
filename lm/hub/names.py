"""A name of Hugging Face's hub in place of a folder: what lies there, on this machine."""

import re
from pathlib import Path
from typing import NamedTuple

from lm.config import UserError


class Downloaded(NamedTuple):
    """A folder of the cache, and which commit of the name it is."""

    folder: Path
    revision: str


_NEEDED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.npz")


def is_name(text: str) -> bool:
    """Whether a text may be a name on the hub, and no folder.

    >>> is_name("openai-community/gpt2"), is_name("./gpt2"), is_name("runs/a/b")
    (True, False, False)
    """
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text) is not None


def download(name: str, *, revision: str | None = None) -> Downloaded:
    """The files of a name, from the cache or the hub (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`).

    Raises UserError in one line where there is no such name, no right to it, or no way to it.
    """
    # A second, for which nobody who gives a folder need wait.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=list(_NEEDED))
    except GatedRepoError:
        why = "is gated: accept its terms on its page, and set HF_TOKEN to a token of yours"
    except RepositoryNotFoundError:
        why = "is no folder here, and no model on the hub, or a private one: set HF_TOKEN"
    except RevisionNotFoundError:
        why = f"has no revision {revision}"
    except HFValidationError as error:
        why = f"is no folder here, and no name: {error}"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        why = (
            "is no folder here, not in the cache, and the hub cannot be reached: check the"
            " network and HF_HUB_OFFLINE"
        )
    except (HfHubHTTPError, OSError) as error:
        why = f"could not be fetched: {str(error).splitlines()[0]}"
    else:
        return Downloaded(Path(folder), Path(folder).name)
    raise UserError(f"{name}: {why}")
