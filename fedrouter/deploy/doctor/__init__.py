"""`fedrouter deploy doctor`: is this machine ready for the first round?"""

from fedrouter.deploy.doctor.examine import examine
from fedrouter.deploy.doctor.finding import Finding

__all__ = ["Finding", "examine"]
