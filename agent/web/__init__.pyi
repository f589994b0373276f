from .access import Access as Access
from .app import body_limit as body_limit
from .app import make_app as make_app
from .ports import Commands as Commands
from .ports import Events as Events
from .ports import Live as Live
from .ports import WebParts as WebParts
