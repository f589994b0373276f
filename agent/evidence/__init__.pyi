from .files import EvidenceSet as EvidenceSet
from .files import Place as Place
from .pruning import Ledger as Ledger
from .pruning import Pruner as Pruner
from .pruning import SettledClock as SettledClock
from .store import EvidenceStore as EvidenceStore
