"""The programs that are compared, one module each."""

from .aria2 import Aria2
from .base import Fetch, Offer, Program, Provider, Run, Tools
from .dhtfs import Dhtfs, DhtfsDaemon
from .http import Http
from .libtorrent import Libtorrent
from .rqbit import Rqbit
from .sendme import Sendme

ALL: tuple[type[Program], ...] = (Http, Dhtfs, DhtfsDaemon, Rqbit, Sendme, Libtorrent, Aria2)

__all__ = ["ALL", "Fetch", "Offer", "Program", "Provider", "Run", "Tools"]
