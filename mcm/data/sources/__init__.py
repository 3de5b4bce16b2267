"""The sources of images, by the name that `params.yaml` gives them.

A new source is a file here with a function `listing(config)`, a row in `SOURCES`, and its name in
`mcm.data.config.SourceName`.
"""

from collections.abc import Callable

from mcm.data.config import DataConfig
from mcm.data.sources import archive, emoji, emoji_large, fashion_mnist, folder, torchvision
from mcm.data.sources.record import Listing

SOURCES: dict[str, Callable[[DataConfig], Listing]] = {
    "folder": folder.listing,
    "archive": archive.listing,
    "torchvision": torchvision.listing,
    "emoji": emoji.listing,
    "emoji_large": emoji_large.listing,
    "fashion_mnist": fashion_mnist.listing,
}
