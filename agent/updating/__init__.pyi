from .download import Download as Download
from .download import DownloadError as DownloadError
from .download import check_url as check_url
from .profiles import InstalledProfiles as InstalledProfiles
from .request import UpdateRequest as UpdateRequest
from .updates import Installer as Installer
from .updates import Updates as Updates
