from .access import Access as Access
from .app import body_limit as body_limit
from .app import make_app as make_app
from .hub import EventHub as EventHub
from .hub import LivePictures as LivePictures
from .ports import Commands as Commands
from .ports import WebParts as WebParts
