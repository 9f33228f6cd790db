"""The planted faults, in a file for each part of the layers."""

from .applications import APPLICATIONS
from .elsewhere import ELSEWHERE
from .experiments import EXPERIMENTS
from .kernels import KERNELS
from .mathematics import MATHEMATICS
from .package import PACKAGE

FAULTS = (*MATHEMATICS, *KERNELS, *PACKAGE, *ELSEWHERE, *APPLICATIONS, *EXPERIMENTS)
