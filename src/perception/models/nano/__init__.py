"""nano: small dense descriptors, trained from scratch on rendered scenes by `perception-train nano_pretrain`."""

from perception.models.nano.extractor import create_nano
from perception.models.nano.network import NanoConfig, NanoNetwork
from perception.models.nano.weights import read_nano, write_nano

__all__ = ["NanoConfig", "NanoNetwork", "create_nano", "read_nano", "write_nano"]
