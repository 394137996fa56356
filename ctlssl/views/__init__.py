"""Three ways to run one system: stepwise, by convolution, by an ODE solver; functions of one signature."""

from ctlssl.views.convolution import convolution
from ctlssl.views.integration import Integration, integration
from ctlssl.views.recurrence import recurrence
from ctlssl.views.response import Response, State

__all__ = ["Integration", "Response", "State", "convolution", "integration", "recurrence"]
