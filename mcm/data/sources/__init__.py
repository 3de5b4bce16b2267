"""The sources of images, by the name that `params.yaml` gives them. A new one is a file here, a row here and its name
in `mcm.data.config.SourceName`."""

from collections.abc import Callable

from mcm.data.config import DataConfig
from mcm.data.sources.archive import archive
from mcm.data.sources.emoji import emoji
from mcm.data.sources.emoji_large import emoji_large
from mcm.data.sources.fashion_mnist import fashion_mnist
from mcm.data.sources.folder import folder
from mcm.data.sources.record import Listing
from mcm.data.sources.torchvision import torchvision

SOURCES: dict[str, Callable[[DataConfig], Listing]] = {
    "folder": folder,
    "archive": archive,
    "torchvision": torchvision,
    "emoji": emoji,
    "emoji_large": emoji_large,
    "fashion_mnist": fashion_mnist,
}
