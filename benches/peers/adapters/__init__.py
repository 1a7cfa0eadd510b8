"""Every module here that defines a class with a `name` is a supervisor. load("s6") or load_all()."""
import importlib, os, sys
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from pb.core import Adapter

def load(name):
    m = importlib.import_module("adapters." + name.replace("-", "_"))
    return next(v for v in vars(m).values() if isinstance(v, type) and issubclass(v, Adapter) and v is not Adapter and v.name == name)

ORDER = ["raw", "unisys", "s6", "runit", "systemd", "horust", "zinit", "pitchfork", "supervisor", "circus", "pm2", "honcho"]
