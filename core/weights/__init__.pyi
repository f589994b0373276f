from .file import OPENAI_CONSTANTS as OPENAI_CONSTANTS
from .file import check_state as check_state
from .file import read_state_dict as read_state_dict
from .hub import fetch as fetch
from .licences import RANDOM as RANDOM
from .licences import backbone_licence as backbone_licence
from .licences import text_licence as text_licence
from .load import load_weights as load_weights
